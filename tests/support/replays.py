"""Pictures with their records, to be drawn again."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from baton.common.build import NodeBuild, this_build
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, run_here
from baton.common.record import ExecutedStep
from baton.common.request import Task
from baton.device_client.png import save_png
from baton.device_client.provenance import Provenance
from tests.support.tasks import plan, task


class Undecoded(LoadedFamily):
    """The same family, whose "picture" is the latent's bytes: no rounding hides a last bit."""

    def __init__(self, family: LoadedFamily) -> None:
        self.__dict__.update(family.__dict__)
        self.models = copy.copy(family.models)
        self.models.decoder = lambda: [lambda x: x]

    def picture(self, pixels: Tensor) -> npt.NDArray[np.uint8]:
        return np.ascontiguousarray(pixels.numpy()).view(np.uint8)


def drawn(family: LoadedFamily, of: Task | None = None) -> tuple[npt.NDArray[np.uint8], Provenance]:
    """A picture of this device alone, and how it was made."""
    of = of or task(plan("device/small", 4), seed=3)
    run = begin(family, of)
    executed = tuple(run_here(family, run, of.plan.steps))
    return family.decode(run.x), record(family, of, executed, "fp16")


def record(
    family: LoadedFamily, of: Task, executed: tuple[ExecutedStep, ...], codec: str = "fp32"
) -> Provenance:
    """Every node that ran a step had this build and these weights."""
    origin = NodeBuild(this_build(), family.member_fingerprints)
    nodes = dict.fromkeys((step.node_id for step in executed), origin)
    return Provenance(of, executed, family.fingerprint, codec, (), nodes)


def saved(path: Path, picture: npt.NDArray[np.uint8], made: Provenance, scale: int = 2) -> Path:
    height, width = picture.shape[:2]
    image = Image.fromarray(picture).resize((width * scale, height * scale), 0)
    return save_png(image, path, made)
