"""The record of a picture: all that its replay needs, and the text in which a PNG carries it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from baton.common.build import NodeBuild, check_line
from baton.common.errors import Incompatible, InvalidRequest
from baton.common.latents import Codec
from baton.common.limits import (
    MAX_BLOCKS,
    MAX_NAME_CHARS,
    MAX_ROWS,
    MAX_SEGMENTS,
    MAX_STEPS,
    Location,
    SamplerName,
)
from baton.common.plan import Grid, Guidance, OpenPlan, OpenSegment
from baton.common.record import ExecutedStep, check_record, plan_that_ran
from baton.common.request import Task
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.size import MAX_SIDE, Size

CHUNK_VERSION = 5
#: The oldest that is read, and the last in which both branches of a step run the same blocks.
_OLDEST = 3
_ALIKE = 4
#: A record names, at each step, the rows of its batch and the blocks that they ran. Since what is
#: parsed takes far more room than its text, its parts are counted before.
MAX_CHUNK_CHARS = 512 * 1024 + MAX_STEPS * MAX_ROWS * (len(str(1 << MAX_BLOCKS)) + 16)
_MAX_CHUNK_PARTS = 64 * 1024 + MAX_STEPS * MAX_ROWS * 3
_SAMPLER_NAMES = {"ddim": "DDIM", "euler": "Euler", "dpmpp_2m": "DPM++ 2M"}


@dataclass(frozen=True)
class Adapter:
    """A change of a member's weights (LoRA). digest: of its file."""

    member: str
    digest: str
    weight: float


@dataclass(frozen=True)
class Safety:
    """Whether ``by`` found that the picture may not be shown."""

    flagged: bool
    by: str


@dataclass(frozen=True)
class Provenance:
    """What a picture's chunks hold: all that its replay needs.

    fingerprint: of the latent space's files. codec, transfers: the steps before which the latent
    changed hands (a handoff, or a checkpoint from which another node went on), and what rounded it
    there. nodes: what drew it at each node that ran a step, by node id. The process that ran the
    last step decoded it, too.
    """

    task: Task
    executed: tuple[ExecutedStep, ...]
    fingerprint: str
    codec: str
    transfers: tuple[int, ...]
    nodes: Mapping[str, NodeBuild]
    adapters: tuple[Adapter, ...] = ()
    safety: Safety | None = None

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
            "Sampler": ">".join(_SAMPLER_NAMES[name] for name in plan.samplers),
            "CFG scale": ">".join(dict.fromkeys(f"{s.guidance.scale:g}" for s in plan.segments)),
            "Seed": task.seed,
            "Size": str(task.size),
            "Model": f"{plan.family}/{'>'.join(self.members_run)}",
        }
        lines = [task.prompt]
        if task.negative_prompt:
            lines.append(f"Negative prompt: {task.negative_prompt}")
        lines.append(", ".join(f"{key}: {value}" for key, value in settings.items()))
        return "\n".join(lines)

    def chunk(self) -> str:
        """The executed plan as JSON."""
        task, plan = self.task, self.task.plan
        return json.dumps(
            {
                "version": CHUNK_VERSION,
                "protocol": PROTOCOL_VERSION,
                "family": plan.family,
                "fingerprint": self.fingerprint,
                "nodes": {node_id: asdict(node) for node_id, node in self.nodes.items()},
                "prompt": task.prompt,
                "negative_prompt": task.negative_prompt,
                "seed": task.seed,
                "size": asdict(task.size),
                "segments": [_terms(segment) for segment in plan.segments],
                "codec": self.codec,
                "transfers": list(self.transfers),
                "executed": [_told(step) for step in self.executed],
                "adapters": [asdict(adapter) for adapter in self.adapters],
                "safety": None if self.safety is None else asdict(self.safety),
            }
        )


def _terms(segment: OpenSegment) -> dict[str, object]:
    """What of a segment the executed steps do not tell."""
    grid, guidance = asdict(segment.grid), asdict(segment.guidance)
    return {"start": segment.start, "stop": segment.stop, "grid": grid, "guidance": guidance}


def _told(step: ExecutedStep) -> dict[str, object]:
    """Without what is as usual."""
    usual = ExecutedStep(0, "", "device", "", "both", 0, 0)
    optional = ("blocks", "ahead", "prior_noise", "neighbours", "runtime", "negative_blocks")
    left_out = {name for name in optional if getattr(step, name) == getattr(usual, name)}
    return {name: value for name, value in asdict(step).items() if name not in left_out}


_Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
_Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_Version = Annotated[int, Field(ge=0, le=1_000_000)]


class _Versioned(BaseModel):
    version: _Version


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Terms(_Strict):
    start: int
    stop: int
    grid: Grid
    guidance: Guidance


class _Common(_Strict):
    """What every version holds. protocol: of the wire over which it was drawn; decides nothing."""

    version: _Version
    protocol: _Version
    family: _Name
    fingerprint: _Fingerprint
    nodes: dict[str, NodeBuild] = Field(max_length=MAX_STEPS)
    prompt: str
    negative_prompt: str
    seed: int = Field(ge=0, lt=2**63)
    codec: Codec
    transfers: tuple[int, ...] = Field(max_length=MAX_STEPS)


class _Chunk(_Common):
    size: Size
    segments: tuple[_Terms, ...] = Field(min_length=1, max_length=MAX_SEGMENTS)
    executed: tuple[ExecutedStep, ...] = Field(min_length=1, max_length=MAX_STEPS)
    adapters: tuple[Adapter, ...] = Field(max_length=MAX_SEGMENTS)
    safety: Safety | None


@dataclass(frozen=True)
class _Step3:
    """A step as version 3 has it: -1 stands for all blocks of a neighbour."""

    step: int
    member: str
    location: Location
    node_id: str
    guided: bool
    rows: int
    threads: int
    row: int = 0
    blocks: int | None = None
    ahead: int = 0
    prior_noise: float = 0.0
    neighbours: tuple[tuple[int, int], ...] = ()

    def now(self) -> ExecutedStep:
        fields = {name: value for name, value in vars(self).items() if name != "guided"}
        pairs = ((rows, None if bits < 0 else bits) for rows, bits in self.neighbours)
        branches = "both" if self.guided else "positive"
        return ExecutedStep(**fields | {"branches": branches, "neighbours": tuple(pairs)})


class _Chunk3(_Common):
    """One sampler and one guidance scale for all steps, and squares."""

    size: int = Field(ge=1, le=MAX_SIDE)
    sampler: SamplerName
    steps: int = Field(ge=1, le=MAX_STEPS)
    guidance_scale: float
    executed: tuple[_Step3, ...] = Field(min_length=1, max_length=MAX_STEPS)

    def now(self) -> _Chunk:
        grid, guidance = Grid(self.sampler, 0, self.steps), Guidance(self.guidance_scale)
        names = _Common.model_fields
        return _Chunk(
            **{name: getattr(self, name) for name in names},
            size=Size.of(self.size),
            segments=(_Terms(start=0, stop=self.steps, grid=grid, guidance=guidance),),
            executed=tuple(step.now() for step in self.executed),
            adapters=(),
            safety=None,
        )


def read_chunk(text: str) -> Provenance:
    """The provenance in a ``baton`` chunk; its task's plan is what really ran.

    Raises InvalidRequest for what is damaged or outside the limits, Incompatible for a chunk of
    another version.
    """
    parts = sum(map(text.count, "[{,"))
    if len(text) > MAX_CHUNK_CHARS or parts > _MAX_CHUNK_PARTS:
        raise InvalidRequest(
            f"its plan is damaged: {len(text)} characters in {parts} parts are too many"
        )
    version = _parsed(_Versioned, text).version
    _check_version(version)
    chunk = _parsed(_Chunk3, text).now() if version == _OLDEST else _parsed(_Chunk, text)
    _check_names(chunk)
    _check_executed(chunk)
    _check_nodes(chunk)
    return Provenance(
        task=Task(chunk.prompt, chunk.negative_prompt, _plan_of(chunk), chunk.seed, chunk.size),
        executed=chunk.executed,
        fingerprint=chunk.fingerprint,
        codec=str(chunk.codec),
        transfers=chunk.transfers,
        nodes=chunk.nodes,
        adapters=chunk.adapters,
        safety=chunk.safety,
    )


M = TypeVar("M", bound=BaseModel)


def _parsed(model: type[M], text: str) -> M:
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ascii(".".join(str(part) for part in first["loc"]))[1:-1][:60]
        raise InvalidRequest(f"its plan is damaged ({place}): {first['msg']}") from error


def _plan_of(chunk: _Chunk) -> OpenPlan:
    """What ran. Raises InvalidRequest for steps that no plan can have."""
    first = chunk.executed[0]
    allowed = [
        OpenSegment(first.member, first.location, item.start, item.stop, item.grid, item.guidance)
        for item in chunk.segments
    ]
    plan = OpenPlan(chunk.family, tuple(allowed))
    if plan.steps != len(chunk.executed):
        raise InvalidRequest("its plan is damaged: its steps are not all there, in order")
    return plan_that_ran(plan, chunk.executed)


def _check_version(version: int) -> None:
    if version < _OLDEST:
        raise Incompatible(
            f"its plan is of version {version}, which does not say all that a replay needs; draw"
            " the picture again"
        )
    if version > CHUNK_VERSION:
        raise Incompatible(
            f"its plan is of version {version}, this Baton reads up to {CHUNK_VERSION}; update"
            " Baton"
        )


def _check_names(chunk: _Chunk) -> None:
    """They are told on terminals."""
    names = [name for step in chunk.executed for name in (step.member, step.node_id)]
    for name in (chunk.family, *names):
        check_line(name, "its plan is damaged: a name")


def _check_executed(chunk: _Chunk) -> None:
    count = len(chunk.executed)
    if chunk.version <= _ALIKE and any(step.negative_blocks is not None for step in chunk.executed):
        raise InvalidRequest("its plan is damaged: its version has no blocks of a second branch")
    if [step.step for step in chunk.executed] != list(range(count)):
        raise InvalidRequest("its plan is damaged: its steps are not all there, in order")
    try:
        check_record(chunk.executed, chunk.transfers)
    except InvalidRequest as error:
        raise InvalidRequest(f"its plan is damaged: {error}") from error
    if any(one >= next_one for one, next_one in pairwise([0, *chunk.transfers, count + 1])):
        raise InvalidRequest("its plan is damaged: the transfers are not steps in order")


def _check_nodes(chunk: _Chunk) -> None:
    if chunk.nodes.keys() != {step.node_id for step in chunk.executed}:
        raise InvalidRequest("its plan is damaged: its nodes are not those that ran its steps")
    if any(step.member not in chunk.nodes[step.node_id].members for step in chunk.executed):
        raise InvalidRequest("its plan is damaged: a member that ran has no fingerprint")
