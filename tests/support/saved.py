"""A picture with a plan, as this and older versions save it, and how a file is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from baton.common.build import Build, NodeBuild
from baton.common.errors import BatonError, InvalidRequest
from baton.common.record import ExecutedStep
from baton.device_client.png import read_png
from baton.device_client.provenance import Provenance
from tests.support.tasks import plan, task

BUILD = Build("0.1.0", "2.13.0+cpu", "0.42.1", "5.0", "2.4", "x86_64 AVX512 A Processor")
TASK = task(
    plan("edge/large@0.5>device/small", 6, "dpmpp_2m", 3.5), "猫 \0 and\n\ta 'dog'", "x", 2**63 - 1
)
EXECUTED = tuple(
    ExecutedStep(step, *place, "both", 8, 2, step)
    for step, place in enumerate([("large", "edge", "e")] * 3 + [("small", "device", "device")] * 3)
)
NODES = {
    "e": NodeBuild(replace(BUILD, torch="2.12.0"), {"large": "d" * 32, "small": "c" * 32}),
    "device": NodeBuild(BUILD, {"small": "e" * 32}),
}
MADE = Provenance(TASK, EXECUTED, "f" * 32, "int8", (2, 3), NODES)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def written(path: Path, chunk: str, image: Image.Image = IMAGE) -> Path:
    info = PngInfo()
    info.add_itxt("baton", chunk)
    image.save(path, pnginfo=info)
    return path


def refusal(path: Path, kind: type[BatonError] = InvalidRequest) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(kind) as caught:
        read_png(path)
    text = str(caught.value)
    assert str(path) in text
    assert text.isprintable()
    assert len(text) < len(str(path)) + 300
    assert TASK.prompt not in text
    return text


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and whole of every chunk of a PNG."""
    found, place = [], 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        whole = data[place : place + length + 12]
        found.append((whole[4:8], whole))
        place += length + 12
    return found


def moved_behind(path: Path) -> Path:
    """The same PNG with its texts between its pixels and its end."""
    data = path.read_bytes()
    chunks = chunks_of(data)
    texts = [whole for kind, whole in chunks if kind in (b"tEXt", b"zTXt", b"iTXt")]
    others = [whole for kind, whole in chunks if kind not in (b"tEXt", b"zTXt", b"iTXt")]
    assert texts
    path.write_bytes(data[:8] + b"".join([*others[:-1], *texts, others[-1]]))
    return path


#: A key step among others' rows, two decoded ahead with it, and a step that one call ran alone.
_ALONE = (
    *(
        replace(
            EXECUTED[0], step=i, rows=9, row=1 + 2 * i, blocks=bits, neighbours=((1, None), (8, 6))
        )
        for i, bits in enumerate((2**70 - 1, 6, 6))
    ),
    replace(EXECUTED[3], blocks=0, prior_noise=0.003),
    *EXECUTED[4:],
)
ACCELERATED = (replace(_ALONE[0], ahead=2), *_ALONE[1:])
REUSING = replace(MADE, executed=ACCELERATED, transfers=(3,))


Change = Callable[[dict[str, Any]], object]


def fourth(made: Provenance) -> dict[str, Any]:
    """What version 4 of the chunk holds of such a picture."""
    return json.loads(made.chunk()) | {"version": 4}


def third(made: Provenance) -> dict[str, Any]:
    """What version 3 of the chunk holds of such a picture."""
    chunk, plan = json.loads(made.chunk()), made.task.plan
    for name in ("segments", "adapters", "safety"):
        del chunk[name]
    for step in chunk["executed"]:
        step["guided"] = step.pop("branches") == "both"
        pairs = step.pop("neighbours", [])
        if pairs:
            step["neighbours"] = [[rows, -1 if bits is None else bits] for rows, bits in pairs]
    return chunk | {
        "version": 3,
        "protocol": 1,
        "size": made.task.size.width,
        "sampler": plan.samplers[0],
        "steps": plan.steps,
        "guidance_scale": plan.segments[0].guidance.scale,
    }
