"""What the relay's benchmark compares: arms as a caller would write them, and their terms.

Steps of an arm's own (``*N``) go through the grid that the family names for them, if it names one;
an arm without any goes through a plain grid of the entry's steps and sampler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from baton.common.arm import Arm
from baton.common.errors import BatonError
from baton.common.expansion import Terms, expand
from baton.common.families.loaded import LoadedFamily
from baton.common.families.spec import FamilySpec
from baton.common.limits import ACCELS, SAMPLERS, Accel, SamplerName
from baton.common.plan import Guidance, OpenPlan
from tests.bench.accel_configs import AccelConfigs, one_by_one, written_out

Kind = Literal[
    "large",
    "smaller",
    "partly unguided",
    "accelerated",
    "training-free",
    "finisher",
    "finisher accelerated",
    "no large",
    "foreign",
    "default",
]
RELAYS: tuple[Kind, ...] = ("training-free", "finisher")
FOREIGN = "foreign"

PLAIN_STEPS = (4, 5, 6, 8, 10, 20, 50)
SHARES = (0.2, 0.4, 0.6, 0.8)
#: Step counts at which every way to share the steps of a named grid is tried.
_SHORT = (5, 6, 7)
_ACCELERATED = tuple(accel for accel in ACCELS if accel != "none")
_MADE_CHEAPER_AT = (20, 50)
_DEEPCACHE = 3


@dataclass(frozen=True)
class Entry:
    """An arm with its terms. sampler, steps: steps of an arm that does not say its own.

    deepcache: all blocks run every so many steps, in between the decoder's last layer alone (Ma et
    al. 2024); 0: they always do.
    """

    kind: Kind
    arm: str
    sampler: SamplerName = "ddim"
    steps: int | None = None
    accel: Accel = "none"
    deepcache: int = 0

    @property
    def name(self) -> str:
        told = [self.arm]
        if self.steps is not None:
            told.append(f"{self.steps}")
        if self.sampler != "ddim":
            told.append(self.sampler)
        if self.accel != "none":
            told.append(self.accel)
        if self.deepcache:
            told.append(f"deepcache-{self.deepcache}")
        return " ".join(told)

    def plan(self, family: LoadedFamily) -> OpenPlan:
        """What the product makes of it."""
        spec, scale = family.spec, family.spec.default_guidance
        terms = Terms(
            family=spec.name,
            sampler=self.sampler,
            steps=self.steps or spec.default_steps,
            guidance=Guidance(scale),
            accel=self.accel,
            own_guidance=spec.own_guidance,
            named=spec.named_grids,
            ratios=family.ratios,
        )
        plan = expand(Arm.parse(self.arm), terms)
        return _deepcached(family, plan, self.deepcache) if self.deepcache else plan

    def drawn(self, family: LoadedFamily) -> OpenPlan:
        """The same with what ``accel`` means written out, and no steps decoded together.

        That makes the same pictures, up to rounding.
        """
        plan = self.plan(family)
        return one_by_one(written_out(family, plan)) if self.accel != "none" else plan


def _deepcached(family: LoadedFamily, plan: OpenPlan, interval: int) -> OpenPlan:
    segments = []
    for segment in plan.segments:
        configs = AccelConfigs(family, segment.member)
        directives = configs.deepcache(interval, 1, segment.stop - segment.start)
        segments.append(replace(segment, directives=directives))
    return replace(plan, segments=tuple(segments))


def entries(family: LoadedFamily) -> list[Entry]:
    """All that a family can be asked for, but for the control, which is asked for nowhere."""
    out = left_out(family)
    return [entry for entry in _all(family.spec) if entry.name not in out]


def left_out(family: LoadedFamily) -> dict[str, str]:
    """The names of the others, and why the product refuses them."""
    found = {}
    for entry in _all(family.spec):
        try:
            for member in Arm.parse(entry.arm).members:
                family.spec.check_member(member)
            family.check_levels(entry.plan(family), family.spec.default_size)
        except BatonError as error:
            found[entry.name] = str(error)
    return found


def _all(spec: FamilySpec) -> list[Entry]:
    ways = (_alone(spec), _partly_unguided(), _accelerated(), _training_free(), _finished())
    return list(dict.fromkeys(chain.from_iterable(ways)))


def reference() -> Entry:
    """`large` at 50 plain steps."""
    return Entry("large", "edge/large", "ddim", 50)


def _alone(spec: FamilySpec) -> Iterator[Entry]:
    for member, place in (("large", "edge"), ("medium", "device"), ("small", "device")):
        kind: Kind = "large" if member == "large" else "smaller"
        for sampler in SAMPLERS if member == "large" else ("ddim",):
            for steps in PLAIN_STEPS:
                yield Entry(kind, f"{place}/{member}", sampler, steps)
        for sampler, steps in sorted(spec.named_grids):
            yield Entry(kind, f"{place}/{member}*{steps}", sampler)


def _partly_unguided() -> Iterator[Entry]:
    for guided, alone in ((2, 2), (3, 1), (2, 3), (3, 2), (4, 1), (4, 2), (5, 2), (4, 6)):
        yield Entry("partly unguided", f"edge/large*{guided}>edge/large^1*{alone}")
    for steps in _MADE_CHEAPER_AT:
        yield Entry("partly unguided", "edge/large@0.4>edge/large^1", "ddim", steps)


def _accelerated() -> Iterator[Entry]:
    for steps in _MADE_CHEAPER_AT:
        for accel in _ACCELERATED:
            yield Entry("accelerated", "edge/large", "ddim", steps, accel)
        for arm in ("edge/large", "edge/large@0.4>edge/large^1"):
            yield Entry("accelerated", arm, "ddim", steps, deepcache=_DEEPCACHE)
    yield Entry("accelerated", "edge/large", "dpmpp_2m", 20, deepcache=_DEEPCACHE)
    yield Entry("accelerated", "edge/large", "ddim", 10, deepcache=_DEEPCACHE)


def _training_free() -> Iterator[Entry]:
    """Guided and in one branch from large to a smaller one; T-Stitch's way back."""
    lasts = [f"device/{member}{alone}" for member in ("small", "medium") for alone in ("", "^1")]
    ways = [*(("edge/large", last) for last in lasts), ("device/small", "edge/large")]
    for first, last in ways:
        for share in SHARES:
            yield Entry("training-free", f"{first}@{share}>{last}", "ddim", 50)
            done = round(10 * share)
            yield Entry("training-free", f"{first}*{done}>{last}*{10 - done}")


def _finished() -> Iterator[Entry]:
    """L: large, S: small, both guided; A: the finisher."""
    for steps in _SHORT:
        for large in range(1, steps):
            yield _relay(0, large, steps - large)
            for small in range(1, steps - large):
                yield _relay(small, large, steps - large - small)
        for small in range(2, steps - 1):
            yield _relay(small, 0, steps - small)
    for shared in (
        (0, 3, 5),
        (0, 4, 4),
        (1, 2, 5),
        (1, 3, 4),
        (3, 0, 5),
        (0, 3, 7),
        (0, 4, 6),
        (0, 5, 5),
        (2, 2, 6),
        (3, 1, 6),
        (2, 3, 5),
        (0, 20, 30),
    ):
        yield _relay(*shared)
    for steps in _MADE_CHEAPER_AT:
        for accel in ACCELS:
            kind: Kind = "finisher" if accel == "none" else "finisher accelerated"
            yield Entry(kind, "edge/large@s1.5>device/finisher", "ddim", steps, accel)


def _relay(small: int, large: int, finisher: int) -> Entry:
    stretches = [("device/small", small), ("edge/large", large), ("device/finisher", finisher)]
    arm = ">".join(f"{who}*{steps}" for who, steps in stretches if steps)
    return Entry("finisher" if large else "no large", arm)


def controls() -> list[Entry]:
    """A member of another family alone, and after `large`; the product refuses such a relay."""
    alone = Entry("foreign", f"device/{FOREIGN}", "ddim", 50)
    after = [
        Entry("foreign", f"edge/large@{share}>device/{FOREIGN}", "ddim", 50) for share in SHARES
    ]
    return [alone, *after]


def beside(spec: FamilySpec) -> list[Entry]:
    """The same ways for any other family, with its first and its last member."""
    first, last = (list(spec.members)[index] for index in (0, -1))
    arms: list[tuple[Kind, str]] = [
        ("large", f"edge/{first}*10"),
        ("smaller", f"device/{last}*10"),
        ("training-free", f"edge/{first}*4>device/{last}*6"),
        ("training-free", f"edge/{first}*4>device/{last}^1*6"),
        ("training-free", f"device/{last}*4>edge/{first}*6"),
        ("training-free", f"device/{last}*2>edge/{first}*3>device/{last}^1*5"),
    ]
    return [Entry(kind, arm) for kind, arm in arms]
