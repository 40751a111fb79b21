"""Steps as they ran, and what can be true of them: in an edge's word as in a picture's record."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from baton.common.arm import Arm, Stretch
from baton.common.errors import InvalidRequest
from baton.common.limits import (
    DEVICE_NODE,
    MAX_NAME_CHARS,
    MAX_ROWS,
    MAX_THREADS,
    Branches,
    Location,
)
from baton.common.plan import Grid, OpenPlan, OpenSegment, StepDirective


@dataclass(frozen=True, slots=True)
class Runtime:
    """On what a step's last bits depend, beside weights, build, rows and threads.

    device: torch's name of its kind; dtype: of the model's weights; attention: which kernel;
    compiled: whether torch.compile made the model.
    """

    device: str = "cpu"
    dtype: str = "float32"
    attention: str = "sdpa"
    compiled: bool = False

    def __post_init__(self) -> None:
        for name in (self.device, self.dtype, self.attention):
            if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
                raise InvalidRequest("a step's device, dtype and attention are short names")


CPU = Runtime()


@dataclass(frozen=True, slots=True)
class ExecutedStep:
    """One step as it ran; the executed plan is a list of them.

    rows: of the batch that the step was part of; row: the first that was the request's own;
    threads: of the process that ran it; branches, blocks, ahead, prior_noise and negative_blocks:
    as in `StepDirective`, with what really ran; neighbours: (rows, blocks) over the whole batch, in
    its order, where its rows did not all run the same. Together they make a replay exact.
    """

    step: int
    member: str
    location: Location
    node_id: str
    branches: Branches
    rows: int
    threads: int
    row: int = 0
    blocks: int | None = None
    ahead: int = 0
    prior_noise: float = 0.0
    neighbours: tuple[tuple[int, int | None], ...] = ()
    runtime: Runtime = CPU
    negative_blocks: int | None = None

    @property
    def directive(self) -> StepDirective:
        """What makes the step run so again."""
        return StepDirective(
            self.branches, self.blocks, self.ahead, self.prior_noise, self.negative_blocks
        )

    @property
    def branch_rows(self) -> int:
        """Rows that the step itself took."""
        return 2 if self.branches == "both" else 1


def arm_that_ran(executed: Sequence[ExecutedStep], allowed: OpenPlan, planned: Arm) -> Arm:
    """The arm whose plan is what was executed, over the grids and guidance of ``allowed``.

    It says the steps of its stretches, and their guidance, where the planned one does.
    """
    says_guidance = any(stretch.guidance is not None for stretch in planned.stretches)

    def taken(step: ExecutedStep) -> Stretch:
        scale = allowed.segment_at(step.step).guidance.scale if says_guidance else None
        return Stretch(step.location, step.member, guidance=scale)

    found, done = [], 0
    for stretch, steps in groupby(executed, taken):
        start, done = done, done + len(list(steps))
        found.append((stretch, start, done))
    if planned.steps is not None:
        return Arm(tuple(_counted(found, allowed.grids)))
    *inner, (last, _, _) = found
    return Arm((*(replace(one, share=end / done) for one, _, end in inner), last))


def _counted(found: Sequence[tuple[Stretch, int, int]], grids: Sequence[Grid]) -> Sequence[Stretch]:
    """Stretches with steps of their own, cut where a grid ends, too."""
    stretches = []
    for stretch, start, stop in found:
        for grid in grids:
            first, last = max(start, grid.start), min(stop, grid.stop)
            if first < last:
                sigma = grid.until if last == grid.stop else None
                stretches.append(replace(stretch, steps=last - first, sigma=sigma))
    return stretches


def plan_that_ran(allowed: OpenPlan, executed: Sequence[ExecutedStep]) -> OpenPlan:
    """The plan whose every step is what was executed, over the grids and guidance of ``allowed``.

    Raises InvalidRequest for steps that no plan can have.
    """
    segments: list[OpenSegment] = []
    terms = [allowed.segment_at(step.step) for step in executed]
    pairs = zip(executed, terms, strict=True)
    alike = groupby(pairs, lambda of: (of[0].member, of[0].location, of[1].grid, of[1].guidance))
    for (member, location, grid, guidance), group in alike:
        steps = [step for step, _ in group]
        start, directives = steps[0].step, tuple(step.directive for step in steps)
        place = member, location, start, start + len(steps)
        segments.append(OpenSegment(*place, grid, guidance, directives))
    return OpenPlan(allowed.family, tuple(segments))


def check_record(executed: Sequence[ExecutedStep], transfers: Collection[int] = ()) -> None:
    """Raises InvalidRequest for steps, one after the other, that cannot have run, or run again.

    transfers: the steps at which an envelope rounded the latent.
    """
    for step in executed:
        _check_batch(step)
        if not 1 <= step.threads <= MAX_THREADS:
            raise InvalidRequest(f"step {step.step}: {step.threads} threads")
        if (step.location == "device") != (step.node_id == DEVICE_NODE):
            raise InvalidRequest(f"step {step.step} ran nowhere")
        _ = step.directive
    _check_reuse(executed, transfers)
    for index, key in enumerate(executed):
        if not _is_whole(key, executed[index + 1 : index + 1 + key.ahead], transfers):
            raise InvalidRequest(f"step {key.step} cannot have run with {key.ahead} others")


def _check_reuse(executed: Sequence[ExecutedStep], transfers: Collection[int]) -> None:
    """What a step reuses was left by one that the same member ran there, with no transfer since."""
    where, held = None, False
    for step in executed:
        if where != (where := (step.member, step.node_id)) or step.step in transfers:
            held = False
        if step.branches == "reuse" and not held:
            raise InvalidRequest(f"step {step.step} had no guidance to reuse")
        held = held or step.branches == "both"


def _check_batch(step: ExecutedStep) -> None:
    """Of the rows that follow the step's own, `_is_whole` knows how many are its group's."""
    rows_after = step.rows - step.row - step.branch_rows
    if min(step.row, rows_after) < 0 or step.rows > MAX_ROWS:
        raise InvalidRequest(f"step {step.step} cannot have such rows")
    counts = [rows for rows, _ in step.neighbours]
    if counts and (min(counts) < 1 or sum(counts) != step.rows):
        raise InvalidRequest(f"step {step.step} has other neighbours")


def _is_whole(
    key: ExecutedStep, followers: Sequence[ExecutedStep], transfers: Collection[int]
) -> bool:
    """Whether one call can have evaluated them: rows of one batch, with no transfer in between."""
    row = key.row + key.branch_rows
    for index, step in enumerate(followers, start=1):
        of_call = replace(
            step,
            branches=key.branches,
            blocks=key.blocks,
            prior_noise=key.prior_noise,
            negative_blocks=key.negative_blocks,
        )
        if of_call != replace(key, step=key.step + index, row=row, ahead=0):
            return False
        if step.step in transfers:
            return False
        row += step.branch_rows
    return len(followers) == key.ahead >= 0 and row <= key.rows
