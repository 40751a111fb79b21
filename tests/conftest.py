"""Fixed seeds and threads for every test; a marked test is skipped where its machine is missing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest

try:
    import torch
except ModuleNotFoundError:
    torch = None

SEED = 0

hypothesis.settings.load_profile("ci")  # the same examples in every run, no deadline


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if torch:
        torch.set_num_threads(1)  # as a node's default; more lose much where the cores are shared


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(SEED)
    np.random.seed(SEED)
    if torch:
        torch.manual_seed(SEED)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nodes keep from one run to the next stays in the test's own folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def _no_gpu() -> bool:
    return torch is None or not torch.cuda.is_available()


def _no_docker() -> bool:
    if shutil.which("docker") is None:
        return True
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0


def _not_root() -> bool:
    return os.geteuid() != 0


_NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "gpu": (_no_gpu, "needs a CUDA device, torch finds none"),
    "docker": (_no_docker, "needs a Docker daemon, `docker info` finds none"),
    "root": (_not_root, "needs root, for network namespaces"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, (missing, reason) in _NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and missing():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))
