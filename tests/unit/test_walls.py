"""What each package drags into a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
    assert not loaded & {"torch", "diffusers", "transformers", "safetensors"}


@pytest.mark.parametrize("package", ["baton.common.rpc", "baton.common.latents"])
def test_importing_the_wire_loads_no_diffusion(package: str) -> None:
    assert "baton.common.diffusion" not in modules_after_importing_all_of(package)
