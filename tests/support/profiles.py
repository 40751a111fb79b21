"""A profile made up, for tests of what follows from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from baton.common.build import Build
from baton.common.size import Size
from baton.edge_server.scheduling.profile import (
    VERSION,
    Beside,
    Call,
    Conditions,
    DecoderProfile,
    MemberProfile,
    Profile,
    Together,
)

SIZE = Size.of(64)
CONDITIONS = Conditions(
    device="cpu",
    dtype="float32",
    threads=1,
    family="made-up",
    fingerprint="f" * 32,
    members={"large": "a" * 32, "small": "b" * 32},
    build=Build("1", "2", "3", "4", "5", "a processor"),
)


def member(
    name: str = "large",
    calls: Mapping[int, float] | None = None,
    beside: Sequence[Beside] = (),
    size: Size = SIZE,
) -> MemberProfile:
    """calls: seconds by rows; left out, 10 ms and 5 ms a row, up to 8."""
    taken = calls or {rows: 0.01 + 0.005 * rows for rows in (1, 2, 4, 8)}
    told = tuple(Call(rows=rows, seconds=seconds) for rows, seconds in taken.items())
    return MemberProfile(member=name, size=size, calls=told, beside=tuple(beside))


def decoder(seconds: float = 0.12, pieces: int = 4, size: Size = SIZE) -> DecoderProfile:
    each = (seconds / pieces,) * pieces
    together = tuple(Together(decodes=count, seconds=count * seconds) for count in (1, 2))
    return DecoderProfile(size=size, seconds=seconds, pieces=each, together=together)


def profile(
    members: Sequence[MemberProfile] = (),
    decoders: Sequence[DecoderProfile] | None = None,
    conditions: Conditions = CONDITIONS,
    quick: bool = False,
    measured: float = 1_000.0,
) -> Profile:
    chosen = tuple(members) or (member(),)
    held = {of.member: conditions.members[of.member] for of in chosen}
    return Profile(
        version=VERSION,
        conditions=conditions.model_copy(update={"members": held}),
        measured=measured,
        quick=quick,
        members=chosen,
        decoders=(decoder(),) if decoders is None else tuple(decoders),
    )
