"""Where nobody takes what a program has to say: a reader that has gone, a full disk, no stream."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from baton.common.streams import keep_writable
from baton.coordinator import daemon as coordinator_daemon
from baton.coordinator.settings import Settings
from baton.edge_server import daemon as edge_daemon
from baton.edge_server.settings import EdgeSettings
from tests.support.commands import clean_environment
from tests.support.outlets import Line, Outlet, Said, run_lines

FULL = "error: cannot write to stdout: No space left on device\n"
CLI = [sys.executable, "-m", "baton.device_client.cli.main"]

#: Every way in which the programs print: help, tables, JSON, lines, and usage.
COMMANDS = [
    ["baton", "--help"],
    ["baton", "config", "show"],
    ["baton", "config", "show", "--json"],
    *(
        [*command.split(), "--help"]
        for command in (
            "baton generate",
            "baton replay",
            "baton explain",
            "baton analyze",
            "baton train-masks",
            "baton demo",
            "baton doctor",
            "baton-edge",
            "baton-edge serve",
            "baton-edge status",
            "baton-coordinator",
            "baton-coordinator serve",
            "baton-coordinator nodes",
            "baton-coordinator arms",
            "baton-coordinator decisions",
            "baton-coordinator explain",
        )
    ),
]
ASKING: list[tuple[str, Outlet]] = [("nodes", "gone"), ("arms", "full"), ("decisions", "gone")]
WRONG = ["baton", "bogus"]


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[str]:
    """The address of one whose banner goes to a full disk."""
    command = [sys.executable, "-m", "baton.coordinator.cli", "serve", "--port", "0"]
    read, write = os.pipe()
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [*command, "--db", str(tmp_path / "c.db")],
            env=clean_environment(tmp_path),
            stdout=full,
            stderr=write,
        )
    os.close(write)
    with open(read) as log:
        lines = iter(log)
        banner = next(line for line in lines if "listening" in line)
        assert "No space left on device" in banner
        yield banner.partition("listening on ")[2].partition(";")[0]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "error" not in log.read()


def said(lines: list[Line], folder: Path) -> dict[tuple[str, ...], Said]:
    told = run_lines(lines, clean_environment(folder), folder)
    return {(*line.arguments, line.stdout): one for line, one in zip(lines, told, strict=True)}


def test_a_reader_that_has_gone_is_silence_and_a_full_disk_one_line(tmp_path: Path) -> None:
    lines = [Line(command, "gone") for command in COMMANDS]
    lines += [Line(command, out) for command in COMMANDS[:4] for out in ("full", "closed")]
    told = said(lines, tmp_path)
    expected = {"gone": Said(0, "", ""), "closed": Said(0, "", ""), "full": Said(5, "", FULL)}
    assert told == {key: expected[key[-1]] for key in told}


def test_what_asks_a_node_ends_likewise(coordinator: str, tmp_path: Path) -> None:
    at = ("--address", coordinator)
    told = said([Line(["baton-coordinator", c, *at], out) for c, out in ASKING], tmp_path)
    expected = {"gone": Said(0, "", ""), "full": Said(5, "", FULL)}
    assert told == {key: expected[key[-1]] for key in told}


def test_an_error_is_told_on_stderr_or_nowhere(tmp_path: Path) -> None:
    outlets: tuple[Outlet, ...] = ("gone", "full", "closed")
    lines = [Line(WRONG, stdout, outlet) for outlet in outlets for stdout in ("kept", outlet)]
    told = run_lines(lines, clean_environment(tmp_path), tmp_path)
    assert told == [Said(2, "", "")] * len(lines)


@pytest.mark.parametrize(("closed", "code"), [("0<&-", 2), ("1>&-", 2), ("2>&-", 2)])
def test_a_file_that_is_opened_takes_the_number_of_no_closed_stream(
    closed: str, code: int, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[device\n")
    program = f"exec {closed}; exec {' '.join(CLI)} config show"
    done = subprocess.run(
        ["/bin/sh", "-c", program],
        env=clean_environment(tmp_path, BATON_CONFIG=str(config)),
        capture_output=True,
        text=True,
        check=False,
    )
    line = "" if closed == "2>&-" else done.stderr
    assert (done.returncode, done.stdout, done.stderr) == (code, "", line)
    assert config.read_text() == "[device\n"


def test_the_first_lines_are_whole_for_a_reader_of_few(tmp_path: Path) -> None:
    line = f"{' '.join(CLI)} config show --json | head -2; echo ${{PIPESTATUS[@]}}"
    done = subprocess.run(
        ["/bin/bash", "-c", line],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[\n  {\n0 0\n", "")


@pytest.fixture
def full() -> Iterator[TextIO]:
    with open("/dev/full", "w") as file:
        yield file


@pytest.mark.parametrize("node", ["edge", "coordinator"])
async def test_a_banner_that_cannot_be_written_ends_no_daemon(
    node: str,
    full: TextIO,
    family_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "stdout", full)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    keep_writable()
    if node == "edge":
        settings = EdgeSettings(port=0, family=str(family_folder), members="small")
        serving = asyncio.create_task(edge_daemon.serve(settings))
    else:
        own = Settings(port=0, db=tmp_path / "c.db")
        serving = asyncio.create_task(coordinator_daemon.serve(own))
    while "nobody hears" not in caplog.text:
        assert not serving.done(), serving
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    await serving
