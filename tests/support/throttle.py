"""A process made as slow as a weaker device: stopped and continued in turn, a share of the time.

A share of processor time is what a slower processor gives, while its memory and its caches stay as
they are. What a throttled process gets is measured by its own processor time, not assumed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import psutil

#: Seconds of one turn of running and standing still.
PERIOD = 0.03


@contextlib.contextmanager
def throttled(pid: int, slower: float) -> Iterator[None]:
    """Within the block a process runs 1 / ``slower`` of the time; at 1 it is left alone."""
    if slower <= 1.0:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_take_turns, args=(pid, slower, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _take_turns(pid: int, slower: float, done: threading.Event) -> None:
    """How long it stands still follows from how long it ran, however late this thread wakes."""
    ran = stood = 0.0
    with contextlib.suppress(ProcessLookupError):
        try:
            while not done.is_set():
                os.kill(pid, signal.SIGCONT)
                ran += _pass(PERIOD / slower)
                os.kill(pid, signal.SIGSTOP)
                stood += _pass(max(0.0, (slower - 1.0) * ran - stood))
        finally:
            os.kill(pid, signal.SIGCONT)


def _pass(seconds: float) -> float:
    """Sleep, and tell how long it was."""
    begun = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - begun


def processor_share(pid: int, compute: Callable[[], object]) -> float:
    """The processor time that a process takes per second while ``compute`` has it compute."""
    process = psutil.Process(pid)
    before, begun = _taken(process), time.perf_counter()
    compute()
    return (_taken(process) - before) / (time.perf_counter() - begun)


def _taken(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
