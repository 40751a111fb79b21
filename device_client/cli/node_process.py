"""A process that announces its address, as a node does, and ends with the block that runs it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO

from baton.common.errors import ExecutionFailed

_STOP_SECONDS = 10.0
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MAX_LINE = 64 * 1024


@contextlib.contextmanager
def announced_process(command: Sequence[str], log: IO[str], seconds: float) -> Iterator[str]:
    """Run ``command`` until the block ends, however it ends.

    Yields its address, the last word of its first line on stdout. log: takes its stderr; seconds:
    that it has to announce itself. Raises ExecutionFailed, with the last line of the log, if it
    does not.
    """
    with contextlib.ExitStack() as stack:
        with _signals_held():
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
            stack.callback(_stop, process)
        yield _announced(process, log, time.monotonic() + seconds)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Signals that would end the program wait until a process that the block starts is known."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in _ENDING}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    try:
        for number in before:
            signal.signal(number, lambda number, frame: held.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        process.terminate()
        process.wait(_STOP_SECONDS)
    finally:  # also if the wait is over, or somebody does not want to wait
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _announced(process: subprocess.Popen[bytes], log: IO[str], deadline: float) -> str:
    line = b"" if process.stdout is None else _first_line(process.stdout.fileno(), deadline)
    if not line:
        log.seek(0)
        last = log.read().strip().splitlines()[-1:] or ["no output"]
        raise ExecutionFailed(f"a node of the demo did not start: {last[0]}")
    return line.decode(errors="replace").split()[-1]


def _first_line(pipe: int, deadline: float) -> bytes:
    """What is read until the end of a line; empty if the other end or the time is over before."""
    read = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while b"\n" not in read and len(read) < _MAX_LINE:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return b""
            more = os.read(pipe, 4096)
            if not more:
                return b""
            read += more
    return read.partition(b"\n")[0]
