"""Edges as processes of their own, which a test may kill, stop and hold at every step."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Steppable(Protocol):
    """An edge whose model calls a test lets through one by one."""

    @property
    def address(self) -> str: ...

    @property
    def arrived(self) -> int:
        """Model calls that it has come to; the last may still wait."""
        ...

    def allow(self, calls: int) -> None: ...


@dataclass(frozen=True)
class EdgeProcess:
    """A process that serves as an edge. permits, arrivals: as its forker knows them."""

    pid: int
    address: str
    permits: int
    arrivals: Path

    @property
    def arrived(self) -> int:
        return self.arrivals.stat().st_size if self.arrivals.exists() else 0

    def allow(self, calls: int) -> None:
        os.write(self.permits, b"." * calls)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Leave it hanging: its connections stand, and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


class Forker:
    """Makes edges in a fraction of a second each; they end with it."""

    def __init__(self, family: Path, folder: Path) -> None:
        self._folder = folder
        self._made = 0
        self._pipes: list[int] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked_edges", str(family)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._hear() == "ready"

    def edge(self, held: bool = True, **settings: Any) -> EdgeProcess:
        """A new edge; unless it is held, its model calls are not waited for or counted."""
        self._made += 1
        permits = self._folder / f"permits-{self._made}"
        arrivals = self._folder / f"arrivals-{self._made}"
        os.mkfifo(permits)
        self._pipes.append(os.open(permits, os.O_RDWR))
        state = str(self._folder / "state")
        fields = {"port": 0, "node_id": f"process-{self._made}", "state_folder": state} | settings
        names = [str(permits), str(arrivals)] if held else ["", ""]
        assert self._process.stdin is not None
        print(json.dumps([fields, *names]), file=self._process.stdin, flush=True)
        pid, address = self._hear()
        return EdgeProcess(pid, address, self._pipes[-1], arrivals)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        for pipe in self._pipes:
            os.close(pipe)

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def forker(family: Path, folder: Path) -> Iterator[Forker]:
    made = Forker(family, folder)
    try:
        yield made
    finally:
        made.close()
