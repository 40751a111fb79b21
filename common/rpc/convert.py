"""Between the wire's messages and the domain's values, in one place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from baton.common.errors import Incompatible, InvalidRequest
from baton.common.plan import (
    FULL_STEP,
    MAX_BLOCKS,
    MAX_ROWS,
    MAX_SEGMENTS,
    MAX_STEPS,
    ExecutedStep,
    Location,
    Plan,
    Segment,
    StepDirective,
    check_accel,
    check_sampler,
)
from baton.common.rpc import PROTOCOL_VERSION
from baton.v1 import plan_pb2

#: Of what a device reports about the edges that it tried.
MAX_ATTEMPTS = 64
MAX_FAMILY_MEMBERS = 64

_STEP_BYTES = 1024  # of a stretch without its neighbours: names and numbers
_ROWS_BYTES = 16  # of a neighbour without its blocks

_LOCATIONS: dict[Location, plan_pb2.Location.ValueType] = {
    "edge": plan_pb2.LOCATION_EDGE,
    "device": plan_pb2.LOCATION_DEVICE,
}
_LOCATION_NAMES = {number: name for name, number in _LOCATIONS.items()}


def check_protocol(version: int, peer: str) -> None:
    """Raises Incompatible, naming both versions, unless the peer speaks ours."""
    if version != PROTOCOL_VERSION:
        raise Incompatible(
            f"{peer} speaks protocol version {version}, this side {PROTOCOL_VERSION};"
            " update the older one"
        )


def plan_to_proto(plan: Plan) -> plan_pb2.Plan:
    return plan_pb2.Plan(
        family=plan.family,
        sampler=plan.sampler,
        steps=plan.steps,
        guidance_scale=plan.guidance_scale,
        accel=plan.accel,
        segments=[_segment_to_proto(segment) for segment in plan.segments],
    )


def plan_from_proto(message: plan_pb2.Plan) -> Plan:
    """Raises InvalidRequest for a plan outside the limits."""
    if len(message.segments) > MAX_SEGMENTS:
        raise InvalidRequest(f"a plan has 1 to {MAX_SEGMENTS} segments")
    return Plan(
        family=message.family,
        sampler=check_sampler(message.sampler),
        steps=message.steps,
        guidance_scale=message.guidance_scale,
        segments=tuple(_segment_from_proto(segment) for segment in message.segments),
        accel=check_accel(message.accel or "none"),
    )


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
    return plan_pb2.ExecutedStretch(
        start=step.step,
        stop=step.step + 1,
        member=step.member,
        location=_LOCATIONS[step.location],
        node_id=step.node_id,
        guided=step.guided,
        rows=step.rows,
        threads=step.threads,
        row=step.row,
        blocks=_blocks_to_proto(step.blocks),
        ahead=step.ahead,
        prior_noise=step.prior_noise,
        neighbours=[
            plan_pb2.BatchRows(rows=rows, blocks=_blocks_to_proto(None if bits < 0 else bits))
            for rows, bits in step.neighbours
        ],
    )


def _blocks_to_proto(blocks: int | None) -> bytes | None:
    return None if blocks is None else blocks.to_bytes((blocks.bit_length() + 7) // 8, "little")


def _blocks_from_proto(
    message: plan_pb2.StepDirective | plan_pb2.ExecutedStretch | plan_pb2.BatchRows,
) -> int | None:
    if not message.HasField("blocks"):
        return None
    if len(message.blocks) > MAX_BLOCKS // 8:
        raise InvalidRequest(f"a member has at most {MAX_BLOCKS} blocks")
    return int.from_bytes(message.blocks, "little")


def _neighbours_from_proto(message: plan_pb2.ExecutedStretch) -> tuple[tuple[int, int], ...]:
    if len(message.neighbours) > MAX_ROWS:
        raise InvalidRequest(f"a batch has at most {MAX_ROWS} rows")
    found = [(item.rows, _blocks_from_proto(item)) for item in message.neighbours]
    return tuple((rows, -1 if blocks is None else blocks) for rows, blocks in found)


def _steps_of(message: plan_pb2.ExecutedStretch) -> list[ExecutedStep]:
    if not message.start < message.stop <= MAX_STEPS:
        raise InvalidRequest(f"{message.start}..{message.stop} is not a stretch of steps")
    first = ExecutedStep(
        step=message.start,
        member=message.member,
        location=location_from_proto(message.location),
        node_id=message.node_id,
        guided=message.guided,
        rows=message.rows,
        threads=message.threads,
        row=message.row,
        blocks=_blocks_from_proto(message),
        ahead=message.ahead,
        prior_noise=message.prior_noise,
        neighbours=_neighbours_from_proto(message),
    )
    return [replace(first, step=index) for index in range(message.start, message.stop)]


def location_from_proto(number: plan_pb2.Location.ValueType) -> Location:
    """Raises InvalidRequest for an unknown place."""
    if number not in _LOCATION_NAMES:
        raise InvalidRequest(f"unknown location {number}")
    return _LOCATION_NAMES[number]


def _segment_to_proto(segment: Segment) -> plan_pb2.Segment:
    plain = all(directive == FULL_STEP for directive in segment.directives)
    return plan_pb2.Segment(
        member=segment.member,
        location=_LOCATIONS[segment.location],
        start=segment.start,
        stop=segment.stop,
        directives=() if plain else [_directive_to_proto(item) for item in segment.directives],
    )


def _segment_from_proto(message: plan_pb2.Segment) -> Segment:
    location = location_from_proto(message.location)
    if len(message.directives) > MAX_STEPS:
        raise InvalidRequest(f"a segment has {len(message.directives)} directives")
    if not message.directives:
        return Segment.full(message.member, location, message.start, message.stop)
    directives = tuple(_directive_from_proto(item) for item in message.directives)
    return Segment(message.member, location, message.start, message.stop, directives)


def _directive_to_proto(directive: StepDirective) -> plan_pb2.StepDirective:
    return plan_pb2.StepDirective(
        guided=directive.guided,
        blocks=_blocks_to_proto(directive.blocks),
        ahead=directive.ahead,
        prior_noise=directive.prior_noise,
    )


def _directive_from_proto(message: plan_pb2.StepDirective) -> StepDirective:
    return StepDirective(
        guided=message.guided,
        blocks=_blocks_from_proto(message),
        ahead=message.ahead,
        prior_noise=message.prior_noise,
    )
