"""A signal ends a program from its first line on, also as process 1 of a container."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import clean_environment
from tests.support.pid_namespaces import first_process

_DEVICE = ["baton.device_client.cli.main", "generate", "a red cat", "--arm", "device", "--n", "64"]

#: The program, and the library in whose company it is still far from its work.
PROGRAMS = {
    "an edge whose weights load": (
        ["baton.edge_server.cli", "serve", "--port", "0"],
        "libtorch_cpu",
    ),
    "a picture whose weights load": (_DEVICE, "libtorch_cpu"),
    "a coordinator that begins": (["baton.coordinator.cli", "serve", "--port", "0"], "cygrpc"),
}


@pytest.mark.root
@pytest.mark.parametrize("what", PROGRAMS)
def test_process_1_ends_at_once_whatever_it_does(what: str, tmp_path: Path) -> None:
    arguments, library = PROGRAMS[what]
    command = [sys.executable, "-m", *arguments]
    with first_process(command, clean_environment(tmp_path)) as first:
        first.wait_until_loaded(library)
        code, out, err = first.ended(signal.SIGTERM)
    assert (code, out) == (128 + signal.SIGTERM, "")
    assert [line for line in err.splitlines() if " INFO " not in line] == []
    assert list(tmp_path.glob("*.png")) == []


def told(body: str, number: signal.Signals, folder: Path) -> tuple[int, str, str]:
    """What a program says that sends itself the signal within ``body``."""
    code = (
        "import asyncio, signal, sys, threading, time, typer\n"
        "from baton.common.cli import run\n"
        "from baton.common.interrupts import run_daemon, stop_signals\n"
        "app = typer.Typer()\n"
        f"end = lambda: signal.raise_signal({int(number)})\n"
        f"@app.command()\ndef main():\n{body}\n"
        "run(app)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


UNWINDING = """
    try:
        end(); time.sleep(60)
    finally:
        print("unwound")
"""
#: What is raised in a finaliser travels no further.
FINALISER = """
    class Last:
        def __del__(self):
            end(); sum(range(10))
    try:
        Last(); time.sleep(60)
    finally:
        print("unwound")
"""
#: Model libraries turn whatever befalls an import into errors of their own.
OTHER_ERROR = """
    try:
        end(); time.sleep(60)
    except BaseException:
        print("unwound")
        raise ImportError("cannot import")
"""
THREAD = """
    threading.Thread(target=time.sleep, args=[600]).start()
    print("unwound")
    end(); time.sleep(60)
"""
BUSY_LOOP = """
    async def work():
        try:
            end(); time.sleep(60)
        finally:
            print("unwound")
    run_daemon(work())
"""
SECOND = """
    async def work():
        with stop_signals() as stopped:
            end(); await stopped.wait()
        try:
            end(); await asyncio.sleep(60)
        finally:
            print("unwound")
    run_daemon(work())
"""
BODIES = {
    "while it works": UNWINDING,
    "where no exception travels": FINALISER,
    "where it becomes another error": OTHER_ERROR,
    "with a thread that has not done": THREAD,
    "while the loop is busy": BUSY_LOOP,
    "for the second time": SECOND,
}


@pytest.mark.parametrize("body", BODIES)
def test_a_signal_unwinds_and_ends_the_program(body: str, tmp_path: Path) -> None:
    expected = (128 + signal.SIGTERM, "unwound\n", "")
    assert told(BODIES[body], signal.SIGTERM, tmp_path) == expected


def test_an_interrupt_is_heard_while_the_loop_of_a_daemon_is_busy(tmp_path: Path) -> None:
    assert told(BUSY_LOOP, signal.SIGINT, tmp_path) == (130, "unwound\n", "")


def test_a_hang_up_that_is_ignored_ends_nothing(tmp_path: Path) -> None:
    body = "    end(); print('on')"
    assert told(body, signal.SIGHUP, tmp_path) == (128 + signal.SIGHUP, "", "")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert told(body, signal.SIGHUP, tmp_path) == (0, "on\n", "")
    finally:
        signal.signal(signal.SIGHUP, before)
