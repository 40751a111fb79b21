"""Between the wire's messages and the domain's values, in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from baton.common.errors import Incompatible, InvalidRequest
from baton.common.guidance import GuidanceBudget
from baton.common.limits import (
    BOTH,
    MAX_BLOCKS,
    MAX_ROWS,
    MAX_SEGMENTS,
    MAX_STEPS,
    Branches,
    GuidanceKind,
    Location,
    check_accel,
    check_sampler,
)
from baton.common.plan import (
    FULL_STEP,
    Grid,
    Guidance,
    OpenPlan,
    OpenSegment,
    StepDirective,
)
from baton.common.record import ExecutedStep, Runtime
from baton.common.rpc import PROTOCOL_VERSION
from baton.v1 import plan_pb2

_STEP_BYTES = 1024  # of a stretch without its neighbours: names and numbers
_ROWS_BYTES = 16  # of a neighbour without its blocks

_LOCATIONS: dict[Location, plan_pb2.Location.ValueType] = {
    "edge": plan_pb2.LOCATION_EDGE,
    "device": plan_pb2.LOCATION_DEVICE,
}
_BRANCHES: dict[Branches, plan_pb2.Branches.ValueType] = {
    "both": plan_pb2.BRANCHES_BOTH,
    "positive": plan_pb2.BRANCHES_POSITIVE,
    "reuse": plan_pb2.BRANCHES_REUSE,
}
_KINDS: dict[GuidanceKind, plan_pb2.GuidanceKind.ValueType] = {
    "two_branches": plan_pb2.GUIDANCE_KIND_TWO_BRANCHES,
    "none": plan_pb2.GUIDANCE_KIND_NONE,
    "embedded": plan_pb2.GUIDANCE_KIND_EMBEDDED,
}
_LOCATION_NAMES = {number: name for name, number in _LOCATIONS.items()}
_BRANCHES_NAMES = {number: name for name, number in _BRANCHES.items()}
_KIND_NAMES = {number: name for name, number in _KINDS.items()}


def check_protocol(version: int, peer: str) -> None:
    """Raises Incompatible, naming both versions, unless the peer speaks ours."""
    if version != PROTOCOL_VERSION:
        raise Incompatible(
            f"{peer} speaks protocol version {version}, this side {PROTOCOL_VERSION};"
            " update the older one"
        )


def plan_to_proto(plan: OpenPlan) -> plan_pb2.Plan:
    budget = plan.budget
    return plan_pb2.Plan(
        family=plan.family,
        segments=[_segment_to_proto(segment) for segment in plan.segments],
        budget=None
        if budget is None
        else plan_pb2.GuidanceBudget(
            after=budget.after, in_a_row=budget.in_a_row, branches=_BRANCHES[budget.branches]
        ),
    )


def plan_from_proto(message: plan_pb2.Plan) -> OpenPlan:
    """Raises InvalidRequest for a plan outside the limits."""
    if len(message.segments) > MAX_SEGMENTS:
        raise InvalidRequest(f"a plan has 1 to {MAX_SEGMENTS} segments")
    segments = tuple(_segment_from_proto(segment) for segment in message.segments)
    return OpenPlan(message.family, segments, _budget_from_proto(message))


def _budget_from_proto(message: plan_pb2.Plan) -> GuidanceBudget | None:
    if not message.HasField("budget"):
        return None
    budget = message.budget
    return GuidanceBudget(budget.after, budget.in_a_row, _branches_from_proto(budget.branches))


def executed_to_proto(steps: Iterable[ExecutedStep]) -> list[plan_pb2.ExecutedStretch]:
    """Steps that ran alike, one after the other, become one message."""
    stretches: list[plan_pb2.ExecutedStretch] = []
    previous: ExecutedStep | None = None
    for step in steps:
        if previous is not None and step == replace(previous, step=previous.step + 1):
            stretches[-1].stop += 1
        else:
            stretches.append(_stretch_to_proto(step))
        previous = step
    return stretches


def executed_from_proto(stretches: Iterable[plan_pb2.ExecutedStretch]) -> list[ExecutedStep]:
    """Raises InvalidRequest for stretches outside the limits."""
    steps: list[ExecutedStep] = []
    for stretch in stretches:
        steps += _steps_of(stretch)
        if len(steps) > MAX_STEPS:  # a few bytes each, and they would be millions
            raise InvalidRequest(f"more than the {MAX_STEPS} steps that a plan may have")
    return steps


def largest_record(steps: int) -> int:
    """Bytes of the largest record of so many executed steps, each with all its neighbours."""
    return steps * (_STEP_BYTES + MAX_ROWS * (_ROWS_BYTES + MAX_BLOCKS // 8))


def _stretch_to_proto(step: ExecutedStep) -> plan_pb2.ExecutedStretch:
    runtime = step.runtime
    return plan_pb2.ExecutedStretch(
        start=step.step,
        stop=step.step + 1,
        member=step.member,
        location=_LOCATIONS[step.location],
        node_id=step.node_id,
        branches=_BRANCHES[step.branches],
        blocks=_blocks_to_proto(step.blocks, step.negative_blocks),
        ahead=step.ahead,
        prior_noise=step.prior_noise,
        rows=step.rows,
        threads=step.threads,
        row=step.row,
        neighbours=[_rows_to_proto(rows, blocks) for rows, blocks in step.neighbours],
        runtime=plan_pb2.Runtime(
            device=runtime.device,
            dtype=runtime.dtype,
            attention=runtime.attention,
            compiled=runtime.compiled,
        ),
    )


def _rows_to_proto(rows: int, blocks: int | None) -> plan_pb2.BatchRows:
    return plan_pb2.BatchRows(rows=rows, blocks=None if blocks is None else _packed(blocks))


def _blocks_to_proto(*branches: int | None) -> list[bytes]:
    """Of the first branch, and of the other one where it runs others."""
    return [_packed(blocks) for blocks in branches if blocks is not None]


def _packed(blocks: int) -> bytes:
    return blocks.to_bytes((blocks.bit_length() + 7) // 8, "little")


def _blocks_from_proto(branches: Sequence[bytes]) -> tuple[int | None, int | None]:
    """By branch; None for the second where it runs what the first one does."""
    if len(branches) > len(BOTH):
        raise InvalidRequest(f"a step has at most {len(BOTH)} branches")
    positive, negative = ([_unpacked(blocks) for blocks in branches] + [None, None])[:2]
    return positive, None if negative == positive else negative


def _unpacked(blocks: bytes) -> int:
    if len(blocks) > MAX_BLOCKS // 8:
        raise InvalidRequest(f"a member has at most {MAX_BLOCKS} blocks")
    return int.from_bytes(blocks, "little")


def _neighbours_from_proto(
    message: plan_pb2.ExecutedStretch,
) -> tuple[tuple[int, int | None], ...]:
    if len(message.neighbours) > MAX_ROWS:
        raise InvalidRequest(f"a batch has at most {MAX_ROWS} rows")
    return tuple(
        (item.rows, _unpacked(item.blocks) if item.HasField("blocks") else None)
        for item in message.neighbours
    )


def _steps_of(message: plan_pb2.ExecutedStretch) -> list[ExecutedStep]:
    if not message.start < message.stop <= MAX_STEPS:
        raise InvalidRequest(f"{message.start}..{message.stop} is not a stretch of steps")
    runtime = message.runtime
    blocks, negative_blocks = _blocks_from_proto(message.blocks)
    first = ExecutedStep(
        step=message.start,
        member=message.member,
        location=location_from_proto(message.location),
        node_id=message.node_id,
        branches=_branches_from_proto(message.branches),
        rows=message.rows,
        threads=message.threads,
        row=message.row,
        blocks=blocks,
        ahead=message.ahead,
        prior_noise=message.prior_noise,
        neighbours=_neighbours_from_proto(message),
        runtime=Runtime(runtime.device, runtime.dtype, runtime.attention, runtime.compiled),
        negative_blocks=negative_blocks,
    )
    return [replace(first, step=index) for index in range(message.start, message.stop)]


def location_from_proto(number: plan_pb2.Location.ValueType) -> Location:
    """Raises InvalidRequest for an unknown place."""
    if number not in _LOCATION_NAMES:
        raise InvalidRequest(f"unknown location {number}")
    return _LOCATION_NAMES[number]


def _branches_from_proto(number: plan_pb2.Branches.ValueType) -> Branches:
    if number not in _BRANCHES_NAMES:
        raise InvalidRequest(f"unknown branches {number}")
    return _BRANCHES_NAMES[number]


def _segment_to_proto(segment: OpenSegment) -> plan_pb2.Segment:
    plain = all(directive == FULL_STEP for directive in segment.directives)
    grid, guidance = segment.grid, segment.guidance
    return plan_pb2.Segment(
        member=segment.member,
        location=_LOCATIONS[segment.location],
        start=segment.start,
        stop=segment.stop,
        directives=() if plain else [_directive_to_proto(item) for item in segment.directives],
        grid=plan_pb2.Grid(
            sampler=grid.sampler,
            start=grid.start,
            stop=grid.stop,
            until=grid.until,
            name=grid.name,
            digest=grid.digest,
        ),
        guidance=plan_pb2.Guidance(scale=guidance.scale, kind=_KINDS[guidance.kind]),
        accel=segment.accel,
    )


def _segment_from_proto(message: plan_pb2.Segment) -> OpenSegment:
    if len(message.directives) > MAX_STEPS:
        raise InvalidRequest(f"a segment has {len(message.directives)} directives")
    return OpenSegment(
        member=message.member,
        location=location_from_proto(message.location),
        start=message.start,
        stop=message.stop,
        grid=_grid_from_proto(message.grid),
        guidance=_guidance_from_proto(message.guidance),
        directives=tuple(_directive_from_proto(item) for item in message.directives),
        accel=check_accel(message.accel or "none"),
    )


def _grid_from_proto(message: plan_pb2.Grid) -> Grid:
    return Grid(
        sampler=check_sampler(message.sampler),
        start=message.start,
        stop=message.stop,
        until=message.until if message.HasField("until") else None,
        name=message.name,
        digest=message.digest,
    )


def _guidance_from_proto(message: plan_pb2.Guidance) -> Guidance:
    if message.kind not in _KIND_NAMES:
        raise InvalidRequest(f"unknown kind of guidance {message.kind}")
    return Guidance(message.scale, _KIND_NAMES[message.kind])


def _directive_to_proto(directive: StepDirective) -> plan_pb2.StepDirective:
    return plan_pb2.StepDirective(
        branches=_BRANCHES[directive.branches],
        blocks=_blocks_to_proto(directive.blocks, directive.negative_blocks),
        ahead=directive.ahead,
        prior_noise=directive.prior_noise,
    )


def _directive_from_proto(message: plan_pb2.StepDirective) -> StepDirective:
    blocks, negative_blocks = _blocks_from_proto(message.blocks)
    return StepDirective(
        branches=_branches_from_proto(message.branches),
        blocks=blocks,
        ahead=message.ahead,
        prior_noise=message.prior_noise,
        negative_blocks=negative_blocks,
    )
