"""Training of the finisher: ``small`` at the quiet end, in one branch, as if it were guided.

It starts from ``small``, learns real latents at those noise levels, then mostly *on-policy* states:
those that trajectories of ``large`` pass, some begun by ``small``, each with the x0 that ``large``
predicts there under guidance. So it learns what ``large`` would have done, guidance included
(Meng et al. 2023 distil guidance alike), on the states that it will be handed. One that is trained
on, from an earlier finisher, also sees states that this one comes to by itself (DAgger, Ross et al.
2011).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from baton.common.families.scenes.training.dataset import LatentDataset
from baton.common.families.scenes.training.denoiser import NoiseProcess
from baton.common.families.scenes.training.device import Machine
from baton.common.families.scenes.training.loop import Allowance, Optimisation, TrainState
from baton.common.families.scenes.training.members import FINISHER
from baton.common.files import saving

#: The levels that it is for, as sigma = b / a.
QUIET = (0.1, 1.6)

_REAL_FIRST = 0.2  # share of the training that sees real latents alone
_ON_POLICY = 0.85  # share of the rest that sees states of trajectories
_STEPS = (6, 8, 10, 12)  # of a trajectory
_BEGUN_BY_SMALL = 0.4  # share of the trajectories whose loudest steps are small's
_SMALL_UNTIL = 2.5  # sigma
_FEW_STEPS = 0.5  # share of the trajectories over few levels that fall geometrically
_FEW_FROM, _FEW_TO = (3.0, 5.0), (0.08, 0.35)  # sigma of their second level, and of their last
_ROLLOUT_SHARE = 0.3  # of the stage's time
_BATCH = 64  # trajectories at a time

OPTIMISATION = Optimisation(lr=4e-4, batch=64, warmup=100)


@dataclass(frozen=True)
class States:
    """On-policy states.

    x: VP latents, float16 [N, 4, h, w]. t: their time steps, int64 [N]. x0: what is wanted there,
    as x. rows: of the data set, where the prompts are, int64 [N].
    """

    x: Tensor
    t: Tensor
    x0: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Teachers:
    """The models whose trajectories are followed, and the guidance scale.

    finisher: an earlier one, from which the training goes on.
    """

    large: UNet2DConditionModel
    small: UNet2DConditionModel
    text_encoder: CLIPTextModel
    guidance: float
    finisher: UNet2DConditionModel | None = None


def train_finisher(
    run_dir: Path,
    teachers: Teachers,
    data: LatentDataset,
    machine: Machine,
    allowance: Allowance,
) -> UNet2DConditionModel:
    """Train (or go on training) the finisher."""
    torch.manual_seed(machine.seed)
    unet = copy.deepcopy(teachers.finisher or teachers.small).train().requires_grad_(True)
    state = TrainState.resumed(run_dir / FINISHER, {"unet": unet}, OPTIMISATION, machine)
    if state.position.finished:
        state.load_averages()
        return unet
    begun = time.monotonic()
    states = _load_states(run_dir / "states.pt", teachers, data, machine, allowance)
    spent = time.monotonic() - begun
    rest = Allowance(allowance.steps, max(1.0, allowance.seconds - spent), allowance.stop_after)
    state.run(_loss(state, unet, teachers, data, states, machine), rest)
    return unet


def _loss(
    state: TrainState,
    unet: UNet2DConditionModel,
    teachers: Teachers,
    data: LatentDataset,
    states: States,
    machine: Machine,
) -> Callable[[int], tuple[Tensor, dict[str, Tensor]]]:
    process, batch = NoiseProcess(machine.device), OPTIMISATION.batch
    loud, quiet = (_time_of(process, sigma) for sigma in reversed(QUIET))
    real_first = _REAL_FIRST if teachers.finisher is None else 0.0

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = machine.generator(step)
        picked = machine.rows(len(states.x), batch, generator)
        real_rows = machine.rows(len(data.latents), batch, generator)
        real_t = quiet + machine.rows(loud - quiet, batch, generator)
        chance = torch.rand(batch, generator=generator, device=machine.device)
        real = chance >= (_ON_POLICY if state.position.progress >= real_first else 0.0)
        rows = torch.where(real, real_rows, states.rows[picked])
        t = torch.where(real, real_t, states.t[picked])
        a, b = process.levels(t)
        choose = real.view(-1, 1, 1, 1)
        latents = torch.where(choose, data.latents[rows].float(), states.x0[picked].float())
        noise = torch.randn(latents.shape, generator=generator, device=machine.device)
        x = torch.where(choose, a * latents + b * noise, states.x[picked].float())
        with torch.no_grad():
            context = teachers.text_encoder(data.tokens[rows].long())[0]
        with machine.autocast():
            predicted = unet(x, t, context).sample
        target = (a * x - latents) / b  # v at x, if x0 is what is wanted
        value = process.loss(predicted, target, t)
        return value, {"loss": value}

    return loss


def _time_of(process: NoiseProcess, sigma: float) -> int:
    """The time step whose level is nearest to sigma."""
    return int((process.b / process.a - sigma).abs().argmin())


def _load_states(
    path: Path, teachers: Teachers, data: LatentDataset, machine: Machine, allowance: Allowance
) -> States:
    """Follow trajectories once, for a share of the stage's time; later runs read the file."""
    if not path.exists():
        until = time.monotonic() + _ROLLOUT_SHARE * allowance.seconds
        found: list[States] = []
        while not found or (allowance.steps is None and time.monotonic() < until):
            found.append(_follow(teachers, data, machine, len(found)))
        names = ("x", "t", "x0", "rows")
        columns = {name: torch.cat([getattr(part, name).cpu() for part in found]) for name in names}
        with saving(path) as file:
            torch.save(columns, file)
        print(f"finisher: {len(columns['t'])} on-policy states", flush=True)
    saved = torch.load(path, weights_only=True, map_location=machine.device)
    return States(**saved)


@torch.inference_mode()
def _follow(teachers: Teachers, data: LatentDataset, machine: Machine, index: int) -> States:
    """The quiet states of a batch of guided DDIM trajectories over a random grid of levels.

    Half of them go on by the earlier finisher, if there is one, from a random level on.
    """
    generator = machine.generator(10_000_000 + index)  # apart from those of training steps
    process = NoiseProcess(machine.device)
    rows = machine.rows(len(data.latents), _BATCH, generator)
    contexts = [teachers.text_encoder(data.tokens[rows].long())[0]]
    contexts.append(teachers.text_encoder(data.empty.long().expand(_BATCH, -1))[0])
    context = torch.cat(contexts)
    shape = data.latents[rows].shape
    x = torch.randn(shape, generator=generator, device=machine.device)
    by_small = index % 10 < 10 * _BEGUN_BY_SMALL
    found: dict[str, list[Tensor]] = {"x": [], "t": [], "x0": [], "rows": []}
    grid = _grid(process, _STEPS[index % len(_STEPS)], generator)
    own_from = QUIET[1] * float(torch.rand(1, generator=generator, device=machine.device))
    for t, target in zip(grid, [*grid[1:], None], strict=True):
        sigma = float(process.b[t] / process.a[t])
        unet = teachers.small if by_small and sigma > _SMALL_UNTIL else teachers.large
        times = torch.full((_BATCH,), t, device=machine.device)
        with machine.autocast(pays_on_cpu=True):
            out = unet(torch.cat([x, x]), torch.cat([times, times]), context).sample.float()
        told, empty = out.chunk(2)
        v = empty + teachers.guidance * (told - empty)
        a, b = process.a[t], process.b[t]
        x0 = a * x - b * v
        if QUIET[0] <= sigma <= QUIET[1]:
            for name, value in {"x": x.half(), "t": times, "x0": x0.half(), "rows": rows}.items():
                found[name].append(value)
        if teachers.finisher is not None and index % 2 and sigma <= own_from:
            v = teachers.finisher(x, times, contexts[0]).sample.float()
        if target is not None:
            x = process.a[target] * (a * x - b * v) + process.b[target] * (a * v + b * x)
    return States(**{name: torch.cat(values) for name, values in found.items()})


def _grid(process: NoiseProcess, steps: int, generator: torch.Generator) -> list[int]:
    """Time steps from pure noise to nearly clean.

    They are evenly apart but for a common random shift, or as few-step grids are: from pure noise
    straight to where shapes are decided, from there with levels that fall geometrically.
    """
    few, first, last = torch.rand(3, generator=generator, device=generator.device).tolist()
    top = process.steps - 1
    if few >= _FEW_STEPS:
        return [max(1, math.floor(top * (1 - (k + first * (k > 0)) / steps))) for k in range(steps)]
    begin, end = (
        low + share * (high - low) for (low, high), share in ((_FEW_FROM, first), (_FEW_TO, last))
    )
    fall = (end / begin) ** (1 / (steps - 2))
    return [top, *(_time_of(process, begin * fall**k) for k in range(steps - 1))]
