"""A node that is started for a block does not outlive it, whenever that is interrupted."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil
import pytest

from baton.common.errors import ExecutionFailed
from baton.device_client.cli.node_process import announced_process
from tests.support.commands import clean_environment

NODE = ["/bin/sh", "-c", "echo on 127.0.0.1:7; exec sleep 600"]
SILENT = ["/bin/sh", "-c", "echo last words >&2; exec sleep 600"]


@pytest.fixture
def log() -> Iterator[IO[str]]:
    with tempfile.TemporaryFile("w+") as file:
        yield file


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every process and thread of the test ends with it, and signals do what they did.

    What other tests keep for the whole run stays: the resource tracker of `multiprocessing` does.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers, threads = [signal.getsignal(number) for number in numbers], threading.enumerate()
    before = set(psutil.Process().children(recursive=True))
    yield
    left = [one for one in psutil.Process().children(recursive=True) if one not in before]
    for process in left:
        process.kill()
    assert left == []
    assert [one for one in threading.enumerate() if one not in threads] == []
    assert [signal.getsignal(number) for number in numbers] == handlers


@contextlib.contextmanager
def interrupted(event: str, function: str) -> Iterator[list[str]]:
    """An interrupt at the first such event (`sys.setprofile`) of a built-in function."""
    hit: list[str] = []

    def watch(frame: FrameType, kind: str, argument: Any) -> None:
        if kind == event and getattr(argument, "__name__", "") == function and not hit:
            hit.append(function)
            signal.raise_signal(signal.SIGINT)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield hit
    finally:
        sys.setprofile(before)


def test_the_address_is_the_last_word_of_the_first_line(log: IO[str]) -> None:
    before = set(psutil.Process().children())
    with announced_process(NODE, log, 60) as address:
        assert address == "127.0.0.1:7"
        (node,) = set(psutil.Process().children()) - before
        assert node.is_running()


@pytest.mark.parametrize(
    ("event", "function"),
    [("c_call", "fork_exec"), ("c_return", "fork_exec"), ("c_call", "poll"), ("c_call", "read")],
)
def test_an_interrupt_at_any_moment_of_the_start_leaves_nothing(
    log: IO[str], event: str, function: str
) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        interrupted(event, function) as hit,
        announced_process(NODE, log, 60),
    ):
        pytest.fail("the interrupt was lost")
    assert hit == [function]


def test_a_node_that_announces_nothing_in_time_is_ended_and_its_last_words_told(
    log: IO[str],
) -> None:
    reader = ["/bin/sh", "-c", "echo last words >&2; exec 1>&-; exec sleep 600"]
    for command, seconds in ((SILENT, 0.2), (reader, 60.0), (["/bin/false"], 60.0)):
        with (
            pytest.raises(ExecutionFailed, match="did not start"),
            announced_process(command, log, seconds),
        ):
            pytest.fail("it did not announce itself")


def test_a_node_that_ignores_its_end_is_killed_when_the_wait_is_interrupted(log: IO[str]) -> None:
    stubborn = [sys.executable, "-c", _STUBBORN]
    with pytest.raises(KeyboardInterrupt), announced_process(stubborn, log, 60) as address:
        assert address == "stubborn"


_STUBBORN = """
import os, signal, time
def ignore(*_):
    os.kill(os.getppid(), signal.SIGINT)
signal.signal(signal.SIGTERM, ignore)
print("stubborn", flush=True)
while True:
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_ends_the_program_ends_its_nodes(
    number: signal.Signals, tmp_path: Path
) -> None:
    program = [sys.executable, "-c", _PROGRAM]
    process = subprocess.Popen(
        program, stdout=subprocess.PIPE, env=clean_environment(tmp_path), text=True
    )
    assert process.stdout is not None
    node = psutil.Process(int(process.stdout.readline()))
    process.send_signal(number)
    assert process.wait(60) == (-number if number == signal.SIGINT else 128 + number)
    process.stdout.close()
    assert not node.is_running()


_PROGRAM = f"""
import sys, tempfile, time, psutil
from baton.common.interrupts import heed_signals
from baton.device_client.cli.node_process import announced_process
heed_signals()
with tempfile.TemporaryFile("w+") as log:
    with announced_process({NODE!r}, log, 60):
        print(psutil.Process().children()[0].pid, flush=True)
        time.sleep(600)
"""
