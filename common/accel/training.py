"""Learns a block mask step by step (timestep-aware block masking, Secs. 3.2 to 3.5).

The model is frozen; every step trains chances of its own, on the plain trajectory's latents and
with the caches that the mask so far leaves, so of all steps only the latents are in memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from baton.common.accel.estimators import gates
from baton.common.accel.mask_settings import Settings
from baton.common.diffusion.blocks import BlockGraph, Blocks, ModelInputs
from baton.common.diffusion.conditioning import Conditioning, Tensors, stacked
from baton.common.diffusion.run import Run
from baton.common.diffusion.samplers import rescale, vp_form
from baton.common.errors import ExecutionFailed

_FIRST_LOGIT = 1.0
#: How hard the regulariser reacts, in units of its logarithm, to one step's worth of work too much.
_GAIN = 2.0


@dataclass
class PartialMask:
    """What is settled so far: by step, the blocks that run and the chances that led there."""

    run: list[Blocks] = field(default_factory=list)
    chances: list[tuple[float, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class _Point:
    """A step of the plain trajectory: what the model is given, and what it predicts."""

    inputs: ModelInputs
    out: Tensor


class MaskTrainer:
    """Trains on ``runs``: fresh ones of one plan, member, sampler and number of steps.

    costs: by block, in any unit; keys: key steps of encoder propagation, none without it. They run
    in full, in place of those of ``refresh_every``, and the steps between two of them, which may be
    decoded together, share one decision about the decoder. Call `train` to the end; it goes on from
    ``partial``, and the same arguments give the same mask.
    """

    def __init__(
        self,
        graph: BlockGraph,
        runs: Sequence[Run],
        costs: Sequence[float],
        settings: Settings,
        keys: Sequence[int] = (),
    ) -> None:
        self._graph = graph
        self._runs = [_differentiable(run) for run in runs]
        self._conditioning = _conditioning(self._runs)
        self._rows = len(self._runs) * len(self._runs[0].branches)
        self._settings = settings
        self._propagated = bool(keys)
        self._full = settings.full_steps(self.steps, keys)
        self._reused = graph.constant | (graph.encoder if keys else 0)
        self._learnable = [block for block in graph.learnable if not self._reused >> block & 1]
        total = sum(costs)
        self._costs = [cost / total for cost in costs]
        self._weights: list[float] = []
        self.partial = PartialMask()

    @property
    def steps(self) -> int:
        return self._runs[0].plan.steps

    def train(
        self,
        partial: PartialMask | None = None,
        on_step: Callable[[PartialMask], None] | None = None,
    ) -> PartialMask:
        """The settled mask, unrectified; ``on_step`` hears of it after every step."""
        self.partial = partial or PartialMask()
        trajectory = self._trajectory()
        self._weights = self._scales(trajectory)
        cache: list[Tensor] = []
        for step, point in enumerate(trajectory):
            if step >= len(self.partial.run):
                self._settle(step, trajectory, cache)
                if on_step is not None:
                    on_step(self.partial)
            cache = self._masked(point.inputs, cache, self.partial.run[step])
        return self.partial

    def _settle(self, step: int, trajectory: Sequence[_Point], cache: list[Tensor]) -> None:
        """Decide about a step, or with key steps about all until the next one."""
        everything = self._graph.all if step == 0 else self._graph.all & ~self._graph.constant
        if step in self._full:
            self._append(everything, {}, 1)
            return
        stop = step + 1
        while self._propagated and stop < self.steps and stop not in self._full:
            stop += 1
        learned = self._learn(step, trajectory[step:stop], cache)
        chances = dict(zip(self._learnable, learned, strict=True))
        run = self._graph.all & ~self._reused
        for block, chance in chances.items():
            if chance <= 0.5:
                run &= ~(1 << block)
        self._append(run, chances, stop - step)

    def _append(self, run: Blocks, chances: Mapping[int, float], times: int) -> None:
        told = tuple(chances.get(i, float(run >> i & 1)) for i in range(len(self._graph)))
        self.partial.run += [run] * times
        self.partial.chances += [told] * times

    def _learn(self, step: int, points: Sequence[_Point], cache: list[Tensor]) -> list[float]:
        """Adam on one decision's chances; Eq. 11 with the error of Eq. 5, after guidance."""
        settings = self._settings
        logits = torch.full((len(self._learnable),), _FIRST_LOGIT, requires_grad=True)
        generator = torch.Generator().manual_seed(settings.seed * 100_003 + step)
        optimiser = torch.optim.Adam([logits], lr=settings.learning_rate)
        shares = torch.tensor([self._costs[block] for block in self._learnable])
        weight = statistics.mean(self._weights[step : step + len(points)]) * self._pressure()
        for _ in range(settings.iterations):
            point = points[_any_of(len(points), generator)]
            drawn = gates(settings.estimator, logits, len(self._runs), generator)
            out = self._gated(point.inputs, cache, drawn)
            chances = torch.sigmoid(logits)
            loss = relative_error(self._guided(out), self._guided(point.out))
            loss = loss + weight * settings.sparsity * (shares * chances).sum() / shares.sum()
            loss = loss + weight * settings.bimodal * (chances * (1 - chances)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return [float(chance) for chance in torch.sigmoid(logits.detach())]

    def _pressure(self) -> float:
        """Raises the regularisers while the mask so far is slower than asked, and the reverse."""
        settled = self._graph.schedule(self.partial.run).run
        spent = sum(self._cost(blocks) for blocks in settled)
        full, others = len(self._full), max(self.steps - len(self._full), 1)
        per_step = (self.steps / self._settings.target_speed - full) / others
        so_far = sum(step < len(settled) for step in self._full)
        planned = so_far + per_step * (len(settled) - so_far)
        return float(torch.exp(torch.tensor(_GAIN * (spent - planned))))

    def _cost(self, blocks: Blocks) -> float:
        return sum(cost for index, cost in enumerate(self._costs) if blocks >> index & 1)

    def speed(self) -> float:
        """Of the rectified mask so far."""
        settled = self._graph.schedule(self.partial.run).run
        return len(settled) / sum(self._cost(blocks) for blocks in settled)

    @torch.no_grad()
    def _trajectory(self) -> list[_Point]:
        """The plain one, by step. Raises ExecutionFailed if it stops being finite."""
        runs, points = [replace(run) for run in self._runs], []
        for _ in range(self.steps):
            inputs = self._inputs(runs)
            out = self._masked(inputs, [], self._graph.all)[-1]
            points.append(_Point(inputs, out))
            for run, prediction in zip(runs, self._guided(out), strict=True):
                run.x, run.history = run.course.advance(run.x, prediction, run.step, run.history)
                if not torch.isfinite(run.x).all():
                    raise ExecutionFailed(f"the latent stopped being finite at step {run.step}")
                run.step += 1
        return points

    def _scales(self, trajectory: Sequence[_Point]) -> list[float]:
        """Weights of the regularisers by step (Eqs. 9 and 10)."""
        if not self._settings.loss_scaling:
            return [1.0] * self.steps
        changes = [0.0] + [
            float((after.out - before.out).norm() / before.out.norm())
            for before, after in pairwise(trajectory)
        ]
        median = statistics.median(changes[1:]) if len(changes) > 1 else 0.0
        return [self._settings.busy if c > median else self._settings.calm for c in changes]

    def _inputs(self, runs: Sequence[Run]) -> ModelInputs:
        """The rows of a step."""
        level = runs[0].course.levels[runs[0].step]
        latents = torch.stack([rescale(run.x, level, vp_form(level)) for run in runs])
        latents = latents.repeat(self._rows // len(runs), 1, 1, 1)
        timesteps = torch.full((len(latents),), runs[0].course.timesteps[runs[0].step])
        return ModelInputs(latents, timesteps, self._conditioning)

    @torch.no_grad()
    def _masked(self, inputs: ModelInputs, cache: list[Tensor], run: Blocks) -> list[Tensor]:
        """Every block's output under a settled mask."""
        outputs: list[Tensor] = []
        for index, block in enumerate(self._graph.blocks):
            if run >> index & 1:
                outputs.append(block.run([outputs[i] for i in block.inputs], inputs))
            else:
                outputs.append(cache[index])
        return outputs

    def _gated(self, inputs: ModelInputs, cache: list[Tensor], drawn: Tensor) -> Tensor:
        """The last block's output; each learnable block mixes its own with its cache (Eq. 4)."""
        outputs: list[Tensor] = []
        columns = {block: column for column, block in enumerate(self._learnable)}
        repeats = len(inputs.sample) // len(drawn)
        for index, block in enumerate(self._graph.blocks):
            if self._reused >> index & 1:
                outputs.append(cache[index])
                continue
            out = block.run([outputs[i] for i in block.inputs], inputs)
            if index in columns:
                gate = drawn[:, columns[index]].repeat(repeats)
                gate = gate.reshape(-1, *[1] * (out.dim() - 1))
                out = gate * out + (1 - gate) * cache[index]
            outputs.append(out)
        return outputs[-1]

    def _guided(self, out: Tensor) -> Tensor:
        """What the sampler takes: a step's error is what guidance makes of it."""
        run = self._runs[0]
        if len(run.branches) == 1:
            return out
        positive, negative = out.chunk(2)
        return negative + run.segment.guidance.scale * (positive - negative)


def _differentiable(run: Run) -> Run:
    """A copy whose tensors autograd accepts, whatever mode they were made in."""
    branches = {
        branch: {name: tensor.clone() for name, tensor in row.items()}
        for branch, row in run.encoded.branches.items()
    }
    return replace(run, x=run.x.clone(), conditioning=Conditioning(branches))


def _conditioning(runs: Sequence[Run]) -> Tensors:
    """Of the conditional branch of every run, then of the unconditional if guided."""
    return stacked([run.encoded.row(branch) for branch in runs[0].branches for run in runs])


def _any_of(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator)) if count > 1 else 0


def relative_error(out: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of ``||out - target||^2 / ||target||^2`` (Eq. 5)."""
    dims = tuple(range(1, out.dim()))
    return ((out - target).square().sum(dims) / target.square().sum(dims)).mean()
