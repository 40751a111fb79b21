"""The names and limits of what a request may ask for, and the checks of single values.

Raise InvalidRequest, or UnknownName for a name that is none of the known ones.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from baton.common.errors import InvalidRequest, UnknownName
from baton.common.given import real, text, whole

Location = Literal["edge", "device"]
SamplerName = Literal["ddim", "euler", "dpmpp_2m"]
#: How steps may be made cheaper: by reusing the encoder's output, by a learned mask, or by both.
Accel = Literal["none", "propagate", "masks", "full"]
#: Branches of classifier-free guidance that a step evaluates: both, the conditional one alone, or
#: that one with the difference that the last step with both had (SynerDiff).
Branches = Literal["both", "positive", "reuse"]
#: A branch of guidance, a row of a model call: the conditional one, or the one it leads away from.
Branch = Literal["positive", "negative"]
#: What guidance a member takes: two branches, none since it was distilled, or the scale as input.
GuidanceKind = Literal["two_branches", "none", "embedded"]

SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
ACCELS: tuple[Accel, ...] = get_args(Accel)
LOCATIONS: tuple[Location, ...] = get_args(Location)
BRANCHES: tuple[Branches, ...] = get_args(Branches)
GUIDANCE_KINDS: tuple[GuidanceKind, ...] = get_args(GuidanceKind)
BOTH: tuple[Branch, ...] = get_args(Branch)
ALONE: tuple[Branch, ...] = ("positive",)
#: What a step evaluates, a row of a model call each.
ROWS_OF: dict[Branches, tuple[Branch, ...]] = {"both": BOTH, "positive": ALONE, "reuse": ALONE}

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
MAX_SIGMA = 1e4
#: What every device is called in a picture's record; no edge may be.
DEVICE_NODE = "device"


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


def check_sigma(sigma: float) -> float:
    sigma = real("a noise level", sigma)
    if not 0.0 < sigma <= MAX_SIGMA:
        raise InvalidRequest(f"a noise level is above 0 and at most {MAX_SIGMA:g}, got {sigma}")
    return sigma


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
