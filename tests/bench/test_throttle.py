"""A process that is made slower gets so much less of a processor, and goes on afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.support.throttle import processor_share, throttled

_BUSY = "print('busy', flush=True)\nwhile True: pass"
_SECONDS = 0.8


@pytest.fixture
def busy() -> Iterator[int]:
    """The id of a process that computes without end."""
    with subprocess.Popen([sys.executable, "-c", _BUSY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def share(pid: int) -> float:
    return processor_share(pid, lambda: time.sleep(_SECONDS))


@pytest.mark.parametrize("slower", [3.0, 10.0])
def test_it_gets_no_more_than_its_share(busy: int, slower: float) -> None:
    with throttled(busy, slower):
        got = share(busy)
    tick = 0.02 / _SECONDS  # as fine as the system counts, before and after
    assert 0 < got <= 1.15 / slower + tick


def test_it_gets_more_where_it_is_less_slow(busy: int) -> None:
    found = []
    for slower in (10.0, 2.0):
        with throttled(busy, slower):
            found.append(share(busy))
    assert found[0] < found[1]


def test_it_goes_on_afterwards(busy: int) -> None:
    with throttled(busy, 5.0):
        pass
    assert psutil.Process(busy).status() != psutil.STATUS_STOPPED
    with throttled(busy, 1.0):
        assert share(busy) > 0


def test_a_process_that_ends_meanwhile_disturbs_nobody(busy: int) -> None:
    with throttled(busy, 5.0):
        psutil.Process(busy).kill()
        psutil.Process(busy).wait()
