"""``baton train-masks``: learns which blocks a member can skip at each step, and stores it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from baton.common.accel.mask_settings import Settings
from baton.common.accel.masks import mask_path
from baton.common.accel.prompts import sample_prompts
from baton.common.accel.propagation import propagation_of, uniform_keys
from baton.common.errors import InvalidRequest
from baton.common.families.manifest import Manifest, find_family, masks_folder, read_manifest
from baton.common.outputs import check_suffix, check_writable
from baton.common.plan import Arm, SamplerName, Task, check_sampler, check_seed, check_steps
from baton.common.quiet import quiet_libraries

COSTS = ("time", "macs", "blocks")


@dataclass(frozen=True)
class MaskRequest:
    """What to train for.

    cost: what the target speed is counted in; propagated: within encoder propagation, whose key
    steps are those at which everything is refreshed, or the member's own without a refresh;
    out: a file, None for the member's own place.
    """

    family: str
    member: str
    sampler: str
    steps: int
    count: int
    prompts: Path | None
    cost: str
    out: Path | None
    propagated: bool = False


@dataclass(frozen=True)
class Terms:
    """A request with everything filled in and checked. keys: steps at which everything runs."""

    sampler: SamplerName
    tasks: tuple[Task, ...]
    keys: tuple[int, ...]
    path: Path


def train_masks(request: MaskRequest, settings: Settings, as_json: bool, threads: int) -> None:
    """Train, store, and tell. Goes on where an interrupted run of the same kind stopped.

    threads: of the model. Raises BatonError.
    """
    terms = _terms(request, settings)
    quiet_libraries()
    from baton.common.families.local import use_threads
    from baton.device_client.cli.mask_making import train_and_tell

    use_threads(threads)
    train_and_tell(request, terms, settings, as_json)


def _terms(request: MaskRequest, settings: Settings) -> Terms:
    """What can be refused before anything is loaded."""
    check_steps(request.steps)
    if request.steps < 2:
        raise InvalidRequest("a mask needs at least 2 steps: the first one runs in full")
    if request.cost not in COSTS:
        raise InvalidRequest(f"unknown cost {request.cost[:32]!r}; known: {', '.join(COSTS)}")
    settings.check()
    folder, sampler = find_family(request.family), check_sampler(request.sampler)
    manifest = read_manifest(folder)
    manifest.check_member(request.member)
    place = masks_folder(folder, request.member)
    path = request.out or mask_path(place, sampler, request.steps, request.propagated)
    return Terms(
        sampler,
        _tasks(manifest, request, settings.seed),
        _keys(manifest, request, settings.refresh_every),
        check_writable(check_suffix(path, ".json")),
    )


def _tasks(manifest: Manifest, request: MaskRequest, seed: int) -> tuple[Task, ...]:
    """One per prompt, with seeds of their own, at the family's default guidance."""
    arm, sampler = Arm("device", (request.member,), 0.0), check_sampler(request.sampler)
    plan = arm.expand(manifest.name, sampler, request.steps, manifest.default_guidance)
    size = manifest.sizes.default
    prompts = sample_prompts(manifest, request.count, check_seed(seed), request.prompts)
    return tuple(
        Task(prompt, "", plan, seed * 1_000_003 + index, size)
        for index, prompt in enumerate(prompts)
    )


def _keys(manifest: Manifest, request: MaskRequest, refresh_every: int) -> tuple[int, ...]:
    """Raises InvalidRequest if every step would be a key step."""
    if not request.propagated:
        return ()
    if refresh_every:
        return uniform_keys(request.steps, refresh_every)
    keys = propagation_of(manifest, request.member).keys_for(request.steps)
    if len(keys) == request.steps:
        raise InvalidRequest(
            f"with {request.steps} steps every step of {request.member} is a key step, which runs"
            " in full; take more steps, or --refresh-every"
        )
    return keys
