"""Learns a block mask step by step (timestep-aware block masking, Secs. 3.2 to 3.5).

The model is frozen; every step trains chances of its own, on the plain trajectory's latents and
with the caches that the mask so far leaves, so memory does not grow with the number of steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from common.accel.estimators import Estimator, gates
from common.diffusion.blocks import BlockGraph, Blocks, Shared
from common.diffusion.executor import Conditioning, Run
from common.diffusion.samplers import advance, rescale, vp_form

_FIRST_LOGIT = 1.0
#: How hard the regulariser reacts, in units of its logarithm, to one step's worth of work too much.
_GAIN = 2.0


@dataclass(frozen=True)
class Settings:
    """How a mask is trained; symbols as in the paper where it has any.

    target_speed: the cost of all full steps in that of the rectified mask's. sparsity, bimodal:
    lambda_1 and lambda_2 of Eq. 8. loss_scaling: Eq. 10, with ``calm`` and ``busy`` as weights of
    the regularisers at steps whose features change less or more than at the median one.
    """

    target_speed: float = 1.8
    estimator: Estimator = "bernoulli"
    iterations: int = 40
    learning_rate: float = 0.2
    sparsity: float = 1e-2
    bimodal: float = 1e-3
    loss_scaling: bool = True
    calm: float = 2.0
    busy: float = 0.5
    seed: int = 0


@dataclass
class PartialMask:
    """What is settled so far: by step, the blocks that run and the chances that led there."""

    run: list[Blocks] = field(default_factory=list)
    chances: list[tuple[float, ...]] = field(default_factory=list)


class MaskTrainer:
    """Trains on ``runs``: fresh ones of one plan, member, sampler and number of steps.

    costs: by block, in any unit. Call `train` to the end; it goes on from ``partial``, and the
    same arguments give the same mask.
    """

    def __init__(
        self, graph: BlockGraph, runs: Sequence[Run], costs: Sequence[float], settings: Settings
    ) -> None:
        self._graph = graph
        self._runs = [_differentiable(run) for run in runs]
        self._settings = settings
        self._learnable = list(graph.learnable)
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
        self._weights = self._scales()
        runs = [replace(run) for run in self._runs]
        cache: list[Tensor] = []
        for step in range(self.steps):
            shared = self._shared(runs)
            plain = self._plain(shared)
            if step >= len(self.partial.run):
                self._settle(step, shared, cache, plain[-1])
                if on_step is not None:
                    on_step(self.partial)
            cache = self._masked(shared, cache, self.partial.run[step])
            self._follow(runs, plain[-1])
        return self.partial

    def _settle(self, step: int, shared: Shared, cache: list[Tensor], target: Tensor) -> None:
        always = self._graph.all & ~self._graph.constant
        for block in self._learnable:
            always &= ~(1 << block)
        if step == 0:
            self.partial.run.append(self._graph.all)
            self.partial.chances.append((1.0,) * len(self._graph))
            return
        chances = self._learn(step, shared, cache, target)
        run, told = always, [float(always >> i & 1) for i in range(len(self._graph))]
        for block, chance in zip(self._learnable, chances, strict=True):
            told[block] = chance
            run |= (chance > 0.5) << block
        self.partial.run.append(run)
        self.partial.chances.append(tuple(told))

    def _learn(self, step: int, shared: Shared, cache: list[Tensor], target: Tensor) -> list[float]:
        """Adam on the chances of one step; Eq. 11 with the error of Eq. 5, after guidance."""
        settings = self._settings
        logits = torch.full((len(self._learnable),), _FIRST_LOGIT, requires_grad=True)
        generator = torch.Generator().manual_seed(settings.seed * 100_003 + step)
        optimiser = torch.optim.Adam([logits], lr=settings.learning_rate)
        shares = torch.tensor([self._costs[block] for block in self._learnable])
        weight = self._weights[step] * self._pressure()
        wanted = self._guided(target)
        for _ in range(settings.iterations):
            drawn = gates(settings.estimator, logits, len(self._runs), generator)
            out = self._gated(shared, cache, drawn)
            chances = torch.sigmoid(logits)
            loss = relative_error(self._guided(out), wanted)
            loss = loss + weight * settings.sparsity * (shares * chances).sum() / shares.sum()
            loss = loss + weight * settings.bimodal * (chances * (1 - chances)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return [float(chance) for chance in torch.sigmoid(logits.detach())]

    def _pressure(self) -> float:
        """Raises the regularisers while the mask so far is slower than asked, and the reverse."""
        settled = self._graph.flow(self.partial.run).run
        spent = sum(self._cost(blocks) for blocks in settled)
        per_step = (self.steps / self._settings.target_speed - 1) / max(self.steps - 1, 1)
        planned = 1 + per_step * (len(settled) - 1)
        return float(torch.exp(torch.tensor(_GAIN * (spent - planned))))

    def _cost(self, blocks: Blocks) -> float:
        return sum(cost for index, cost in enumerate(self._costs) if blocks >> index & 1)

    def speed(self) -> float:
        """Of the rectified mask so far."""
        settled = self._graph.flow(self.partial.run).run
        return len(settled) / sum(self._cost(blocks) for blocks in settled)

    @torch.no_grad()
    def _scales(self) -> list[float]:
        """Weights of the regularisers by step (Eqs. 9 and 10)."""
        if not self._settings.loss_scaling:
            return [1.0] * self.steps
        runs = [replace(run) for run in self._runs]
        changes, before = [0.0], None
        for _ in range(self.steps):
            out = self._plain(self._shared(runs))[-1]
            if before is not None:
                changes.append(float((out - before).norm() / before.norm()))
            before = out
            self._follow(runs, out)
        median = statistics.median(changes[1:]) if len(changes) > 1 else 0.0
        return [self._settings.busy if c > median else self._settings.calm for c in changes]

    def _shared(self, runs: Sequence[Run]) -> Shared:
        """Rows: the conditional branch of every run, then the unconditional ones if guided."""
        level = runs[0].schedule.levels[runs[0].step]
        latents = torch.stack([rescale(run.x, level, vp_form(level)) for run in runs])
        contexts = [run.conditioning.positive for run in runs]
        if runs[0].guided:
            latents = torch.cat([latents, latents])
            contexts += [run.conditioning.negative for run in runs]
        timesteps = torch.full((len(latents),), runs[0].schedule.timesteps[runs[0].step])
        return Shared(latents, timesteps, torch.stack(contexts))

    @torch.no_grad()
    def _plain(self, shared: Shared) -> list[Tensor]:
        return self._masked(shared, [], self._graph.all)

    @torch.no_grad()
    def _masked(self, shared: Shared, cache: list[Tensor], run: Blocks) -> list[Tensor]:
        """Every block's output under a settled mask."""
        outputs: list[Tensor] = []
        for index, block in enumerate(self._graph.blocks):
            if run >> index & 1:
                outputs.append(block.run([outputs[i] for i in block.inputs], shared))
            else:
                outputs.append(cache[index])
        return outputs

    def _gated(self, shared: Shared, cache: list[Tensor], drawn: Tensor) -> Tensor:
        """The last block's output; each learnable block mixes its own with its cache (Eq. 4)."""
        outputs: list[Tensor] = []
        columns = {block: column for column, block in enumerate(self._learnable)}
        repeats = len(shared.sample) // len(drawn)
        for index, block in enumerate(self._graph.blocks):
            if block.constant:
                outputs.append(cache[index])
                continue
            out = block.run([outputs[i] for i in block.inputs], shared)
            if index in columns:
                gate = drawn[:, columns[index]].repeat(repeats)
                gate = gate.reshape(-1, *[1] * (out.dim() - 1))
                out = gate * out + (1 - gate) * cache[index]
            outputs.append(out)
        return outputs[-1]

    def _guided(self, out: Tensor) -> Tensor:
        """What the sampler takes: a step's error is what guidance makes of it."""
        run = self._runs[0]
        if not run.guided:
            return out
        positive, negative = out.chunk(2)
        return negative + run.plan.guidance_scale * (positive - negative)

    def _follow(self, runs: Sequence[Run], out: Tensor) -> None:
        """Advance the plain trajectory."""
        for run, prediction in zip(runs, self._guided(out), strict=True):
            run.x, run.past = advance(run.x, prediction, run.schedule, run.step, run.past)
            run.step += 1


def _differentiable(run: Run) -> Run:
    """A copy whose tensors autograd accepts, whatever mode they were made in."""
    text = run.conditioning
    conditioning = Conditioning(text.positive.clone(), text.negative.clone())
    return replace(run, x=run.x.clone(), conditioning=conditioning)


def relative_error(out: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of ``||out - target||^2 / ||target||^2`` (Eq. 5)."""
    dims = tuple(range(1, out.dim()))
    return ((out - target).square().sum(dims) / target.square().sum(dims)).mean()
