"""Programs of a user who has no home folder, no name, and may read little."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import clean_environment

pytestmark = pytest.mark.root
NOBODY = 54_321  # in no list of users


@pytest.fixture
def folder() -> Iterator[Path]:
    """Which nobody in particular may enter, and not write to."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


#: Nobody may read this Python, perhaps: all is imported before.
_PROGRAM = f"""
import encodings.idna, os, pwd, sys
import baton.coordinator.admin, baton.coordinator.cli, baton.coordinator.daemon
os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})
baton.coordinator.cli.main()
"""


def start(folder: Path, arguments: list[str], **more: str) -> subprocess.Popen[str]:
    environment = clean_environment(folder, **more)
    for name in {"HOME", "XDG_STATE_HOME", "BATON_CONFIG"} - more.keys():
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_coordinator_keeps_its_state_in_memory_and_says_so(folder: Path) -> None:
    with start(folder, ["serve", "--port", "0"]) as process:
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "lives in memory" in err
    assert "Traceback" not in err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("variable", ["BATON_CONFIG", "HOME"])
def test_settings_that_may_not_be_read_are_refused_by_name(variable: str, folder: Path) -> None:
    """Named, or in a home that is somebody else's."""
    path = folder / ".config" / "baton" / "config.toml"
    path.parent.mkdir(parents=True)
    path.touch()
    locked = path if variable == "BATON_CONFIG" else folder / ".config"
    locked.chmod(0o000)
    value = str(path if variable == "BATON_CONFIG" else folder)
    with start(folder, ["nodes"], **{variable: value}) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith(f"error: cannot read settings from {path}: Permission denied")
    assert err.count("\n") == 1
