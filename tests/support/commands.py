"""Command lines in a fresh interpreter. A process costs seconds, so one runs many of them."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 100


def clean_environment(folder: Path, **more: str) -> dict[str, str]:
    """This process's environment without Baton's settings; what it keeps is in ``folder``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
    own = {
        "PYTHONPATH": str(ROOT),  # for the tests' own modules
        "BATON_CONFIG": os.devnull,
        "XDG_STATE_HOME": str(folder / "state"),
        "OMP_NUM_THREADS": "1",
    }
    return kept | own | more


@dataclass(frozen=True)
class Told:
    """What a command line said, and its exit code."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert (self.code, self.err) == (0, "")
        return json.loads(self.out)

    def refused(self, code: int) -> str:
        """The one line of an error."""
        assert self.code == code, self.err
        assert self.out == ""
        assert self.err.startswith("error: ")
        assert self.err.count("\n") == 1
        return self.err


def run_many(
    module: str, lines: Mapping[str, list[str]], environment: dict[str, str], folder: Path
) -> dict[str, Told]:
    """Run every line in ``folder``, one after the other in one new process.

    ``module``: of the command line; its ``main`` is what the script calls.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, module],
        input=json.dumps(lines),
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=True,
    )
    return {name: Told(*told) for name, told in json.loads(done.stdout).items()}


def _caught(main: Callable[[], object]) -> tuple[object, str, str]:
    """The exit code of ``main``, and both streams, caught where the operating system sees them."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)]
        kept = [os.dup(number) for number in (1, 2)]
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        code = _exit_code(main)
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        for file in files:
            file.seek(0)
        return code, files[0].read(), files[1].read()


def _exit_code(main: Callable[[], object]) -> object:
    try:
        main()
    except SystemExit as end:
        return end.code
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _answer() -> None:
    """The new process: command lines on stdin, what they told on stdout."""
    module = sys.argv[1]
    main = importlib.import_module(module).main
    told = {}
    for name, arguments in json.load(sys.stdin).items():
        sys.argv = [module, *arguments]
        told[name] = _caught(main)
    print(json.dumps(told))


if __name__ == "__main__":
    _answer()
