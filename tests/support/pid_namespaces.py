"""Programs as process 1, to which the kernel delivers no signal that it has no handler for."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 100


@dataclass(frozen=True)
class First:
    """pid: of the program, as this process sees it."""

    pid: int
    _process: subprocess.Popen[str]

    def wait_until_loaded(self, library: str) -> None:
        """Until a shared library of such a name is in its memory."""
        maps, deadline = Path(f"/proc/{self.pid}/maps"), time.monotonic() + _SECONDS
        while library not in maps.read_text():
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def ended(self, number: signal.Signals) -> tuple[int, str, str]:
        """Send a signal; the exit code, and what it said on stdout and stderr."""
        os.kill(self.pid, number)
        out, err = self._process.communicate(timeout=_SECONDS)
        return self._process.returncode, out, err


@contextlib.contextmanager
def first_process(command: Sequence[str], env: Mapping[str, str]) -> Iterator[First]:
    """A command as process 1 of a namespace of its own, in which nothing outlives the block."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--"]
    with subprocess.Popen(
        [*unshare, *command],
        env=dict(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            while not (found := children.read_text().split()):
                assert process.poll() is None
            yield First(int(found[0]), process)
        finally:
            process.kill()
