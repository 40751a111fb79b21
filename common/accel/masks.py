"""Learned block masks on disk: what each was trained for, and its refusal elsewhere.

A mask says by step which blocks run (timestep-aware block masking, Eq. 3).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from baton.common.accel.propagation import are_keys
from baton.common.errors import Incompatible, WeightsError
from baton.common.files import saving
from baton.common.limits import MAX_BLOCKS, MAX_NAME_CHARS, MAX_STEPS, SamplerName

if TYPE_CHECKING:  # what a command line refuses, it refuses before torch is imported
    from baton.common.diffusion.blocks import BlockGraph, Blocks

_VERSION = 2
#: That of masks which do not say on which levels they were trained.
_UNSTAMPED = 1
_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class MaskKey:
    """What a mask was trained for; it is of no use to anything else.

    fingerprint: of the member and its text encoder; grid: digest of the noise levels; keys: the key
    steps of the encoder propagation within which it was trained, none without it.
    """

    family: str
    member: str
    fingerprint: str
    sampler: SamplerName
    steps: int
    grid: str
    keys: tuple[int, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.family}/{self.member} ({self.fingerprint[:12]}) with {self.sampler} in"
            f" {self.steps} steps on levels {self.grid[:12]}{self._propagation()}"
        )

    def _propagation(self) -> str:
        return f", propagated from steps {', '.join(map(str, self.keys))}" if self.keys else ""


@dataclass(frozen=True)
class BlockMask:
    """blocks: names, in the graph's order; run: by step, the bits of those that run.

    chances: by step and block, the learned chance that it runs; settings: of the training.
    """

    key: MaskKey
    blocks: tuple[str, ...]
    run: tuple[Blocks, ...]
    chances: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    settings: dict[str, float | int | str | bool] = field(default_factory=dict)

    def check(self, wanted: MaskKey, graph: BlockGraph) -> BlockMask:
        """Itself. Raises Incompatible, naming both, if it is for something else."""
        key = self.key if self.key.grid else replace(self.key, grid=wanted.grid)
        if key != wanted:
            raise Incompatible(f"the block mask is for {self.key}, not for {wanted}")
        if self.blocks != graph.names:
            raise Incompatible(
                f"the block mask has {len(self.blocks)} blocks, {self.key.member} has other"
                f" {len(graph)}"
            )
        return self


def mask_path(folder: Path, sampler: str, steps: int, propagated: bool = False) -> Path:
    """Where a member keeps its mask for a sampler and a number of steps.

    propagated: the one to be used together with encoder propagation.
    """
    return folder / f"{sampler}-{steps}{'-propagated' if propagated else ''}.json"


def save_mask(mask: BlockMask, path: Path) -> Path:
    """Raises InvalidRequest, naming the file and the cause, if it cannot be written."""
    content = {
        "version": _VERSION,
        "family": mask.key.family,
        "member": mask.key.member,
        "fingerprint": mask.key.fingerprint,
        "sampler": mask.key.sampler,
        "steps": mask.key.steps,
        "grid": mask.key.grid,
        "keys": list(mask.key.keys),
        "blocks": list(mask.blocks),
        "run": [f"{bits:x}" for bits in mask.run],
        "chances": [[round(chance, 3) for chance in row] for row in mask.chances],
        "settings": mask.settings,
    }
    with saving(path) as file:
        file.write(json.dumps(content | {"digest": _digest(content)}).encode() + b"\n")
    return path


def load_mask(path: Path) -> BlockMask:
    """Raises WeightsError, in one line, for a file that is missing, damaged or of another kind."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > _MAX_BYTES:
        raise WeightsError(f"{path} is not a block mask: {len(raw)} bytes are too many")
    try:
        stored, content = _File.model_validate_json(raw, strict=True), json.loads(raw)
    except (ValidationError, ValueError) as error:
        raise WeightsError(f"{path} is not a block mask: {_first(error)}") from error
    content.pop("digest")
    if _digest(content) != stored.digest:
        raise WeightsError(f"{path} is damaged: its digest is not that of its content")
    if stored.version not in (_UNSTAMPED, _VERSION):
        raise WeightsError(f"{path} is of version {stored.version}, this Baton reads {_VERSION}")
    if bool(stored.grid) != (stored.version == _VERSION):
        raise WeightsError(f"{path} is not a block mask: its levels are not those of its version")
    run = _bits(path, stored.run, len(stored.blocks), stored.steps)
    if stored.keys and not are_keys(stored.keys, stored.steps):
        raise WeightsError(f"{path} is not a block mask: its key steps are none")
    return BlockMask(
        MaskKey(
            stored.family,
            stored.member,
            stored.fingerprint,
            stored.sampler,
            stored.steps,
            stored.grid,
            stored.keys,
        ),
        stored.blocks,
        run,
        stored.chances,
        stored.settings,
    )


#: They are told on terminals.
_Name = Annotated[str, Field(pattern=rf"^[^\p{{C}}\p{{Zl}}\p{{Zp}}]{{1,{MAX_NAME_CHARS}}}$")]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    family: _Name
    member: _Name
    fingerprint: str = Field(pattern=r"^[0-9a-f]{32}$")
    sampler: SamplerName
    steps: int = Field(ge=1, le=MAX_STEPS)
    grid: str = Field("", pattern=r"^([0-9a-f]{32})?$")
    keys: tuple[int, ...] = Field(max_length=MAX_STEPS)
    blocks: tuple[str, ...] = Field(min_length=1, max_length=MAX_BLOCKS)
    run: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{1,256}$")], ...]
    chances: tuple[tuple[float, ...], ...]
    settings: dict[str, float | int | str | bool]
    digest: str


def _bits(path: Path, run: Sequence[str], blocks: int, steps: int) -> tuple[Blocks, ...]:
    bits = tuple(int(text, 16) for text in run)
    if len(bits) != steps or max(bits) >= 1 << blocks:
        raise WeightsError(f"{path} is not a block mask: its rows are not those of {steps} steps")
    return bits


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        place = ascii(".".join(str(part) for part in first["loc"]))[1:-1][:60]
        return f"{place}: {first['msg']}" if place else str(first["msg"])
    return str(error)
