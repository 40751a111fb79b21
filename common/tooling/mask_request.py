"""What a block mask is to be trained for, and what of it can never work. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from baton.common.accel.mask_settings import Settings
from baton.common.accel.masks import mask_path
from baton.common.accel.propagation import uniform_keys
from baton.common.arm import Arm
from baton.common.errors import InvalidRequest
from baton.common.expansion import plan_of
from baton.common.families.manifest import masks_folder
from baton.common.families.prompts import sample_prompts
from baton.common.families.spec import FamilySpec, read_spec
from baton.common.limits import SamplerName, check_sampler, check_seed, check_steps
from baton.common.outputs import check_suffix, check_writable
from baton.common.request import Task
from baton.common.tooling.members import whole_member

COSTS = ("time", "macs", "blocks")


@dataclass(frozen=True)
class MaskRequest:
    """What to train for.

    sampler: None for the family's own; cost: what the target speed is counted in; propagated:
    within encoder propagation, whose key steps are those at which everything is refreshed, or the
    member's own without a refresh; out: a file, None for the member's own place.
    """

    family: str
    member: str
    sampler: str | None
    steps: int
    count: int
    prompts: Path | None
    cost: str
    out: Path | None
    propagated: bool = False


@dataclass(frozen=True)
class MaskTerms:
    """A request with everything filled in and checked. keys: steps at which everything runs."""

    sampler: SamplerName
    tasks: tuple[Task, ...]
    keys: tuple[int, ...]
    path: Path


def terms_of(request: MaskRequest, settings: Settings) -> MaskTerms:
    """Raises InvalidRequest, UnknownName or WeightsError for what can never be trained."""
    check_steps(request.steps)
    if request.steps < 2:
        raise InvalidRequest("a mask needs at least 2 steps: the first one runs in full")
    if request.cost not in COSTS:
        raise InvalidRequest(f"unknown cost {request.cost[:32]!r}; known: {', '.join(COSTS)}")
    settings.check()
    spec = read_spec(request.family)
    sampler = check_sampler(request.sampler or spec.default_sampler)
    place = masks_folder(spec.folder, whole_member(spec, request.member))
    path = request.out or mask_path(place, sampler, request.steps, request.propagated)
    keys = _keys(spec, request, settings.refresh_every)
    settings.check_reachable(request.steps, keys)
    return MaskTerms(
        sampler,
        _tasks(spec, request, sampler, settings.seed),
        keys,
        check_writable(check_suffix(path, ".json")),
    )


def _tasks(
    spec: FamilySpec, request: MaskRequest, sampler: SamplerName, seed: int
) -> tuple[Task, ...]:
    """One per prompt, with seeds of their own, at the family's default guidance."""
    arm, size = Arm.device(request.member), spec.default_size
    plan = plan_of(arm, spec.name, sampler, request.steps, spec.default_guidance)
    prompts = sample_prompts(spec, request.count, check_seed(seed), request.prompts)
    return tuple(
        Task(prompt, "", plan, seed * 1_000_003 + index, size)
        for index, prompt in enumerate(prompts)
    )


def _keys(spec: FamilySpec, request: MaskRequest, refresh_every: int) -> tuple[int, ...]:
    """Raises InvalidRequest if every step would be a key step."""
    if not request.propagated:
        return ()
    if refresh_every:
        return uniform_keys(request.steps, refresh_every)
    keys = spec.propagation_of(request.member).keys_for(request.steps)
    if len(keys) == request.steps:
        raise InvalidRequest(
            f"with {request.steps} steps every step of {request.member} is a key step, which runs"
            " in full; take more steps, or --refresh-every"
        )
    return keys
