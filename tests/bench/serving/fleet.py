"""All systems of a run, each in its process; one works at a time, the others are held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

from tests.bench.serving.driver import closed_loop
from tests.bench.serving.process import Remote
from tests.bench.serving.systems import Spec
from tests.bench.serving.trace import Request

_WARM_SECONDS = 3.0


class Fleet:
    """Starts a system when it is first asked for. ``with`` it: all end with the block."""

    def __init__(self, warm: list[Request], warm_seconds: float = _WARM_SECONDS) -> None:
        self._warm, self._warm_seconds = warm, warm_seconds
        self._running: dict[Spec, Remote] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @contextmanager
    def working(self, spec: Spec) -> Iterator[Remote]:
        """The system, awake. What a first call costs it has paid."""
        if spec in self._running:
            remote = self._running[spec]
            remote.wake()
        else:
            remote = self._stack.enter_context(Remote(spec))
            self._running[spec] = remote
            closed_loop(remote, self._warm, 2, self._warm_seconds)
        yield remote
        remote.rest()
