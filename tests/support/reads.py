"""Counts how often the host reads from the device: what it waits for."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

#: What a tensor is asked for as numbers.
_METHODS = {
    "tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__",
}  # fmt: skip
_OPERATORS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero"}


class _Methods(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := getattr(func, "__name__", "")) in _METHODS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := func.overloadpacket.__name__) in _OPERATORS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class Reads:
    """Within its block; ``found``: a name each, by method or, beneath one, by operator."""

    def __init__(self) -> None:
        self._methods, self._operators = _Methods(), _Operators()

    def __enter__(self) -> Reads:
        self._methods.__enter__()
        self._operators.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._operators.__exit__(kind, error, traceback)
        self._methods.__exit__(kind, error, traceback)

    @property
    def found(self) -> list[str]:
        """An item that an operator reads is one read, not two."""
        beneath = [name for name in self._operators.found if name != "_local_scalar_dense"]
        hidden = self._operators.found.count("_local_scalar_dense") - sum(
            name in {"item", "__bool__", "__int__", "__float__", "__index__"}
            for name in self._methods.found
        )
        return [*self._methods.found, *beneath, *["_local_scalar_dense"] * max(hidden, 0)]


def reads_of(work: Any) -> list[str]:
    with Reads() as reads, torch.inference_mode():
        work()
    return reads.found
