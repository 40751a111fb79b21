"""The thread on which a client's model runs: of one process, and until the client is closed."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from baton.common.errors import InvalidRequest

T = TypeVar("T")


class ModelThread:
    """Does one piece of work after the other."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="baton-model")
        self._process = os.getpid()
        self._closed = False

    def check(self) -> None:
        """Raises InvalidRequest in a forked child, which has no such thread, and once closed."""
        if os.getpid() != self._process:
            raise InvalidRequest(
                f"this client belongs to process {self._process}, of which {os.getpid()} was"
                " forked: make the client in the child, or start the child by spawn"
            )
        if self._closed:
            raise InvalidRequest("this client is closed: make another")

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Raises what `check` raises."""
        self.check()
        try:
            return self._executor.submit(work)
        except RuntimeError as error:  # closed just now, or the interpreter ends
            raise InvalidRequest("this client is closed: make another") from error

    def close(self, wait: bool = True) -> None:
        """End when all work is done; ``wait`` for that. A forked child has nothing to end."""
        self._closed = True
        if os.getpid() == self._process:
            self._executor.shutdown(wait)
