"""What runs at every denoising step: values only, checked when they are made.

A request is a `Plan`: a sampler, a number of steps, a guidance scale and `Segment`s; a segment is a
family member, the place where it runs, a stretch of steps and one `StepDirective` per step. The
coordinator answers with a small `Decision`, which the device expands into a plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from baton.common.errors import InvalidRequest, UnknownName
from baton.common.given import real, text, whole

Location = Literal["edge", "device"]
SamplerName = Literal["ddim", "euler", "dpmpp_2m"]
ArmKind = Literal["device", "relay", "edge"]
#: How steps may be made cheaper: by reusing the encoder's output, by a learned mask, or by both.
Accel = Literal["none", "propagate", "masks", "full"]

SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
ACCELS: tuple[Accel, ...] = get_args(Accel)
LOCATIONS: tuple[Location, ...] = get_args(Location)

MAX_STEPS = 200
MAX_GUIDANCE = 30.0
MAX_PROMPT_CHARS = 4_000
MAX_SEGMENTS = 16
MAX_NAME_CHARS = 64
MAX_BLOCKS = 1024
#: Of one model call.
MAX_ROWS = 512
MAX_AHEAD = 16
#: The most that an edge or a device can be set to.
MAX_THREADS = 512
MAX_PRIOR_NOISE = 0.1
#: What every device is called in a picture's record; no edge may be.
DEVICE_NODE = "device"


@dataclass(frozen=True, slots=True)
class StepDirective:
    """How one step runs.

    guided: evaluate the conditional and the unconditional branch (classifier-free guidance);
        False evaluates the conditional branch alone, one row instead of two.
    blocks: bit ``i`` runs the member's block ``i``, the others reuse their cached outputs; None
        runs them all.
    ahead: so many of the following steps are evaluated in the same model call, from what this one
        computes (parallel decoding).
    prior_noise: this share of the starting noise is added to the latent before the step.
    """

    guided: bool = True
    blocks: int | None = None
    ahead: int = 0
    prior_noise: float = 0.0

    def __post_init__(self) -> None:
        if self.blocks is not None and not 0 <= self.blocks < 1 << MAX_BLOCKS:
            raise InvalidRequest(f"a member has at most {MAX_BLOCKS} blocks")
        if not 0 <= self.ahead <= MAX_AHEAD:
            raise InvalidRequest(f"at most {MAX_AHEAD} steps run ahead, got {self.ahead}")
        if not 0.0 <= self.prior_noise <= MAX_PRIOR_NOISE:
            raise InvalidRequest(f"prior noise is from 0 to {MAX_PRIOR_NOISE:g}")

    def for_any_member(self) -> StepDirective:
        """Without what is said in terms of one member's blocks."""
        return replace(self, blocks=None, ahead=0)


FULL_STEP = StepDirective()


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps ``start <= i < stop`` (0-based) on one member at one place."""

    member: str
    location: Location
    start: int
    stop: int
    directives: tuple[StepDirective, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= MAX_STEPS:
            raise InvalidRequest(f"segment {self.start}..{self.stop} is not a stretch of steps")
        if len(self.directives) != self.stop - self.start:
            raise InvalidRequest(
                f"segment {self.start}..{self.stop} has {len(self.directives)} directives"
            )
        if self.location not in LOCATIONS:
            raise InvalidRequest(f"unknown location {self.location!r}")
        if not 0 < len(self.member) <= MAX_NAME_CHARS:
            raise InvalidRequest("a segment needs a member's name")

    @property
    def masked(self) -> bool:
        """Whether any step names its blocks."""
        return any(directive.blocks is not None for directive in self.directives)

    @classmethod
    def full(cls, member: str, location: Location, start: int, stop: int) -> Segment:
        """A stretch in which every step runs in full."""
        count = max(0, min(stop, MAX_STEPS + 1) - max(start, 0))
        return cls(member, location, start, stop, (FULL_STEP,) * count)


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole of one request's denoising.

    accel: what whoever runs a stretch may write into its directives' ``blocks``, ``ahead`` and
    ``prior_noise`` where they say nothing themselves.
    """

    family: str
    sampler: SamplerName
    steps: int
    guidance_scale: float
    segments: tuple[Segment, ...]
    accel: Accel = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", check_steps(self.steps))
        object.__setattr__(self, "guidance_scale", check_guidance(self.guidance_scale))
        object.__setattr__(self, "sampler", check_sampler(self.sampler))
        object.__setattr__(self, "accel", check_accel(self.accel))
        if not 0 < len(self.segments) <= MAX_SEGMENTS:
            raise InvalidRequest(f"a plan has 1 to {MAX_SEGMENTS} segments")
        expected = 0
        for segment in self.segments:
            if segment.start != expected:
                raise InvalidRequest(f"step {expected} of the plan belongs to no single segment")
            expected = segment.stop
        if expected != self.steps:
            raise InvalidRequest(f"the plan covers {expected} of {self.steps} steps")

    def segment_at(self, step: int) -> Segment:
        """The segment that step ``step`` belongs to. Raises IndexError past the end."""
        for segment in self.segments:
            if segment.start <= step < segment.stop:
                return segment
        raise IndexError(f"step {step} is not in a plan of {self.steps}")

    def directive_at(self, step: int) -> StepDirective:
        segment = self.segment_at(step)
        return segment.directives[step - segment.start]

    def stretch_end(self, start: int) -> int:
        """Where the plan leaves the place of step ``start``; ``start`` itself if it is done."""
        end = start
        for segment in self.segments:
            if segment.start <= end < segment.stop:
                if end > start and segment.location != self.segment_at(start).location:
                    break
                end = segment.stop
        return end

    def rest_on(self, member: str, location: Location, start: int) -> Plan:
        """The same plan with every step from ``start`` moved to another member and place.

        What the plan said of the former member's blocks is left out.
        """
        kept = [self._cut(segment, start) for segment in self.segments if segment.start < start]
        directives = tuple(
            self.directive_at(step).for_any_member() for step in range(start, self.steps)
        )
        rest = Segment(member, location, start, self.steps, directives)
        return replace(self, segments=(*kept, rest))

    def in_full(self) -> Plan:
        """The same plan with every block run at every step."""
        segments = tuple(
            replace(item, directives=tuple(StepDirective(d.guided) for d in item.directives))
            for item in self.segments
        )
        return replace(self, segments=segments, accel="none")

    @staticmethod
    def _cut(segment: Segment, stop: int) -> Segment:
        stop = min(stop, segment.stop)
        directives = segment.directives[: stop - segment.start]
        return Segment(segment.member, segment.location, segment.start, stop, directives)


@dataclass(frozen=True, slots=True)
class Task:
    """One picture to draw. seed: of the starting noise; size: of the picture's side, pixels."""

    prompt: str = field(repr=False)
    negative: str = field(repr=False)
    plan: Plan
    seed: int
    size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", check_prompt(self.prompt))
        object.__setattr__(self, "negative", check_prompt(self.negative, "negative prompt"))
        object.__setattr__(self, "seed", check_seed(self.seed))
        object.__setattr__(self, "size", whole("size", self.size))


@dataclass(frozen=True, slots=True)
class ExecutedStep:
    """One step as it ran; the executed plan is a list of them.

    rows: of the batch that the step was part of; row: the first that was the request's own;
    threads: of the process that ran it; blocks, ahead and prior_noise: as in `StepDirective`, with
    what really ran; neighbours: (rows, blocks) over the whole batch, in its order, where its rows
    did not all run the same, with -1 for all blocks. Together they make a replay exact.
    """

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

    @property
    def directive(self) -> StepDirective:
        """What makes the step run so again."""
        return StepDirective(self.guided, self.blocks, self.ahead, self.prior_noise)


@dataclass(frozen=True, slots=True)
class Arm:
    """A choice that the bandit scores.

    ``device``: one member, all steps on the device. ``edge``: one member, all steps and the
    decoding on the edge. ``relay``: ``members[0]`` runs the first ``fraction`` of the steps on the
    edge, ``members[1]`` the rest on the device.
    """

    kind: ArmKind
    members: tuple[str, ...]
    fraction: float

    @property
    def name(self) -> str:
        """``device:small``, ``edge:large`` or ``relay:large>small@0.4``."""
        suffix = f"@{float(self.fraction)!r}" if self.kind == "relay" else ""
        return f"{self.kind}:{'>'.join(self.members)}{suffix}"

    @classmethod
    def parse(cls, name: str) -> Arm:
        """Read an arm's name. Raises UnknownName."""
        kind, _, rest = text("an arm", name).partition(":")
        members, _, fraction = rest.partition("@")
        names = tuple(members.split(">"))
        try:
            if kind == "device" and len(names) == 1 and members and not fraction:
                return cls("device", names, 0.0)
            if kind == "edge" and len(names) == 1 and members and not fraction:
                return cls("edge", names, 1.0)
            if kind == "relay" and len(names) == 2 and all(names):
                return cls("relay", names, check_fraction(float(fraction)))
        except ValueError:
            pass
        raise UnknownName(
            f"unknown arm {name[:MAX_NAME_CHARS]!r}; expected device:MEMBER, edge:MEMBER"
            " or relay:LARGE>SMALL@FRACTION"
        )

    def expand(self, family: str, sampler: SamplerName, steps: int, guidance_scale: float) -> Plan:
        """The plan of this arm: every step in full and guided."""
        steps = check_steps(steps)
        if self.kind == "relay":
            cut = relay_step(self.fraction, steps)
            stretches: Sequence[tuple[str, Location, int, int]] = [
                (self.members[0], "edge", 0, cut),
                (self.members[1], "device", cut, steps),
            ]
        else:
            stretches = [(self.members[0], self.kind, 0, steps)]
        segments = tuple(Segment.full(*stretch) for stretch in stretches if stretch[2] < stretch[3])
        return Plan(family, sampler, steps, guidance_scale, segments)


def arm_that_ran(executed: Sequence[ExecutedStep]) -> str:
    """The name of the arm whose plan is what was executed, on an edge first if at all."""
    places = dict.fromkeys((step.location, step.member) for step in executed)
    if len(places) == 1:
        ((kind, member),) = places
        return Arm(kind, (member,), 0.0).name
    cut = sum(step.location == "edge" for step in executed)
    return Arm("relay", tuple(member for _, member in places), cut / len(executed)).name


@dataclass(frozen=True, slots=True)
class EdgeChoice:
    """An edge that may run the edge's part, with the reason for its rank."""

    node_id: str
    address: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The coordinator's answer: an arm and, best first, the edges that may serve it.

    ticket: admits the request to those edges; empty if there is none.
    """

    decision_id: str
    arm: Arm
    edges: tuple[EdgeChoice, ...]
    reason: str = ""
    ticket: str = field(default="", repr=False)


def relay_step(fraction: float, steps: int) -> int:
    """The step at which a relay hands over: the fraction of the steps, rounded to the nearest."""
    return min(steps, math.floor(fraction * steps + 0.5))


def check_steps(steps: int) -> int:
    steps = whole("steps", steps)
    if not 1 <= steps <= MAX_STEPS:
        raise InvalidRequest(f"steps must be from 1 to {MAX_STEPS}, got {steps}")
    return steps


def check_fraction(fraction: float) -> float:
    fraction = real("a relay fraction", fraction)
    if not 0.0 < fraction < 1.0:
        raise InvalidRequest(f"a relay fraction lies between 0 and 1, got {fraction}")
    return fraction


def check_guidance(scale: float) -> float:
    scale = real("guidance scale", scale)
    if not (math.isfinite(scale) and 0.0 <= scale <= MAX_GUIDANCE):
        raise InvalidRequest(f"guidance scale must be from 0 to {MAX_GUIDANCE:g}, got {scale}")
    return scale


def check_seed(seed: int) -> int:
    seed = whole("a seed", seed)
    if not 0 <= seed < 2**63:
        raise InvalidRequest(f"a seed is from 0 to 2^63 - 1, got {seed}")
    return seed


def check_sampler(name: str) -> SamplerName:
    name = text("a sampler", name)
    if name not in SAMPLERS:
        raise UnknownName(f"unknown sampler {name[:32]!r}; known: {', '.join(SAMPLERS)}")
    return name


def check_accel(name: str) -> Accel:
    name = text("an acceleration", name)
    if name not in ACCELS:
        raise UnknownName(f"unknown acceleration {name[:32]!r}; known: {', '.join(ACCELS)}")
    return name


def check_prompt(prompt: str, what: str = "prompt") -> str:
    prompt = text(f"the {what}", prompt)
    if what == "prompt" and not prompt.strip():
        raise InvalidRequest("the prompt is empty; say what the picture should show")
    if len(prompt) > MAX_PROMPT_CHARS:
        raise InvalidRequest(
            f"the {what} has {len(prompt)} characters; at most {MAX_PROMPT_CHARS} are allowed"
        )
    return prompt
