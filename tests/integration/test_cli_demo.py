"""``baton demo`` with the shipped weights: what it shows, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from PIL import Image

from baton.common.families.manifest import BUILT_IN, MANIFEST_NAME
from baton.device_client.cli.demonstrating import PROMPTS
from tests.support.commands import clean_environment

SECONDS = 100
ARMS = ("device/small", "edge/large@0.4>device/small", "edge/large")
#: For speed, both, and quality.
OWN_ARMS = (
    "device/small*3>device/finisher*5",
    "device/small*1>edge/large*2>device/finisher*5",
    "edge/large*6",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BUILT_IN["scenes"] / MANIFEST_NAME).exists(), reason="the weights are not there"
    ),
]


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo in a session of its own, by which its processes are known."""
    process = subprocess.Popen(
        [sys.executable, "-m", "baton.device_client.cli.main", "demo", *arguments],
        cwd=folder,
        env=clean_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for left in session_of(process):
            left.kill()
        process.communicate()


def session_of(leader: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of the leader's session that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.mark.parametrize(
    ("options", "arms", "steps"), [(("--steps", "4"), ARMS, (4, 4, 4)), ((), OWN_ARMS, (8, 8, 6))]
)
def test_the_demo_shows_every_arm_and_leaves_nothing_running(
    tmp_path: Path, options: tuple[str, ...], arms: tuple[str, ...], steps: tuple[int, ...]
) -> None:
    state = tmp_path / "state"
    with demo(tmp_path, *options) as process:
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
        assert session_of(process) == []
    words = out.split()
    for short, arm in zip(("device", "relay", "edge"), arms, strict=True):
        assert words.count(arm) == 1
        assert words.count(short) >= len(PROMPTS)
    assert words.count("yes") + words.count("no") == len(arms) * len(PROMPTS)
    for word in " ".join(PROMPTS).split():
        assert word in out
    assert "pictures in baton-demo/, all of them in baton-demo.png" in out
    pictures = sorted((tmp_path / "baton-demo").iterdir())
    assert len(pictures) == len(PROMPTS) * len(ARMS)
    counts = {"device": steps[0], "relay": steps[1], "edge": steps[2]}
    for path in pictures:
        with Image.open(path) as image:
            assert image.size == (256, 256)
            chunk = json.loads(image.text["baton"])
        assert chunk["family"] == "scenes"
        ran = [step["step"] for step in chunk["executed"]]
        assert ran == list(range(counts[path.stem.partition("-")[2]]))
    with Image.open(tmp_path / "baton-demo.png") as sheet:
        assert sheet.width > len(ARMS) * 256
        assert sheet.height > len(PROMPTS) * 256
    written = {path.name for path in tmp_path.iterdir() if path != state}
    assert written == {"baton-demo", "baton-demo.png"}


def starting(process: subprocess.Popen[str], folder: Path) -> bool:
    """The coordinator is there, the edge is not yet."""
    return len(psutil.Process(process.pid).children(recursive=True)) > 0


def drawing(process: subprocess.Popen[str], folder: Path) -> bool:
    """The first picture has been written, the others have not."""
    return any(folder.glob("baton-demo/*.png"))


@pytest.mark.parametrize("moment", [starting, drawing])
def test_an_interrupt_of_the_demo_alone_leaves_nothing_running(
    tmp_path: Path, moment: Callable[[subprocess.Popen[str], Path], bool]
) -> None:
    """As `kill -INT` does it: the nodes get no signal of their own."""
    with demo(tmp_path, "--steps", "200") as process:
        deadline = time.monotonic() + SECONDS
        while not moment(process, tmp_path):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 130
        assert "Traceback" not in err
        assert session_of(process) == []
