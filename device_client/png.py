"""PNG files that say how they were made, and how to read them again."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo, PngStream
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from baton.common.build import NodeBuild, check_line
from baton.common.config import user_path
from baton.common.errors import BatonError, Incompatible, InvalidRequest
from baton.common.files import saving
from baton.common.latents import Codec
from baton.common.outputs import check_suffix, check_writable
from baton.common.plan import (
    MAX_BLOCKS,
    MAX_NAME_CHARS,
    MAX_ROWS,
    MAX_STEPS,
    ExecutedStep,
    Plan,
    SamplerName,
    Segment,
    Task,
)
from baton.common.record import check_record
from baton.common.rpc import PROTOCOL_VERSION

PLAN_CHUNK = "baton"
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_SIGNATURE_BYTES, _CRC_BYTES = 8, 4
_CHUNK_VERSION = 3
#: A record names, at each step, the rows of its batch and the blocks that they ran. Since what is
#: parsed takes far more room than its text, its parts are counted before.
MAX_CHUNK_CHARS = 512 * 1024 + MAX_STEPS * MAX_ROWS * (len(str(1 << MAX_BLOCKS)) + 16)
_MAX_CHUNK_PARTS = 64 * 1024 + MAX_STEPS * MAX_ROWS * 3
_MAX_SIDE = 8192
_SAMPLER_NAMES = {"ddim": "DDIM", "euler": "Euler", "dpmpp_2m": "DPM++ 2M"}


@dataclass(frozen=True)
class Provenance:
    """What a picture's chunks hold: all that its replay needs.

    fingerprint: of the latent space. codec, transfers: the steps before which the latent changed
    hands (a handoff, or a checkpoint from which another node went on), and what rounded it there.
    nodes: what drew it at each node that ran a step, by node id. The picture was decoded by the
    process that ran the last step.
    """

    task: Task
    executed: tuple[ExecutedStep, ...]
    fingerprint: str
    codec: str
    transfers: tuple[int, ...]
    nodes: Mapping[str, NodeBuild]

    @property
    def members_run(self) -> tuple[str, ...]:
        """In the order in which they took over."""
        return tuple(dict.fromkeys(step.member for step in self.executed))

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """Node ids and the members that ran there, in the order in which they took over."""
        return tuple(dict.fromkeys((step.node_id, step.member) for step in self.executed))

    def parameters(self) -> str:
        """The line that other tools read (A1111 style)."""
        task, plan = self.task, self.task.plan
        settings = {
            "Steps": plan.steps,
            "Sampler": _SAMPLER_NAMES[plan.sampler],
            "CFG scale": f"{plan.guidance_scale:g}",
            "Seed": task.seed,
            "Size": f"{task.size}x{task.size}",
            "Model": f"{plan.family}/{'>'.join(self.members_run)}",
        }
        lines = [task.prompt]
        if task.negative:
            lines.append(f"Negative prompt: {task.negative}")
        lines.append(", ".join(f"{key}: {value}" for key, value in settings.items()))
        return "\n".join(lines)

    def chunk(self) -> str:
        """The executed plan as JSON."""
        task, plan = self.task, self.task.plan
        return json.dumps(
            {
                "version": _CHUNK_VERSION,
                "protocol": PROTOCOL_VERSION,
                "family": plan.family,
                "fingerprint": self.fingerprint,
                "nodes": {node_id: asdict(node) for node_id, node in self.nodes.items()},
                "prompt": task.prompt,
                "negative_prompt": task.negative,
                "seed": task.seed,
                "size": task.size,
                "sampler": plan.sampler,
                "steps": plan.steps,
                "guidance_scale": plan.guidance_scale,
                "codec": self.codec,
                "transfers": list(self.transfers),
                "executed": [_told(step) for step in self.executed],
            }
        )


def _told(step: ExecutedStep) -> dict[str, object]:
    """Without what is as usual."""
    usual = ExecutedStep(0, "", "device", "", True, 0, 0)
    optional = ("blocks", "ahead", "prior_noise", "neighbours")
    left_out = {name for name in optional if getattr(step, name) == getattr(usual, name)}
    return {name: value for name, value in asdict(step).items() if name not in left_out}


@dataclass(frozen=True, eq=False)
class SavedPicture:
    """A PNG with its plan. pixels: uint8 [H, W, 3], ``scale`` times as large as it was drawn."""

    pixels: npt.NDArray[np.uint8]
    scale: int
    provenance: Provenance


def check_png(path: Path) -> Path:
    """The path, if a picture can be written there; leaves nothing behind. Raises InvalidRequest."""
    return check_writable(check_suffix(path, ".png"))


def save_png(image: Image.Image, path: str | Path, provenance: Provenance | None) -> Path:
    """Write a picture. Raises InvalidRequest, naming the file and the cause."""
    path = check_suffix(user_path(path), ".png")
    info = PngInfo()
    if provenance is not None:
        info.add_itxt("parameters", provenance.parameters())
        info.add_itxt(PLAN_CHUNK, provenance.chunk())
    with saving(path) as file:
        image.save(file, format="PNG", pnginfo=info)
    return path


def read_png(path: str | Path) -> SavedPicture:
    """Read a picture that Baton saved with its plan.

    The plan is checked before a pixel is decoded. Raises InvalidRequest for a file that is no such
    picture or is damaged, Incompatible for one that another version of Baton wrote.
    """
    path = user_path(path)
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            return _read(path)
    except BatonError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {_cause(error)}") from error
    except Exception as error:  # Pillow raises whatever its decoders raise
        raise InvalidRequest(f"{path} is a damaged PNG: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "it is not a PNG"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read(path: Path) -> SavedPicture:
    with Image.open(path, formats=["PNG"]) as image:
        text = image.info.get(PLAN_CHUNK) or _texts(path).get(PLAN_CHUNK)
        if not isinstance(text, str):
            raise InvalidRequest(
                "it carries no plan: it was not drawn by Baton, or saved without metadata"
            )
        provenance = read_chunk(text)
        size = provenance.task.size
        scale, left_over = divmod(image.width, size)
        if image.width != image.height or image.width > _MAX_SIDE or left_over:
            raise InvalidRequest(
                f"it has {image.width} x {image.height} pixels, its plan draws {size} x {size}:"
                " it was resized or cropped"
            )
        return SavedPicture(np.asarray(image.convert("RGB")), scale, provenance)


def _texts(path: Path) -> dict[str, str]:
    """The texts of a PNG, also those behind its pixels, of which none is decoded.

    Raises what Pillow raises for a damaged text or one that is too large.
    """
    with path.open("rb") as file, contextlib.suppress(struct.error):  # the file has been cut off
        file.seek(_SIGNATURE_BYTES)
        stream, kind = PngStream(file), b""
        while kind != b"IEND":
            kind, place, length = stream.read()
            if kind in _TEXT_CHUNKS:
                stream.crc(kind, stream.call(kind, place, length))
            else:
                file.seek(length + _CRC_BYTES, os.SEEK_CUR)
    return dict(stream.im_text)


_Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
_Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


_Version = Annotated[int, Field(ge=0, le=1_000_000)]


class _Versioned(BaseModel):
    version: _Version


class _Chunk(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: _Version
    protocol: _Version
    family: _Name
    fingerprint: _Fingerprint
    nodes: dict[str, NodeBuild] = Field(max_length=MAX_STEPS)
    prompt: str
    negative_prompt: str
    seed: int = Field(ge=0, lt=2**63)
    size: int = Field(ge=1, le=_MAX_SIDE)
    sampler: SamplerName
    steps: int = Field(ge=1, le=MAX_STEPS)
    guidance_scale: float
    codec: Codec
    transfers: tuple[int, ...] = Field(max_length=MAX_STEPS)
    executed: tuple[ExecutedStep, ...] = Field(min_length=1, max_length=MAX_STEPS)


def read_chunk(text: str) -> Provenance:
    """The provenance in a ``baton`` chunk; its task's plan is what really ran.

    Raises InvalidRequest for what is damaged or outside the limits, Incompatible for a chunk or a
    protocol of another version.
    """
    parts = sum(map(text.count, "[{,"))
    if len(text) > MAX_CHUNK_CHARS or parts > _MAX_CHUNK_PARTS:
        raise InvalidRequest(
            f"its plan is damaged: {len(text)} characters in {parts} parts are too many"
        )
    try:
        _check_version(_Versioned.model_validate_json(text, strict=True).version)
        chunk = _Chunk.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ascii(".".join(str(part) for part in first["loc"]))[1:-1][:60]
        raise InvalidRequest(f"its plan is damaged ({place}): {first['msg']}") from error
    if chunk.protocol != PROTOCOL_VERSION:
        raise Incompatible(
            f"it was drawn over protocol version {chunk.protocol}, this Baton speaks"
            f" {PROTOCOL_VERSION}"
        )
    _check_names(chunk)
    _check_executed(chunk)
    _check_nodes(chunk)
    terms = chunk.family, chunk.sampler, chunk.steps, chunk.guidance_scale
    plan = plan_that_ran(terms, chunk.executed)
    return Provenance(
        task=Task(chunk.prompt, chunk.negative_prompt, plan, chunk.seed, chunk.size),
        executed=chunk.executed,
        fingerprint=chunk.fingerprint,
        codec=str(chunk.codec),
        transfers=chunk.transfers,
        nodes=chunk.nodes,
    )


def _check_version(version: int) -> None:
    if version < _CHUNK_VERSION:
        raise Incompatible(
            f"its plan is of version {version}, which does not say all that a replay needs; draw"
            " the picture again"
        )
    if version > _CHUNK_VERSION:
        raise Incompatible(
            f"its plan is of version {version}, this Baton reads {_CHUNK_VERSION}; update Baton"
        )


def _check_names(chunk: _Chunk) -> None:
    """They are told on terminals."""
    names = [name for step in chunk.executed for name in (step.member, step.node_id)]
    for name in (chunk.family, *names):
        check_line(name, "its plan is damaged: a name")


def _check_executed(chunk: _Chunk) -> None:
    count = len(chunk.executed)
    if chunk.steps != count or [step.step for step in chunk.executed] != list(range(count)):
        raise InvalidRequest("its plan is damaged: its steps are not all there, in order")
    try:
        check_record(chunk.executed, chunk.transfers)
    except InvalidRequest as error:
        raise InvalidRequest(f"its plan is damaged: {error}") from error
    if any(one >= next_one for one, next_one in pairwise([0, *chunk.transfers, chunk.steps + 1])):
        raise InvalidRequest("its plan is damaged: the transfers are not steps in order")


def _check_nodes(chunk: _Chunk) -> None:
    if chunk.nodes.keys() != {step.node_id for step in chunk.executed}:
        raise InvalidRequest("its plan is damaged: its nodes are not those that ran its steps")
    if any(step.member not in chunk.nodes[step.node_id].members for step in chunk.executed):
        raise InvalidRequest("its plan is damaged: a member that ran has no fingerprint")


def plan_that_ran(
    terms: tuple[str, SamplerName, int, float], executed: tuple[ExecutedStep, ...]
) -> Plan:
    """The plan whose every step is what was executed; terms: family, sampler, steps, guidance.

    Raises InvalidRequest for steps that no plan can have.
    """
    segments = []
    for (member, location), group in groupby(executed, lambda step: (step.member, step.location)):
        steps = list(group)
        directives = tuple(step.directive for step in steps)
        start = steps[0].step
        segments.append(Segment(member, location, start, start + len(steps), directives))
    return Plan(*terms, tuple(segments))
