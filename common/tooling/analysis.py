"""What to measure of a member, and what of it can never work. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from baton.common.accel.propagation import Propagation, check_key_count
from baton.common.arm import Arm
from baton.common.errors import InvalidRequest
from baton.common.expansion import plan_of
from baton.common.families.prompts import sample_prompts
from baton.common.families.spec import FamilySpec
from baton.common.limits import check_sampler, check_seed
from baton.common.plan import OpenPlan
from baton.common.request import Task
from baton.common.tooling.members import whole_member
from baton.common.tooling.places import Place, find_place

#: Pictures in one model call: the outputs of all blocks are held for each.
BATCH = 4


@dataclass(frozen=True)
class AnalyzeRequest:
    """What to measure. out: a JSON file, or a folder.

    None stands for the first member, the family's own sampler, steps and guidance, every line of
    ``prompts`` or a few of the family's, as many keys as the paper's set has. keys: of the analysis
    of blocks alone; arms: of spacing; tolerance: of divergence.
    """

    member: str | None
    sampler: str | None
    steps: int | None
    guidance: float | None
    prompts: Path | None
    count: int | None
    seed: int
    keys: int | None
    out: Path
    arms: tuple[str, ...] = ()
    tolerance: float | None = None

    def check_only(self, *options: str) -> None:
        """Raises InvalidRequest for an option of another analysis than the one that has these."""
        for option, of in _OPTIONS.items():
            if option not in options and getattr(self, option) not in (None, ()):
                raise InvalidRequest(f"{_FLAGS[option]} is for {of}")


_OPTIONS = {
    "keys": "the analysis of blocks, without --spacing and --divergence",
    "arms": "--spacing",
    "tolerance": "--divergence",
}
_FLAGS = {"keys": "--keys", "arms": "--arm", "tolerance": "--tolerance"}


@dataclass(frozen=True)
class Terms:
    """A request with everything filled in and checked."""

    member: str
    plan: OpenPlan
    tasks: tuple[Task, ...]
    keys: int

    @property
    def calls(self) -> int:
        """Of the model, over all steps of all pictures."""
        return self.plan.steps * -(-len(self.tasks) // BATCH)


def terms_of(spec: FamilySpec, request: AnalyzeRequest) -> Terms:
    """Raises InvalidRequest or UnknownName for what can never be measured."""
    request.check_only("keys")
    member = whole_member(spec, request.member)
    steps = spec.default_steps if request.steps is None else request.steps
    guidance = spec.default_guidance if request.guidance is None else request.guidance
    sampler = check_sampler(request.sampler or spec.default_sampler)
    plan = plan_of(Arm.device(member), spec.name, sampler, steps, guidance)
    if steps < 2:
        raise InvalidRequest("a change needs at least 2 steps, got 1")
    keys = len(Propagation().keys_for(steps)) if request.keys is None else request.keys
    check_key_count(keys, steps)
    seed, size = check_seed(request.seed), spec.default_size
    prompts = sample_prompts(spec, request.count, seed, request.prompts)
    tasks = tuple(
        Task(prompt, "", plan, seed + index, size) for index, prompt in enumerate(prompts)
    )
    return Terms(member, plan, tasks, keys)


def place_of(out: Path, terms: Terms) -> Place:
    """Raises InvalidRequest for a place where nothing can be written."""
    plan = terms.plan
    return find_place(
        out, f"analyze-{plan.family}-{terms.member}-{plan.samplers[0]}-{plan.steps}.json"
    )
