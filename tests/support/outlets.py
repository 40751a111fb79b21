"""Command lines whose output nobody takes, each in a process of its own.

Forked from one that has imported the three command lines, and nothing of gRPC or a model, so that
each costs what its command does. It ends as the interpreter does, with a last flush.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Outlet = Literal["kept", "gone", "full", "closed"]


@dataclass(frozen=True)
class Line:
    """A program's name and arguments, and where its streams lead.

    kept: to a file; gone: to a pipe without a reader; full: to a full disk; closed: nowhere.
    """

    arguments: Sequence[str]
    stdout: Outlet = "kept"
    stderr: Outlet = "kept"


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


def run_lines(lines: Sequence[Line], environment: dict[str, str], folder: Path) -> list[Said]:
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps([vars(line) for line in lines]),
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [Said(*said) for said in json.loads(done.stdout)]


def lead(number: int, outlet: Outlet, file: int) -> None:
    """Let a descriptor lead there. Closed, its stream is None, as in a new interpreter."""
    if outlet == "closed":
        os.close(number)
        setattr(sys, {1: "stdout", 2: "stderr"}[number], None)
        return
    if outlet == "gone":
        reader, file = os.pipe()
        os.close(reader)
    elif outlet == "full":
        file = os.open("/dev/full", os.O_WRONLY)
    os.dup2(file, number)


def _run(line: Line, main: Callable[[], object]) -> Said:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            lead(1, line.stdout, out.fileno())
            lead(2, line.stderr, err.fileno())
            sys.argv = list(line.arguments)
            os._exit(_exit_code(main))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (out, err):
            file.seek(0)
        return Said(status, out.read(), err.read())


def _exit_code(main: Callable[[], object]) -> int:
    code = 1
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            traceback.print_exc()
            code = 120
    return code


def main() -> None:
    import typer.rich_utils  # noqa: F401 # help needs it

    from baton.coordinator.cli import main as coordinator
    from baton.device_client.cli.main import main as device
    from baton.edge_server.cli import main as edge

    mains = {"baton": device, "baton-edge": edge, "baton-coordinator": coordinator}
    lines = [Line(**fields) for fields in json.load(sys.stdin)]
    told = [_run(line, mains[line.arguments[0]]) for line in lines]
    print(json.dumps([list(vars(said).values()) for said in told]))


if __name__ == "__main__":
    main()
