"""Draws many plans on the same prompts and seeds, each common prefix once, and keeps the results.

Plans that begin alike share their first steps: a trie over the steps runs every distinct stretch
once, for batches of prompts, which is what drawing each plan by itself gives. What was drawn is
kept in a folder under a key of weights, code, plan and prompts, so a broken run goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from torch import Tensor

from baton import common
from baton.common.diffusion.conditioning import Conditioning
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.executor import denoise_step
from baton.common.diffusion.run import Run, start_run
from baton.common.families.loaded import LoadedFamily
from baton.common.families.scenes.evaluate import Case
from baton.common.families.scenes.verify import verify
from baton.common.files import saving
from baton.common.plan import OpenPlan
from baton.common.quality.scores import Score, summarise

_Floats = npt.NDArray[np.float64]
_Moments = tuple[_Floats, _Floats]

_BATCH = 25
_SOURCES = ("accel", "diffusion", "families")


@dataclass(frozen=True, eq=False)
class Drawing:
    """What one plan made of n prompts.

    graded, strict: the verifier's scores, [n]. intensity: ``||x||_2`` before each step and after
    the last (RISE, Sec. III), [n, steps + 1]; variance: of each channel, [n, steps + 1, C]; both in
    the variance-preserving form, whatever the sampler's. pictures: uint8 [n, H, W, 3].
    """

    graded: _Floats
    strict: _Floats
    intensity: _Floats
    variance: _Floats
    pictures: npt.NDArray[np.uint8]

    def score(self, chosen: npt.NDArray[np.bool_] | None = None) -> Score:
        """Over all prompts, or the chosen ones."""
        graded, strict = self.graded, self.strict
        if chosen is not None:
            graded, strict = graded[chosen], strict[chosen]
        return summarise(graded.tolist(), [bool(value) for value in strict])


_FIELDS = tuple(field.name for field in fields(Drawing))


@dataclass(frozen=True)
class Player:
    """How a member of a plan denoises, and how its latents become pictures."""

    denoiser: Denoiser
    decode: Callable[[Tensor], npt.NDArray[np.uint8]]


class Studio:
    """Draws plans whose members are those of a family, and others by name.

    others: members that stand in for no member of the family; cache: where results are kept, None
    for nowhere; only_kept: raise LookupError where something is not. backwards: from the last
    prompts to the first, so that two processes that share a cache meet in the middle.
    """

    def __init__(
        self,
        family: LoadedFamily,
        others: Mapping[str, tuple[LoadedFamily, str]],
        cache: Path | None,
        only_kept: bool = False,
        backwards: bool = False,
    ) -> None:
        self._family = family
        self._backwards = backwards
        self._only_kept = only_kept
        own = {member: (family, member) for member in family.members}
        self._cast = {
            name: Player(holder.denoiser(member), holder.decode)
            for name, (holder, member) in {**own, **others}.items()
        }
        self._weights = {
            name: (holder.fingerprint, holder.member_fingerprints[member])
            for name, (holder, member) in {**own, **others}.items()
        }
        self._cache = None if cache is None else cache / _digest(_sources(), _FIELDS)

    def draw(
        self, plans: Sequence[OpenPlan], cases: Sequence[Case], title: str
    ) -> dict[OpenPlan, Drawing]:
        """One drawing per plan; ``title`` stands before the progress bar."""
        plans = list(dict.fromkeys(plans))
        starts = list(range(0, len(cases), _BATCH))
        order = starts[::-1] if self._backwards else starts
        drawn = {
            start: self._draw_batch(plans, cases[start : start + _BATCH])
            for start in track(order, description=f"{title:<12}", transient=True)
        }
        return {plan: _join([drawn[start][plan] for start in starts]) for plan in plans}

    def _draw_batch(
        self, plans: Sequence[OpenPlan], batch: Sequence[Case]
    ) -> dict[OpenPlan, Drawing]:
        drawn = {plan: self._load(plan, batch) for plan in plans}
        missing = sorted((plan for plan in plans if drawn[plan] is None), key=_start)
        if missing and self._only_kept:
            raise LookupError(f"{len(missing)} of {len(plans)} plans are not drawn yet")
        prompts = [self._family.encode_text(case.prompt) for case in batch] if missing else []
        for _, alike in groupby(missing, key=_start):
            together = list(alike)
            runs = self._start(together[0], prompts, batch)
            for plan, ended, trace in self._play(together, runs, [_moments(runs)]):
                drawn[plan] = self._judge(plan, ended, trace, batch)
                self._store(plan, batch, drawn[plan])
        return {plan: drawing for plan, drawing in drawn.items() if drawing is not None}

    def _start(
        self, plan: OpenPlan, prompts: Sequence[Conditioning], batch: Sequence[Case]
    ) -> list[Run]:
        closed, course = plan.closed(), self._family.course(plan)
        shape = self._family.latent_shape(self._family.spec.sizes.default)
        return [
            start_run(closed, course, prompt, case.seed, shape)
            for prompt, case in zip(prompts, batch, strict=True)
        ]

    def _play(
        self, plans: Sequence[OpenPlan], runs: Sequence[Run], trace: list[_Moments]
    ) -> Iterator[tuple[OpenPlan, Sequence[Run], list[_Moments]]]:
        """Walk the trie: plans that agree about the next step take it together."""
        step = runs[0].step
        if step == plans[0].steps:
            yield from ((plan, runs, trace) for plan in plans)
            return
        branches: dict[object, list[OpenPlan]] = {}
        for plan in plans:
            branches.setdefault(_next(plan, step), []).append(plan)
        for branch in branches.values():
            closed = branch[0].closed()
            copies = [replace(run, plan=closed) for run in runs]
            denoise_step(copies, self._cast[closed.segment_at(step).member].denoiser)
            for run in copies:
                if run.error is not None:
                    raise run.error
            yield from self._play(branch, copies, [*trace, _moments(copies)])

    def _judge(
        self, plan: OpenPlan, runs: Sequence[Run], trace: Sequence[_Moments], batch: Sequence[Case]
    ) -> Drawing:
        decode = self._cast[plan.segments[-1].member].decode
        pictures = [decode(run.x) for run in runs]
        verdicts = [verify(one, case.spec) for one, case in zip(pictures, batch, strict=True)]
        return Drawing(
            graded=np.array([verdict.graded for verdict in verdicts]),
            strict=np.array([float(verdict.strict) for verdict in verdicts]),
            intensity=np.stack([intensity for intensity, _ in trace], axis=1),
            variance=np.stack([variance for _, variance in trace], axis=1),
            pictures=np.stack(pictures),
        )

    def _path(self, plan: OpenPlan, batch: Sequence[Case]) -> Path | None:
        if self._cache is None:
            return None
        stretches = [(s.member, s.start, s.stop, s.guidance, s.directives) for s in plan.segments]
        weights = [self._weights[segment.member] for segment in plan.segments]
        cases = [(case.prompt, case.seed) for case in batch]
        return self._cache / f"{_digest(weights, _start(plan), stretches, cases)}.npz"

    def _load(self, plan: OpenPlan, batch: Sequence[Case]) -> Drawing | None:
        path = self._path(plan, batch)
        if path is None or not path.is_file():
            return None
        with np.load(path) as kept:
            return Drawing(**{name: kept[name] for name in kept.files})

    def _store(self, plan: OpenPlan, batch: Sequence[Case], drawing: Drawing | None) -> None:
        path = self._path(plan, batch)
        if path is None or drawing is None:
            return
        with saving(path) as file:
            np.savez_compressed(file, **vars(drawing))


def complexity(case: Case) -> int:
    """How many facts a prompt states: of each thing, their relation, the background."""
    spec = case.spec
    of_things = sum(
        1 + sum(map(bool, (thing.color, thing.size, thing.surface))) for thing in spec.objects
    )
    return of_things + bool(spec.relation) + bool(spec.background)


def _start(plan: OpenPlan) -> str:
    """What plans must share to go through the same levels."""
    return repr(plan.grids)


def _next(plan: OpenPlan, step: int) -> object:
    """What plans must share to take the next step together.

    What a step with a block mask keeps is decided by all later ones of its segment.
    """
    segment = plan.segment_at(step)
    alike = segment.member, segment.guidance, plan.directive_at(step)
    return segment if segment.masked else alike


def _moments(runs: Sequence[Run]) -> _Moments:
    """(``||x||_2`` [B], variance per channel [B, C]) of the runs' latents, variance preserving."""
    step, course = runs[0].step, runs[0].course
    factor = course.to_vp[step] if step < course.steps else 1.0  # nothing but signal is left
    x = torch.stack([run.x for run in runs]).double().flatten(2) * factor
    return x.flatten(1).norm(dim=1).numpy(), x.var(dim=2, correction=0).numpy()


def _join(drawings: Sequence[Drawing]) -> Drawing:
    return Drawing(*(np.concatenate([getattr(d, name) for d in drawings]) for name in _FIELDS))


def _sources() -> list[str]:
    """Digests of the code that decides what is drawn and how it is scored."""
    root = Path(str(common.__file__)).parent
    found = (path for name in _SOURCES for path in (root / name).rglob("*.py"))
    paths = sorted(path for path in found if "training" not in path.relative_to(root).parts)
    return [hashlib.blake2b(path.read_bytes()).hexdigest() for path in paths]


def _digest(*values: object) -> str:
    return hashlib.blake2b(repr(values).encode(), digest_size=12).hexdigest()
