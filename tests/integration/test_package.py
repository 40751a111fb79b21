"""The wheel, installed where a user has folders of the same names as ours, or has no torch."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from baton.common.families.loaded import load_family
from tests.support.commands import ROOT, clean_environment
from tests.support.nodes import edge

#: What only the extras bring, and our own package.
EXTRAS = (
    "baton",
    "diffusers",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "__editable__",
)
ROOMS = ("common", "coordinator", "device_client", "edge_server")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in a folder of its own, away from what earlier builds have left."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source)
    for room in (*ROOMS, "proto/gen"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / room, source / room, ignore=ignored, copy_function=os.link)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(source)], check=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_one_package_with_every_module_and_the_weights(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names} <= {"baton"} | {
        name.partition("/")[0] for name in names if ".dist-info/" in name
    }
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            assert f"baton/{path.relative_to(ROOT)}" in names
    weights = ROOT / "common" / "families" / "scenes" / "weights"
    for path in weights.rglob("*.safetensors"):
        assert f"baton/{path.relative_to(ROOT)}" in names
    assert not {name for name in names if name.startswith("baton/tests")}


def borrowed() -> list[Path]:
    """Where this process has its libraries."""
    return [Path(entry) for entry in sys.path if Path(entry).name == "site-packages"]


def without_extras(folder: Path) -> list[Path]:
    """A folder of links to those that a plain install brings."""
    folder.mkdir()
    for path in (path for place in borrowed() for path in place.iterdir()):
        if not path.name.startswith(EXTRAS) and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    return [folder]


def installed(wheel: Path, home: Path, libraries: list[Path]) -> Path:
    """A virtual environment with the wheel and these libraries; returns its site-packages."""
    venv.create(home, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "libraries.pth").write_text("\n".join(map(str, libraries)))
    return site


_DRAW_THROUGH = """
import importlib.util, sys
from baton import Client

with Client(edges=[sys.argv[1]], members="", state_folder=None) as client:
    result = client.generate("a red cat", arm="edge:small", steps=2)
result.save("cat.png")
print(importlib.util.find_spec("torch"), result.quality is not None, result.steps_at("edge"))
"""


async def test_a_plain_install_has_no_torch_and_draws_through_an_edge(
    wheel: Path, tmp_path: Path
) -> None:
    """It scores the picture too: the verifier needs no model."""
    installed(wheel, tmp_path / "venv", without_extras(tmp_path / "libraries"))
    environment = clean_environment(tmp_path)
    environment.pop("PYTHONPATH")
    async with edge(load_family("scenes", ["small"])) as node:
        process = await asyncio.create_subprocess_exec(
            *[str(tmp_path / "venv/bin/python"), "-c", _DRAW_THROUGH, node.address],
            cwd=tmp_path,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, error = await process.communicate()
    assert told.split() == [b"None", b"True", b"2"], error.decode()
    assert (tmp_path / "cat.png").is_file()


def test_a_users_own_folders_of_our_names_disturb_nothing(wheel: Path, tmp_path: Path) -> None:
    """In a virtual environment of its own, which borrows the libraries alone."""
    home, work = tmp_path / "venv", tmp_path / "work"
    site = installed(wheel, home, borrowed())
    for room in ROOMS:
        (work / room).mkdir(parents=True)
        (work / room / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    python, environment = str(home / "bin" / "python"), clean_environment(tmp_path)
    environment.pop("PYTHONPATH")
    program = "import baton, sys; print(baton.Client.__module__, sys.modules['baton'].__file__)"
    told = subprocess.run(
        [python, "-c", program],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stdout.split() == ["baton.device_client.sdk", str(site / "baton" / "__init__.py")]
    draw = ["generate", "a red cat", "--arm", "device", "--steps", "1", "--out", "cat.png"]
    command = [python, "-m", "baton.device_client.cli.main", *draw]
    told = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert (told.returncode, (work / "cat.png").is_file()) == (0, True), told.stderr
