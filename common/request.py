"""What a caller asks for, and what of it can never work. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from baton.common.errors import InvalidRequest
from baton.common.foreign import one_line
from baton.common.given import one_of, real, text
from baton.common.guidance import check_budget
from baton.common.limits import (
    Accel,
    SamplerName,
    check_accel,
    check_guidance,
    check_prompt,
    check_sampler,
    check_seed,
    check_steps,
)
from baton.common.plan import OpenPlan
from baton.common.size import Size

Preference = Literal["quality", "balanced", "speed"]
PREFERENCES: tuple[Preference, ...] = get_args(Preference)


@dataclass(frozen=True)
class GenerationRequest:
    """What the caller asks for. None leaves it to the family, the coordinator or chance.

    timeout: seconds that the picture may take; None sets no limit. accel: how steps may be made
    cheaper (none, propagate, masks, full). guidance_budget: what guidance a busy edge may leave
    out, none or SHARE[:IN_A_ROW[:BRANCHES]] (`parse_budget`). fallback: whether the device may draw
    what no edge did; left out, it may unless the caller named the arm and no edge has begun.
    """

    prompt: str = field(repr=False)
    negative_prompt: str = field(default="", repr=False)
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    size: Size | int | tuple[int, int] | str | None = None
    sampler: SamplerName | None = None
    preference: Preference = "balanced"
    arm: str | None = None
    edge: str | None = None
    timeout: float | None = None
    accel: Accel | None = None
    guidance_budget: str | None = None
    fallback: bool | None = None

    @property
    def any_steps(self) -> bool:
        """Whether an arm may bring steps, and levels of noise, of its own."""
        return self.steps is None and self.sampler is None

    def hide(self, text: str) -> str:
        """A text as one line without the prompts, which a node might have put into it."""
        return one_line(text, self.prompt, self.negative_prompt)


def check_request(request: GenerationRequest) -> GenerationRequest:
    """The request in Python's own types. Raises InvalidRequest for what can never work."""
    return replace(
        request,
        prompt=check_prompt(request.prompt),
        negative_prompt=check_prompt(request.negative_prompt, "negative prompt"),
        steps=None if request.steps is None else check_steps(request.steps),
        guidance=None if request.guidance is None else check_guidance(request.guidance),
        seed=check_seed(request.seed),
        size=None if request.size is None else Size.of(request.size),
        sampler=None if request.sampler is None else check_sampler(request.sampler),
        preference=check_preference(request.preference),
        arm=None if request.arm is None else text("an arm", request.arm),
        edge=None if request.edge is None else text("an edge", request.edge),
        timeout=None if request.timeout is None else _check_timeout(request.timeout),
        accel=None if request.accel is None else check_accel(request.accel),
        guidance_budget=_check_budget(request.guidance_budget),
        fallback=_check_fallback(request.fallback),
    )


def _check_budget(asked: str | None) -> str | None:
    return None if asked is None else check_budget(asked)


def _check_fallback(fallback: object) -> bool | None:
    if isinstance(fallback, bool | None):
        return fallback
    raise InvalidRequest(f"fallback is true or false, got {type(fallback).__name__}")


def check_preference(name: object) -> Preference:
    """Raises InvalidRequest for a name that is none."""
    return one_of("a preference", name, PREFERENCES)


def _check_timeout(seconds: object) -> float:
    seconds = real("a timeout", seconds)
    if not 0 < seconds < math.inf:
        raise InvalidRequest(f"a timeout is a number of seconds above 0, got {seconds}")
    return seconds


@dataclass(frozen=True, slots=True)
class Task:
    """One picture to draw. seed: of the starting noise."""

    prompt: str = field(repr=False)
    negative_prompt: str = field(repr=False)
    plan: OpenPlan
    seed: int
    size: Size

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", check_prompt(self.prompt))
        object.__setattr__(
            self, "negative_prompt", check_prompt(self.negative_prompt, "negative prompt")
        )
        object.__setattr__(self, "seed", check_seed(self.seed))
        object.__setattr__(self, "size", Size.of(self.size))
