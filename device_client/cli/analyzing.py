"""``baton analyze``: how much each block changes from step to step, and the key steps to take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from baton.common.accel.prompts import sample_prompts
from baton.common.accel.propagation import Propagation, check_key_count
from baton.common.errors import InvalidRequest
from baton.common.families.manifest import Manifest, find_family, read_manifest
from baton.common.outputs import check_writable, file_or_folder
from baton.common.plan import Arm, Plan, Task, check_sampler, check_seed
from baton.common.quiet import quiet_libraries
from baton.device_client.settings import DeviceSettings


@dataclass(frozen=True)
class AnalyzeRequest:
    """What to measure. out: a JSON file, or a folder.

    None stands for the first member, the family's own steps and guidance, every line of
    ``prompts`` or a few of the family's, as many keys as the paper's set has.
    """

    member: str | None
    sampler: str
    steps: int | None
    guidance: float | None
    prompts: Path | None
    count: int | None
    seed: int
    keys: int | None
    out: Path


@dataclass(frozen=True)
class Terms:
    """A request with everything filled in and checked."""

    member: str
    plan: Plan
    tasks: tuple[Task, ...]
    keys: int


@dataclass(frozen=True)
class Place:
    """The JSON file to write, beside its plot. named: by the user, so that it may be replaced."""

    path: Path
    named: bool


def analyze(settings: DeviceSettings, request: AnalyzeRequest, as_json: bool) -> None:
    """Measure, propose key steps, write JSON and plot, and tell. Raises BatonError."""
    terms = _terms(read_manifest(find_family(settings.family)), request)
    place = _place(request.out, terms.plan, terms.member)
    quiet_libraries()
    from baton.device_client.cli.measuring import measure_and_tell

    measure_and_tell(settings, terms, place, as_json)


def _terms(manifest: Manifest, request: AnalyzeRequest) -> Terms:
    """What can be refused before anything is loaded."""
    member = manifest.check_member(request.member or next(iter(manifest.members)))
    steps = manifest.default_steps if request.steps is None else request.steps
    guidance = manifest.default_guidance if request.guidance is None else request.guidance
    sampler = check_sampler(request.sampler)
    plan = Arm("device", (member,), 0.0).expand(manifest.name, sampler, steps, guidance)
    if steps < 2:
        raise InvalidRequest("a change needs at least 2 steps, got 1")
    keys = len(Propagation().keys_for(steps)) if request.keys is None else request.keys
    check_key_count(keys, steps)
    seed, size = check_seed(request.seed), manifest.sizes.default
    prompts = sample_prompts(manifest, request.count, seed, request.prompts)
    tasks = tuple(
        Task(prompt, "", plan, seed + index, size) for index, prompt in enumerate(prompts)
    )
    return Terms(member, plan, tasks, keys)


def _place(out: Path, plan: Plan, member: str) -> Place:
    """Looked at now, so that no measurement is lost."""
    folder, name = file_or_folder(out, ".json")
    chosen = f"analyze-{plan.family}-{member}-{plan.sampler}-{plan.steps}.json"
    path = check_writable(folder / (name or chosen))
    check_writable(path.with_suffix(".png"))
    return Place(path, named=name is not None)
