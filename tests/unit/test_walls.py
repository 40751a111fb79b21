"""What each package drags into a fresh interpreter, and where messages are made."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_MODEL_CODE = {"torch", "diffusers", "transformers", "safetensors"}
_PROBE = """
import importlib, pkgutil, sys

package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*sys.modules)
"""


def modules_after_importing_all_of(package: str) -> set[str]:
    probe = [sys.executable, "-c", _PROBE, package]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("package", ["coordinator", "baton.common.rpc", "baton.common.latents"])
def test_importing_a_torch_free_package_loads_no_model_code(package: str) -> None:
    loaded = {name.partition(".")[0] for name in modules_after_importing_all_of(package)}
    assert not loaded & _MODEL_CODE


@pytest.mark.parametrize(
    "module",
    ["baton.common.families.spec", "baton.device_client.sdk", "baton.device_client.session"],
)
def test_a_device_that_holds_no_member_loads_no_model_code(module: str) -> None:
    assert not loaded_with(module) & _MODEL_CODE


def test_an_edge_without_metrics_does_without_their_library() -> None:
    assert "prometheus_client" not in loaded_with("baton.edge_server.daemon")


def test_choosing_what_a_model_does_next_loads_no_model_code() -> None:
    assert not loaded_with("baton.edge_server.engine.scheduler") & _MODEL_CODE
    loaded = modules_after_importing_all_of("baton.edge_server.scheduling")
    assert not {name.partition(".")[0] for name in loaded} & _MODEL_CODE


def loaded_with(module: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after it has imported a module."""
    probe = [sys.executable, "-c", "import importlib, sys; importlib.import_module(sys.argv[1]);"]
    probe[-1] += "print(*sys.modules)"
    done = subprocess.run([*probe, module], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("package", ["baton.common.rpc", "baton.common.latents"])
def test_importing_the_wire_loads_no_diffusion(package: str) -> None:
    assert "baton.common.diffusion" not in modules_after_importing_all_of(package)


def messages_made(source: str) -> list[str]:
    """Calls of ``NAME_pb2.Message(...)``, under whatever name the module was imported."""
    tree = ast.parse(source)
    modules = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.endswith("_pb2")
    }
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [
        ast.unparse(function)
        for function in calls
        if isinstance(function, ast.Attribute) and ast.unparse(function.value) in modules
    ]


def test_messages_are_made_in_wire_modules_alone() -> None:
    assert messages_made("from a import b_pb2 as c\nc.D(e=1)\nc.DESCRIPTOR.f()\ng.D()") == ["c.D"]
    rooms = ("common", "coordinator", "device_client", "edge_server")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    outside = {
        str(path.relative_to(ROOT)): made
        for path in files
        if path.name != "wire.py" and path.parent != ROOT / "common" / "rpc"
        if (made := messages_made(path.read_text()))
    }
    assert outside == {}
