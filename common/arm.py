"""Arms: which member runs which stretch of a request, and where; values everywhere, text at edges.

    ARM     = STRETCH { ">" STRETCH }
    STRETCH = PLACE "/" MEMBER [ "^" SCALE ] [ "*" STEPS ] [ "@" CUT ]
    PLACE   = "edge" | "device"
    CUT     = SHARE | "s" SIGMA

``edge/large@0.4>device/small``: the first 0.4 of the caller's steps on the edge, the others on the
device. ``@s0.8``: until the noise level ``b / a`` is 0.8. ``*4``: in four steps. ``^1``: with that
scale of guidance in place of the caller's; 1 and below is one branch alone. An arm says the steps
of all its stretches or of none, and then no share. Stretches that follow one another without
a cut between them go through one grid of levels; what follows ``*N@sX`` has a grid of its own, from
X on. Also read: ``device:A``, ``edge:A`` and ``relay:A>B@F``, which is ``edge/A@F>device/B``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from baton.common.errors import InvalidRequest, UnknownName
from baton.common.given import text
from baton.common.limits import (
    MAX_NAME_CHARS,
    MAX_SEGMENTS,
    MAX_STEPS,
    Location,
    check_fraction,
    check_guidance,
    check_sigma,
    check_steps,
)

MAX_ARM_CHARS = 1024
_MEMBER = rf"[^\s/*@>:^]{{1,{MAX_NAME_CHARS}}}"
_NUMBER = r"\d{1,32}(?:\.\d{0,32})?(?:e[+-]?\d{1,3})?|\.\d{1,32}"
_STRETCH = re.compile(
    rf"(?P<place>edge|device)/(?P<member>{_MEMBER})(?:\^(?P<guidance>{_NUMBER}))?"
    rf"(?:\*(?P<steps>\d{{1,6}}))?(?:@(?P<sigma>s?)(?P<cut>{_NUMBER}))?",
    re.ASCII,
)
_ALONE = re.compile(rf"(?P<place>edge|device):(?P<member>{_MEMBER})")
_RELAY = re.compile(rf"relay:(?P<first>{_MEMBER})>(?P<last>{_MEMBER})@(?P<cut>{_NUMBER})", re.ASCII)
_EXPECTED = (
    "expected PLACE/MEMBER[^SCALE][*STEPS][@CUT] joined by '>', for instance device/small or"
    " edge/large@0.4>device/small"
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """One member at one place.

    steps: how many; None leaves it to the caller. share: of all steps that are done where it ends.
    sigma: the noise level ``b / a`` at which it ends. The last stretch has neither. guidance: its
    scale; None leaves it to the caller.
    """

    location: Location
    member: str
    steps: int | None = None
    share: float | None = None
    sigma: float | None = None
    guidance: float | None = None

    def __str__(self) -> str:
        steps = "" if self.steps is None else f"*{self.steps}"
        share = "" if self.share is None else f"@{float(self.share)!r}"
        sigma = "" if self.sigma is None else f"@s{float(self.sigma)!r}"
        scale = "" if self.guidance is None else f"^{_short(self.guidance)}"
        return f"{self.location}/{self.member}{scale}{steps}{share}{sigma}"

    @property
    def has_cut(self) -> bool:
        return self.share is not None or self.sigma is not None


@dataclass(frozen=True, slots=True)
class Arm:
    """A choice that the bandit scores. Raises InvalidRequest for stretches that make no arm."""

    stretches: tuple[Stretch, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.stretches) <= MAX_SEGMENTS:
            raise InvalidRequest(f"an arm has 1 to {MAX_SEGMENTS} stretches")
        for stretch in self.stretches:
            _check_stretch(stretch)
        counted = [stretch.steps is not None for stretch in self.stretches]
        if any(counted) and not all(counted):
            raise InvalidRequest("an arm says the steps of all its stretches or of none")
        if any(counted) and any(stretch.share is not None for stretch in self.stretches):
            raise InvalidRequest("a stretch with steps of its own ends at no share of all steps")
        if (self.steps or 0) > MAX_STEPS:
            raise InvalidRequest(f"an arm has at most {MAX_STEPS} steps, got {self.steps}")
        self._check_cuts()
        if len(str(self)) > MAX_ARM_CHARS:
            raise InvalidRequest(f"an arm is told in at most {MAX_ARM_CHARS} characters")

    def _check_cuts(self) -> None:
        *inner, last = self.stretches
        if last.has_cut:
            raise InvalidRequest("the last stretch of an arm ends where the picture is done")
        if not all(stretch.has_cut or stretch.steps is not None for stretch in inner):
            raise InvalidRequest("every stretch but the last has a cut or steps of its own")
        shares = [stretch.share for stretch in inner if stretch.share is not None]
        sigmas = [stretch.sigma for stretch in inner if stretch.sigma is not None]
        if any(one >= two for one, two in pairwise(shares)):
            raise InvalidRequest("the shares of an arm's cuts rise")
        if any(one <= two for one, two in pairwise(sigmas)):
            raise InvalidRequest("the noise levels of an arm's cuts fall")

    @classmethod
    def device(cls, member: str) -> Arm:
        """All steps and the decoding on the device."""
        return cls((Stretch("device", member),))

    @classmethod
    def edge(cls, member: str) -> Arm:
        """All steps and the decoding on the edge."""
        return cls((Stretch("edge", member),))

    @classmethod
    def relay(cls, edge_member: str, device_member: str, share: float) -> Arm:
        """The first ``share`` of the steps on the edge, the others on the device."""
        return cls((Stretch("edge", edge_member, share=share), Stretch("device", device_member)))

    @classmethod
    def parse(cls, name: str) -> Arm:
        """Read an arm's text. Raises UnknownName."""
        name = text("an arm", name)
        try:
            if len(name) <= MAX_ARM_CHARS:
                return _read(name)
            reason = f"it has {len(name)} characters"
        except InvalidRequest as error:
            reason = str(error)
        raise UnknownName(f"unknown arm {name[:MAX_NAME_CHARS]!r}: {reason}")

    def __str__(self) -> str:
        return ">".join(map(str, self.stretches))

    @property
    def members(self) -> tuple[str, ...]:
        """Each once, in the order in which they take over."""
        return tuple(dict.fromkeys(stretch.member for stretch in self.stretches))

    def members_on(self, location: Location) -> tuple[str, ...]:
        """Those that run there."""
        here = (stretch.member for stretch in self.stretches if stretch.location == location)
        return tuple(dict.fromkeys(here))

    @property
    def steps(self) -> int | None:
        """Of all stretches; None if it leaves them to the caller."""
        counts = [stretch.steps for stretch in self.stretches]
        return None if counts[0] is None else sum(count or 0 for count in counts)

    @property
    def edge_share(self) -> float:
        """Share of the steps that run on an edge, as far as the arm alone tells, in [0, 1].

        A cut at a noise level, whose step depends on the family, counts as ``1 / (1 + sigma)``.
        """
        if steps := self.steps:
            ran = (s.steps or 0 for s in self.stretches if s.location == "edge")
            return sum(ran) / steps
        done, total = 0.0, 0.0
        for stretch in self.stretches:
            end = _share_at(stretch)
            if stretch.location == "edge":
                total += max(0.0, end - done)
            done = max(done, end)
        return total


def _short(value: float) -> str:
    """As text that reads as the same number, ``1`` rather than ``1.0``."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(float(value))


def _share_at(stretch: Stretch) -> float:
    if stretch.share is not None:
        return stretch.share
    return 1.0 if stretch.sigma is None else 1.0 / (1.0 + stretch.sigma)


def check_member_name(name: str) -> str:
    """A name that an arm can hold. Raises InvalidRequest."""
    if not re.fullmatch(_MEMBER, name):
        raise InvalidRequest(
            f"{name[:MAX_NAME_CHARS]!r} is no member's name: it has 1 to {MAX_NAME_CHARS}"
            " characters, none of them a space or one of / * @ > : ^"
        )
    return name


def _check_stretch(stretch: Stretch) -> None:
    check_member_name(stretch.member)
    if stretch.steps is not None:
        check_steps(stretch.steps)
    if stretch.share is not None:
        check_fraction(stretch.share)
    if stretch.sigma is not None:
        check_sigma(stretch.sigma)
    if stretch.guidance is not None:
        check_guidance(stretch.guidance)
    if stretch.share is not None and stretch.sigma is not None:
        raise InvalidRequest("a stretch ends at a share of the steps or at a noise level")


def _read(name: str) -> Arm:
    if found := _ALONE.fullmatch(name):
        return (
            Arm.device(found["member"]) if found["place"] == "device" else Arm.edge(found["member"])
        )
    if found := _RELAY.fullmatch(name):
        return Arm.relay(found["first"], found["last"], float(found["cut"]))
    parts = name.split(">")
    if len(parts) > MAX_SEGMENTS:
        raise InvalidRequest(f"an arm has 1 to {MAX_SEGMENTS} stretches")
    return Arm(tuple(_read_stretch(part) for part in parts))


def _read_stretch(part: str) -> Stretch:
    found = _STRETCH.fullmatch(part)
    if found is None:
        raise InvalidRequest(_EXPECTED)
    cut = None if found["cut"] is None else float(found["cut"])
    return Stretch(
        location="edge" if found["place"] == "edge" else "device",
        member=found["member"],
        steps=None if found["steps"] is None else int(found["steps"]),
        share=None if found["sigma"] else cut,
        sigma=cut if found["sigma"] else None,
        guidance=None if found["guidance"] is None else float(found["guidance"]),
    )
