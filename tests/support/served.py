"""Edges that ``baton-edge serve`` runs, as their users start them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.commands import clean_environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def environment(folder: Path, family_folder: Path) -> dict[str, str]:
    """As a user has it who uses the tiny family and never wrote a settings file."""
    return clean_environment(
        folder,
        BATON_DEVICE_FAMILY=str(family_folder),
        BATON_EDGE_FAMILY=str(family_folder),
        BATON_EDGE_THREADS="1",
    )


@dataclass(frozen=True)
class Process:
    """A running ``baton-edge serve``."""

    popen: subprocess.Popen[str]
    address: str

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2]


@dataclass(frozen=True)
class Starting:
    """An edge process that starts while something else is done."""

    popen: subprocess.Popen[str]

    def ready(self) -> Process:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line.startswith("baton-edge listening on 127.0.0.1:")
        return Process(self.popen, line.split()[-1])


@contextmanager
def started(environment: dict[str, str], name: str) -> Iterator[Starting]:
    """An edge of this id, until the end of the block."""
    popen = subprocess.Popen(
        [sys.executable, "-m", "baton.edge_server.cli", "serve", "--port", "0", "--node-id", name],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Starting(popen)
    finally:
        popen.kill()
        popen.communicate()


@pytest.fixture(scope="module")
def served(environment: dict[str, str]) -> Iterator[Process]:
    with started(environment, "served") as starting:
        yield starting.ready()
