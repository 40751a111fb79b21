"""What an edge's rounds cost on its machine, as measured once, ahead (SynerDiff, offline profiler).

Everything else (the saturation batch, how many decodes run beside a call, the chunk count of Eq. 1)
follows from what was measured, and is computed from it where it is asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from baton.common.build import Build
from baton.common.limits import MAX_ROWS
from baton.common.size import Size
from baton.edge_server.scheduling.bounds import CLOSE, Points, chunk_cost, on_line, saturation

VERSION: Final = 1
_MAX_CHUNKS = 256
_MAX_DECODES = 64
_MAX_MEASURED = 4096

_Text = Annotated[str, Field(min_length=1, max_length=256)]
_Seconds = Annotated[float, Field(gt=0)]
_Rows = Annotated[int, Field(ge=1, le=MAX_ROWS)]
_Chunks = Annotated[int, Field(ge=1, le=_MAX_CHUNKS)]
_Decodes = Annotated[int, Field(ge=1, le=_MAX_DECODES)]
#: 1: decodes run on the model's thread, after its call; 2: on another, beside it.
LaneCount = Literal[1, 2]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Conditions(_Value):
    """On what measured seconds depend. members: fingerprints by member."""

    device: _Text
    dtype: _Text
    threads: Annotated[int, Field(ge=1)]
    family: _Text
    fingerprint: _Text
    members: dict[_Text, _Text]
    build: Build

    def differences(self, here: Conditions) -> list[str]:
        """What is not the same ``here``, a phrase each; of members, those that both have."""
        found = [
            f"{name} {there} then, {now} here"
            for name in ("device", "dtype", "threads", "family", "fingerprint")
            if (there := getattr(self, name)) != (now := getattr(here, name))
        ]
        altered = [
            f"other weights of {member} here"
            for member in self.members.keys() & here.members.keys()
            if self.members[member] != here.members[member]
        ]
        return found + sorted(altered) + self.build.differences(here.build, "then")


class Call(_Value):
    """Seconds of a UNet call over so many rows, alone."""

    rows: _Rows
    seconds: _Seconds


class Beside(_Value):
    """Seconds of a UNet call with chunks of decodes beside it, and until those are done.

    chunks: into how many a decode is cut; decodes: that each ran one; alone: of such calls a moment
    before, since a machine is not as fast at all times.
    """

    lanes: LaneCount
    rows: _Rows
    chunks: _Chunks
    decodes: _Decodes
    alone: _Seconds
    unet: _Seconds
    vae: _Seconds

    @property
    def slowdown(self) -> float:
        """Of the call, times alone."""
        return self.unet / self.alone


class Together(_Value):
    """Seconds until so many decodes, begun together and advanced in turn, are all done."""

    decodes: _Decodes
    seconds: _Seconds


class DecoderProfile(_Value):
    """Of one size. seconds: of a whole decode, alone; pieces: of each of the decoder's."""

    size: Size
    seconds: _Seconds
    pieces: Annotated[tuple[_Seconds, ...], Field(min_length=1, max_length=_MAX_CHUNKS)]
    together: Annotated[tuple[Together, ...], Field(max_length=_MAX_DECODES)] = ()


class MemberProfile(_Value):
    """Of one member and size. calls: by ascending rows."""

    member: _Text
    size: Size
    calls: Annotated[tuple[Call, ...], Field(min_length=1, max_length=MAX_ROWS)]
    beside: Annotated[tuple[Beside, ...], Field(max_length=_MAX_MEASURED)] = ()

    @field_validator("calls")
    @classmethod
    def _check_calls(cls, calls: tuple[Call, ...]) -> tuple[Call, ...]:
        if any(one.rows >= other.rows for one, other in pairwise(calls)):
            raise ValueError("rows must ascend")
        return calls

    def seconds(self, rows: float) -> float | None:
        """Of a call alone; None for more rows, or fewer, than were measured."""
        return on_line([(call.rows, call.seconds) for call in self.calls], rows)

    @property
    def rates(self) -> Points:
        """Rows a second, by rows."""
        return [(call.rows, call.rows / call.seconds) for call in self.calls]

    @property
    def best_rows(self) -> int:
        """``B_max``."""
        return saturation(self.rates)

    def beside_at(
        self, rows: int, decodes: int, chunks: int, lanes: LaneCount
    ) -> tuple[float, float] | None:
        """How many times as long the call takes as alone, and seconds until the chunks are done.

        Between what was measured; None outside.
        """
        found = self._grids.get(lanes, {})
        by_chunks = []
        for cut, by_decodes in found.items():
            curve = [
                (count, slowdown, vae)
                for count, line in by_decodes.items()
                if (slowdown := on_line([(r, s) for r, s, _ in line], rows)) is not None
                and (vae := on_line([(r, v) for r, _, v in line], rows)) is not None
            ]
            at = _between(curve, decodes)
            if at is not None:
                by_chunks.append((cut, *at))
        return _between(by_chunks, chunks)

    @cached_property
    def _grids(self) -> dict[LaneCount, dict[int, dict[int, list[tuple[int, float, float]]]]]:
        """By lanes, chunks and decodes, ascending: (rows, slowdown, vae), ascending."""
        grids: dict[LaneCount, dict[int, dict[int, list[tuple[int, float, float]]]]] = {}
        for one in sorted(self.beside, key=lambda one: (one.chunks, one.decodes, one.rows)):
            cut = grids.setdefault(one.lanes, {}).setdefault(one.chunks, {})
            cut.setdefault(one.decodes, []).append((one.rows, one.slowdown, one.vae))
        return grids

    def measured_on(self, lanes: LaneCount) -> bool:
        """Whether anything was, beside a call."""
        return lanes in self._grids

    def most_decodes(self, chunks: int, lanes: LaneCount) -> int:
        """``V_max``: of chunk tasks that leave a call of ``best_rows`` as fast as it is alone.

        Of those measured; one at least, or no decode would end.
        """
        counts = {one.decodes for one in self.beside if one.lanes == lanes}
        kept = [count for count in counts if self._keeps_up(count, chunks, lanes)]
        return max(kept, default=1)

    def most_chunks(self, lanes: LaneCount) -> int:
        """The chunk count from which on one chunk leaves a call of ``best_rows`` as it is alone.

        Smaller chunks gain the UNet nothing more, so more are not worth searching.
        """
        counts = sorted({one.chunks for one in self.beside if one.lanes == lanes})
        enough = (count for count in counts if self._keeps_up(1, count, lanes))
        return next(enough, counts[-1] if counts else 1)

    def _keeps_up(self, decodes: int, chunks: int, lanes: LaneCount) -> bool:
        found = self.beside_at(self.best_rows, decodes, chunks, lanes)
        return found is not None and found[0] <= 1 + CLOSE


def _between(points: Sequence[tuple[int, float, float]], x: float) -> tuple[float, float] | None:
    """Both curves at x."""
    first = on_line([(at, one) for at, one, _ in points], x)
    second = on_line([(at, two) for at, _, two in points], x)
    return None if first is None or second is None else (first, second)


@dataclass(frozen=True)
class MeasuredLatencies:
    """Seconds of rounds of one member and size, tasks taken as guided: a row less for each lean.

    unet_scale, vae_scale: times what was measured, at another size. A round whose decodes were not
    measured beside its call is, on one lane, taken for the call and then the chunks; on two, where
    others were, it is not known, and else taken as if neither lane slowed the other.
    """

    member: MemberProfile
    decoder: DecoderProfile | None
    chunks: int
    lanes: LaneCount = 1
    unet_scale: float = 1.0
    vae_scale: float = 1.0
    _known: dict[tuple[int, int], tuple[float, float] | None] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def estimated(self) -> bool:
        """Whether it stems from a picture of another size, by its area."""
        return (self.unet_scale, self.vae_scale) != (1.0, 1.0)

    def unet(self, u: int, v: int, s: int) -> float | None:
        """Of a call over ``2u - s`` rows with v chunks beside it."""
        found = self._round(2 * u - s, v)
        return None if found is None else found[0] * self.unet_scale

    def vae(self, u: int, v: int, s: int) -> float | None:
        """Until the v chunks beside (or after) such a call are done."""
        found = self._round(2 * u - s, v)
        return None if found is None else found[1] * self.vae_scale

    def _round(self, rows: int, decodes: int) -> tuple[float, float] | None:
        key = rows, decodes
        if key not in self._known:
            self._known[key] = self._looked_up(rows, decodes)
        return self._known[key]

    def _looked_up(self, rows: int, decodes: int) -> tuple[float, float] | None:
        alone = self.member.seconds(rows) if rows else 0.0
        if alone is None or decodes == 0:
            return None if alone is None else (alone, 0.0)
        measured = self.member.beside_at(rows, decodes, self.chunks, self.lanes)
        if measured is not None:
            slowdown, vae = measured
            return slowdown * alone, vae
        if self.decoder is None or (self.lanes > 1 and self.member.measured_on(self.lanes)):
            return None
        return alone, decodes * self.decoder.seconds / self.chunks


class Profile(_Value):
    """What was measured, where and when (seconds since the epoch). quick: with few repeats."""

    version: Literal[1]
    conditions: Conditions
    measured: Annotated[float, Field(ge=0)]
    quick: bool
    members: Annotated[tuple[MemberProfile, ...], Field(min_length=1, max_length=_MAX_MEASURED)]
    decoders: Annotated[tuple[DecoderProfile, ...], Field(max_length=_MAX_MEASURED)]

    @property
    def age(self) -> float:
        """Seconds."""
        return max(time.time() - self.measured, 0.0)

    @property
    def best_rows(self) -> int:
        """``B_max``: at which every measured member is as good as at its best."""
        return max(of.best_rows for of in self.members)

    @property
    def most_decodes(self) -> int:
        """``V_max`` of one lane, at each size's own chunk count: for every measured member."""
        return min(of.most_decodes(self.chunks(of.size), 1) for of in self.members)

    def chunks(self, size: Size, lanes: LaneCount = 1) -> int:
        """Into how many a decode is best cut by Eq. 1, for the member that wants most.

        Of a size that was not measured: as of the one nearest to it.
        """
        return _nearest(self._cuts[lanes], size) or 1

    def latencies(
        self, member: str, size: Size, chunks: int, lanes: LaneCount = 1
    ) -> MeasuredLatencies | None:
        """None for a member that was not measured."""
        found, decoder = self._nearest(member, size), self._decoder(size)
        if found is None:
            return None
        return MeasuredLatencies(
            found,
            decoder,
            chunks,
            lanes,
            size.pixels / found.size.pixels,
            1.0 if decoder is None else size.pixels / decoder.size.pixels,
        )

    def round_seconds(self, member: str, size: Size, rows: float) -> float | None:
        """Of a call alone; by area, of a size that was not measured. None: not known."""
        found = self._nearest(member, size)
        seconds = None if found is None else found.seconds(rows)
        if found is None or seconds is None:
            return None
        return seconds * size.pixels / found.size.pixels

    def of(self, member: str, size: Size) -> MemberProfile | None:
        """As measured, if it was."""
        found = self._nearest(member, size)
        return found if found is not None and found.size == size else None

    def merged(self, newer: Self) -> Self:
        """With what a later measurement under the same conditions adds, or measured again."""
        members = {(of.member, of.size): of for of in (*self.members, *newer.members)}
        decoders = {of.size: of for of in (*self.decoders, *newer.decoders)}
        kept = len(members) > len(newer.members) or len(decoders) > len(newer.decoders)
        fingerprints = {**self.conditions.members, **newer.conditions.members}
        conditions = newer.conditions.model_copy(update={"members": fingerprints})
        return newer.model_copy(
            update={
                "conditions": conditions,
                "quick": newer.quick or (self.quick and kept),
                "members": tuple(members.values()),
                "decoders": tuple(decoders.values()),
            }
        )

    @cached_property
    def _cuts(self) -> dict[LaneCount, dict[Size, int]]:
        """By lanes, at each measured size; rounds ask for it."""
        lanes: tuple[LaneCount, ...] = (1, 2)
        sizes = dict.fromkeys(of.size for of in self.members)
        members = dict.fromkeys(of.member for of in self.members)
        return {
            count: {
                size: max(
                    self._best_cut(found, count)
                    for member in members
                    if (found := self._nearest(member, size)) is not None
                )
                for size in sizes
            }
            for count in lanes
        }

    def _best_cut(self, of: MemberProfile, lanes: LaneCount) -> int:
        decoder, alone = self._decoder(of.size), of.seconds(of.best_rows)
        if decoder is None or alone is None:
            return 1
        costs: dict[int, float] = {}
        for count in range(1, len(decoder.pieces) + 1):
            found = MeasuredLatencies(of, decoder, count, lanes)._round(of.best_rows, 1)
            if found is not None:
                unet, vae = found
                costs[count] = chunk_cost(
                    [unet] * count, [vae] * count, (alone, decoder.seconds), serial=lanes == 1
                )
        return min(costs, key=lambda count: costs[count], default=1)

    def _nearest(self, member: str, size: Size) -> MemberProfile | None:
        return _nearest({of.size: of for of in self.members if of.member == member}, size)

    def _decoder(self, size: Size) -> DecoderProfile | None:
        return _nearest({of.size: of for of in self.decoders}, size)


T = TypeVar("T")


def _nearest(by_size: Mapping[Size, T], size: Size) -> T | None:
    """What is kept of the size, or of the one whose area is most like it."""
    if not by_size:
        return None
    return by_size[min(by_size, key=lambda one: _apart(one, size))]


def _apart(one: Size, other: Size) -> tuple[bool, float]:
    return one != other, abs(math.log(one.pixels / other.pixels))
