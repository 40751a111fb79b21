"""The configurations that the accelerations' benchmark compares, as plans of one member."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from baton.common.accel.masks import load_mask
from baton.common.accel.propagation import PRIOR_NOISE, Propagation, propagated, uniform_keys
from baton.common.diffusion.blocks import Blocks
from baton.common.families.loaded import LoadedFamily
from baton.common.limits import ACCELS, SamplerName
from baton.common.plan import OpenPlan, StepDirective
from tests.support.tasks import accelerated, plan_in

STEPS = 50
#: At which acceleration and fewer steps are combined.
FEW_STEPS = 20
ACCELERATED = tuple(accel for accel in ACCELS if accel != "none")
#: Faster Diffusion, Tab. 5, as steps from the first: sets that the paper found worse.
BAD_KEYS = {
    "uniform-6": uniform_keys(STEPS, 6),
    "non-uniform-II": (0, 20, 25, 30, 35, 36, 45, 46, 47),
}
FEWER: dict[SamplerName, tuple[int, ...]] = {
    "ddim": (5, 8, 10, 12, 15, 20, 25),
    "dpmpp_2m": (5, 8, 10, 12, 15),
}
#: DeepCache's interval and how many of the decoder's last layers it runs between; FORA's interval.
DEEPCACHE = ((3, 1), (5, 1), (3, 3))
FORA = (2,)
ABLATIONS = ("no-refresh", "no-loss-scaling", "no-bimodal", "gumbel", "interpolate")


def one_by_one(plan: OpenPlan) -> OpenPlan:
    """The same with no steps decoded together."""
    segments = []
    for segment in plan.segments:
        directives = tuple(replace(item, ahead=0) for item in segment.directives)
        segments.append(replace(segment, directives=directives))
    return replace(plan, segments=tuple(segments))


@dataclass(frozen=True)
class Accelerated:
    """A plan in the comparison, and what it is there for.

    kind: reference, claimed, variant, control, baseline, fewer steps, both (acceleration of fewer
    steps) or ablation.

    It is judged by the pictures of ``drawn``: decoding steps together gives what one after the
    other gives, up to rounding.
    """

    name: str
    kind: str
    plan: OpenPlan
    rectify: bool = True

    @property
    def sampler(self) -> SamplerName:
        return self.plan.samplers[0]

    @property
    def drawn(self) -> OpenPlan:
        return one_by_one(self.plan)


def written_out(family: LoadedFamily, plan: OpenPlan) -> OpenPlan:
    """The plan with what its ``accel`` means written into its directives."""
    pairs = zip(plan.segments, family.accelerator.expand(plan).segments, strict=True)
    segments = [replace(one, directives=ran.directives, accel="none") for one, ran in pairs]
    return replace(plan, segments=tuple(segments))


class AccelConfigs:
    """Builds the plans of one member, guided, on the device's side; masks come from its folder."""

    def __init__(self, family: LoadedFamily, member: str, ablations: Path = Path()) -> None:
        self.family = family
        self.member = member
        self.graph = family.blocks(member)
        self._ablations = ablations

    def plain(self, sampler: SamplerName = "ddim", steps: int = STEPS) -> OpenPlan:
        guidance = self.family.spec.default_guidance
        return plan_in(self.family.name, sampler, guidance, (self.member, "device", 0, steps))

    def reference(self) -> Accelerated:
        return Accelerated("plain", "reference", self.plain())

    def claimed(self) -> Iterator[Accelerated]:
        for accel in ACCELERATED:
            plan = written_out(self.family, accelerated(self.plain(), accel))
            name = {"propagate": "propagate-parallel"}.get(accel, accel)
            yield Accelerated(name, "claimed", plan)
        yield self._propagated("propagate-serial", "claimed", parallel=False)

    def both(self) -> Iterator[Accelerated]:
        """Accelerations of fewer steps."""
        for accel in ACCELERATED:
            plan = written_out(self.family, accelerated(self.plain(steps=FEW_STEPS), accel))
            yield Accelerated(f"{accel}-{FEW_STEPS}", "both", plan)

    def variants(self) -> Iterator[Accelerated]:
        told = self.propagation
        other = 0.0 if told.prior_noise else PRIOR_NOISE
        word = "with" if other else "without"
        for mode, parallel in (("parallel", True), ("serial", False)):
            name = f"propagate-{mode}-{word}-injection"
            yield self._propagated(name, "variant", parallel=parallel, prior_noise=other)

    def controls(self) -> Iterator[Accelerated]:
        for name, keys in BAD_KEYS.items():
            yield self._propagated(f"keys-{name}", "control", keys=keys)
        decoder = self.graph.all & ~self.graph.encoder & ~self._last
        yield self._propagated("decoder-propagation", "control", parallel=False, reused=decoder)
        for interval, layers in DEEPCACHE:
            name = f"deepcache-{interval}-depth-{layers}"
            yield self._with(name, "baseline", self.deepcache(interval, layers))
        for interval in FORA:
            run = self._every(interval, self._shallow)
            yield self._mask(f"fora-{interval}", "baseline", run)

    def deepcache(
        self, interval: int, layers: int, steps: int = STEPS
    ) -> tuple[StepDirective, ...]:
        """Every so many steps in full, in between the decoder's last layers alone."""
        run = self.graph.all & ~self._deep(layers)
        return _directives(self._every(interval, run, steps))

    def fewer(self) -> Iterator[Accelerated]:
        for sampler, counts in FEWER.items():
            for steps in counts:
                name = f"{sampler}-{steps}"
                yield Accelerated(name, "fewer steps", self.plain(sampler, steps))

    def ablated(self) -> Iterator[Accelerated]:
        """The shipped mask, unrectified too, and masks trained otherwise, where they are there."""
        shipped = self.family.masks_folder(self.member) / f"ddim-{STEPS}.json"
        run = load_mask(shipped).run
        yield self._mask("mask", "ablation", run)
        yield replace(self._mask("mask-no-rectification", "ablation", run), rectify=False)
        for name in ABLATIONS:
            path = self._ablations / f"{self.member}-{name}.json"
            if path.exists():
                yield self._mask(f"mask-{name}", "ablation", load_mask(path).run)

    @property
    def propagation(self) -> Propagation:
        return self.family.accelerator.of(self.member).propagation

    @property
    def _last(self) -> Blocks:
        return 1 << (len(self.graph) - 1)

    @property
    def _shallow(self) -> Blocks:
        """What FORA never caches: everything but residual blocks and attentions."""
        cached = self.graph.bits(
            name for name in self.graph.names if ".resnet." in name or ".attention." in name
        )
        return self.graph.all & ~cached & ~self.graph.constant

    def _deep(self, layers: int) -> Blocks:
        """What DeepCache reuses: all that the decoder's last layers do not need from the encoder.

        A layer is a residual block with its attention.
        """
        graph = self.graph
        names = [name if name.startswith("up.") else "" for name in graph.names]
        first = [index for index, name in enumerate(names) if ".resnet." in name][-layers]
        needed, waiting = 0, []
        for index in range(first, len(graph)):
            needed |= 1 << index
            waiting += [i for i in graph.blocks[index].inputs if graph.encoder >> i & 1]
        while waiting:
            index = waiting.pop()
            needed |= 1 << index
            waiting += [i for i in graph.blocks[index].inputs if not needed >> i & 1]
        for index, block in enumerate(graph.blocks):
            if not block.learnable:
                needed |= 1 << index
        return graph.all & ~needed

    def _every(self, interval: int, between: Blocks, steps: int = STEPS) -> list[Blocks]:
        whole = self.graph.all & ~self.graph.constant
        return [between if step % interval else whole for step in range(steps)]

    def _mask(self, name: str, kind: str, run: Sequence[Blocks]) -> Accelerated:
        return self._with(name, kind, _directives(run))

    def _propagated(
        self,
        name: str,
        kind: str,
        *,
        keys: Sequence[int] | None = None,
        parallel: bool = True,
        prior_noise: float | None = None,
        reused: Blocks | None = None,
    ) -> Accelerated:
        told = self.propagation
        columns = propagated(
            self.graph,
            STEPS,
            told.keys_for(STEPS) if keys is None else keys,
            parallel=parallel,
            prior_noise=told.prior_noise if prior_noise is None else prior_noise,
            reused=reused,
        )
        return self._with(name, kind, columns)

    def _with(self, name: str, kind: str, columns: tuple[StepDirective, ...]) -> Accelerated:
        plan = self.plain()
        segment = replace(plan.segments[0], directives=columns)
        return Accelerated(name, kind, replace(plan, segments=(segment,)))


def _directives(run: Sequence[Blocks]) -> tuple[StepDirective, ...]:
    return tuple(StepDirective(blocks=bits) for bits in run)
