"""Accelerations side by side, against diffusers' own pipeline on the same weights.

For `large` and `small`, 50 DDIM steps with guidance: encoder propagation (Faster Diffusion), serial
and parallel, with and without prior noise; learned block masks; both; DeepCache and FORA as masks;
decoder propagation and the paper's worse key steps as controls; and fewer steps with every sampler,
which is what a user has without any of it. Then the relay with both sides accelerated.

1. *selection*: every configuration on ``count`` prompts, timed at batch 1 and 8 in one interleaved
   run: each round draws every configuration once, in a new order and with other prompts;
2. *headline*: what is claimed, and beside it the runs of fewer steps that were best in its time, on
   ``headline`` other prompts.

Fields of a row: ``macs``, of one picture's denoising, counted; ``seconds`` and ``seconds_8``, of
one picture at batch 1 and of eight at once (medians over rounds; text encoder and VAE included);
``speedup`` and ``speedup_8``: median over rounds of the pipeline's seconds to these; the scores
with n and 95% intervals; ``*_minus_reference``: the paired difference to the plain run.

``ratios`` are those of `large`, from the headline's timing: ``propagate_serial``,
``propagate_parallel``, ``masks``, ``full``, each the speedup at batch 1 over diffusers' pipeline,
and ``relay_full``; ``propagate_serial_of_ceiling`` is the measured share of
``50 / (k + (50 - k) d)``, for ``k`` key steps and the decoder's share ``d`` of a step's time, timed
in the same run. ``at_equal_time``, by member: each acceleration, and the best run of fewer steps
that took no longer, both on the headline's prompts.

Goals and rows go to ``bench/accel.md`` as tables. Run ``python -m tests.bench.accel``; drawn scores
are kept in ``build/bench-cache``.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.progress import track

from baton.common.arm import Arm
from baton.common.diffusion.blocks import BlockGraph, BlockSchedule, ModelInputs
from baton.common.diffusion.conditioning import stacked
from baton.common.diffusion.executor import denoise_step
from baton.common.diffusion.rows import Row, RowBatch
from baton.common.expansion import plan_of
from baton.common.families.architectures.sd1 import Member
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.local import begin
from baton.common.families.scenes.evaluate import Case, seeded_cases, world_drawn_by
from baton.common.files import saving
from baton.common.limits import ACCELS, BOTH
from baton.common.plan import OpenPlan
from baton.common.quiet import quiet_libraries
from tests.bench import accel_plots, accel_tables, report
from tests.bench.accel_configs import STEPS, AccelConfigs, Accelerated, written_out
from tests.bench.accel_results import (
    Result,
    alternatives,
    at_equal_time,
    ceiling,
    loss_of,
    ratios_of,
    score_of,
)
from tests.bench.curves import Drawing, Studio
from tests.bench.loopback import loopback
from tests.bench.ratios import paired_ratio
from tests.bench.timing import one_thread, task_of
from tests.support.tasks import accelerated

CACHE = report.ROOT / "build" / "bench-cache"
ABLATIONS = report.ROOT / "build" / "ablations"
PIPELINE = "diffusers"
_HEADLINE_SEED_OFFSET = 101
_BATCHES = (1, 8)


@dataclass(frozen=True)
class Size:
    """How much is drawn: prompts per set, rounds of timing."""

    count: int = 300
    headline: int = 1000
    rounds: int = 5
    headline_rounds: int = 15


QUICK = Size(2, 3, 1, 2)


class Unrectified(BlockGraph):
    """Runs every block that a mask names, also those whose output nobody reads."""

    def schedule(self, mask: Sequence[int]) -> BlockSchedule:
        run = (self.all, *mask[1:])
        held = [self.all & ~following for following in run[1:]]
        return BlockSchedule(run, (*held, 0))


class Benchmark:
    """One member's comparison."""

    def __init__(self, family: LoadedFamily, member: str, size: Size, seed: int) -> None:
        self.family = family
        self.member = member
        self.size = size
        self.seed = seed
        self.configs = AccelConfigs(family, member, ABLATIONS)
        self.studio = Studio(family, {}, CACHE)
        self.pipeline = family.pipeline(member)
        self.pipeline.set_progress_bar_config(disable=True)
        self.profile = family.profile(member)

    def selection(self) -> list[Result]:
        configs = [
            self.configs.reference(),
            *self.configs.claimed(),
            *self.configs.variants(),
            *self.configs.controls(),
            *self.configs.fewer(),
            *self.configs.both(),
        ]
        return self._measure(configs, self.seed, self.size.count, self.size.rounds, "selection")[0]

    def ablations(self) -> list[Result]:
        configs = [self.configs.reference(), *self.configs.ablated()]
        return self._measure(configs, self.seed, self.size.count, self.size.rounds, "ablation")[0]

    def headline(self, beside: Collection[str]) -> tuple[list[Result], dict[str, Result]]:
        """What is claimed, and ``beside`` it these runs of fewer steps; all of it at equal time."""
        fewer = [config for config in self.configs.fewer() if config.name in beside]
        accelerated = [*self.configs.claimed(), *self.configs.both()]
        configs = [self.configs.reference(), *accelerated, *fewer]
        seed = self.seed + _HEADLINE_SEED_OFFSET
        rounds = self.size.headline_rounds
        rows, drawings = self._measure(configs, seed, self.size.headline, rounds, "headline")
        return rows, at_equal_time(rows, drawings)

    def _measure(
        self, configs: Sequence[Accelerated], seed: int, count: int, rounds: int, title: str
    ) -> tuple[list[Result], dict[str, Drawing]]:
        cases = seeded_cases(world_drawn_by(self.family), count, seed)
        drawings = self.studio.draw([c.drawn for c in configs], cases, f"{self.member}, {title}")
        seconds = {batch: self._time(configs, cases, batch, rounds) for batch in _BATCHES}
        reference = drawings[configs[0].drawn]
        rows = [self._row(config, drawings[config.drawn], reference, seconds) for config in configs]
        pipeline = rows[0] | {"name": PIPELINE, "kind": "reference"}
        pipeline |= _times(PIPELINE, seconds)
        named = {config.name: drawings[config.drawn] for config in configs}
        about = {"member": self.member, "prompts": title}
        return [about | row for row in (pipeline, *rows)], named

    def _row(
        self,
        config: Accelerated,
        drawing: Drawing,
        reference: Drawing,
        seconds: dict[int, dict[str, list[float]]],
    ) -> Result:
        row: Result = {
            "name": config.name,
            "kind": config.kind,
            "steps": config.plan.steps,
            "sampler": config.sampler,
            "macs": self._macs(config),
        }
        row |= _times(config.name, seconds)
        return row | drawing.score().as_dict() | loss_of(drawing, reference).as_dict()

    def _macs(self, config: Accelerated) -> int:
        """Of one picture's denoising: every step for two rows."""
        graph, directives = self._graph(config), config.plan.segments[0].directives
        mask = [graph.all if d.blocks is None else d.blocks for d in directives]
        if all(directive.blocks is None for directive in directives):
            return 2 * len(mask) * self.profile.macs_of(graph.all)
        return 2 * sum(self.profile.macs_of(blocks) for blocks in graph.schedule(mask).run)

    def _graph(self, config: Accelerated) -> BlockGraph:
        graph = self.configs.graph
        return graph if config.rectify else Unrectified(graph.blocks)

    def _time(
        self, configs: Sequence[Accelerated], cases: Sequence[Case], batch: int, rounds: int
    ) -> dict[str, list[float]]:
        """Seconds per configuration and round."""
        draws: dict[str, Callable[[Sequence[Case]], None]] = {PIPELINE: self._by_pipeline}
        for config in configs:
            draws[config.name] = self._drawer(config)
        rng = np.random.default_rng(batch)
        seconds: dict[str, list[float]] = {name: [] for name in draws}
        for draw in draws.values():
            draw(cases[:1])
        title = f"{self.member}, batch {batch}"
        for number in track(range(rounds), description=title, transient=True):
            chosen = [cases[(number * batch + i) % len(cases)] for i in range(batch)]
            for name in rng.permutation(list(draws)):
                begun = time.perf_counter()
                draws[str(name)](chosen)
                seconds[str(name)].append(time.perf_counter() - begun)
        return seconds

    def _by_pipeline(self, cases: Sequence[Case]) -> None:
        side = self.family.spec.sizes.default
        self.pipeline(
            [case.prompt for case in cases],
            height=side,
            width=side,
            num_inference_steps=STEPS,
            guidance_scale=self.family.spec.default_guidance,
            generator=[torch.Generator().manual_seed(case.seed) for case in cases],
            output_type="np",
        )

    def _drawer(self, config: Accelerated) -> Callable[[Sequence[Case]], None]:
        denoiser = Member(self.family.models.unets[self.member])
        denoiser.graph = self._graph(config)

        def draw(cases: Sequence[Case]) -> None:
            runs = [begin(self.family, task_of(self.family, config.plan, case)) for case in cases]
            while runs[0].step < config.plan.steps:
                denoise_step(runs, denoiser)
            for run in runs:
                self.family.decode(run.x)

        return draw

    def decoder_share(self, repeats: int = 30) -> float:
        """The decoder's share of a guided step's time, interleaved (the ``d`` of the ceiling)."""
        graph, inputs = self.configs.graph, _inputs(self.family)
        whole = RowBatch(graph, inputs, [Row(graph.all)] * 2, graph.all)
        cache = {i: (whole.take(i, (0, 1)), 0) for i in range(len(graph))}
        other = {i: (whole.take(i, (0, 1)), 1) for i in range(len(graph))}
        bits = graph.all & ~graph.encoder
        taken: dict[str, list[float]] = {"whole": [], "decoder": []}
        for _ in range(repeats):
            for name, rows in (
                ("whole", [Row(graph.all), Row(graph.all)]),
                ("decoder", [Row(bits, cache), Row(bits, other)]),
            ):
                begun = time.perf_counter()
                with torch.inference_mode():
                    RowBatch(graph, inputs, rows)
                taken[name].append(time.perf_counter() - begun)
        return median(d / w for d, w in zip(taken["decoder"], taken["whole"], strict=True))


async def relay_seconds(
    family: LoadedFamily, plans: dict[str, OpenPlan], cases: Sequence[Case], pipeline: Benchmark
) -> dict[str, list[float]]:
    """The pipeline, and relays over a gRPC loopback, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in (PIPELINE, *plans)}
    async with loopback(family) as device:
        for number, case in enumerate(track(cases, description="relays", transient=True)):
            begun = time.perf_counter()
            pipeline._by_pipeline([case])
            seconds[PIPELINE].append(time.perf_counter() - begun)
            for name, plan in plans.items():
                timing = await device.draw(task_of(family, plan, case), f"{name}:{number}")
                seconds[name].append(timing.total)
    return seconds


def relay_rows(bench: Benchmark, arm: Arm, size: Size) -> list[Result]:
    """The relay plain and with each acceleration on both sides, against `large` alone."""
    family = bench.family
    guidance = family.spec.default_guidance
    plain = plan_of(arm, family.name, "ddim", STEPS, guidance)
    plans: dict[str, OpenPlan] = {mode: accelerated(plain, mode) for mode in ACCELS}
    cases = seeded_cases(world_drawn_by(family), size.headline, bench.seed + _HEADLINE_SEED_OFFSET)
    expanded = {mode: written_out(family, plan) for mode, plan in plans.items()}
    alone = bench.configs.plain()
    drawings = bench.studio.draw([alone, *expanded.values()], cases, "relays")
    timed = cases[: size.headline_rounds]
    seconds = asyncio.run(relay_seconds(family, plans, timed, bench))
    rows = []
    for mode in ACCELS:
        drawing = drawings[expanded[mode]]
        ratio = paired_ratio(seconds[PIPELINE], seconds[mode])
        row = {"name": f"{arm}, {mode}", "kind": "relay", "accel": mode, "prompts": "headline"}
        row |= {"seconds": median(seconds[mode]), "speedup": ratio.median}
        row |= drawing.score().as_dict() | loss_of(drawing, drawings[alone]).as_dict()
        rows.append(row)
    return rows


def _times(name: str, seconds: dict[int, dict[str, list[float]]]) -> Result:
    told: Result = {}
    for batch, of in seconds.items():
        suffix = "" if batch == 1 else f"_{batch}"
        told[f"seconds{suffix}"] = median(of[name])
        told[f"speedup{suffix}"] = paired_ratio(of[PIPELINE], of[name]).median
    return told


def _inputs(family: LoadedFamily) -> ModelInputs:
    shape = family.latent_shape(family.spec.sizes.default)
    prompt = family.encode_text("a red cat")
    conditioning = stacked([prompt.row(branch) for branch in BOTH])
    return ModelInputs(torch.zeros(2, *shape), torch.full((2,), 500), conditioning)


def run(size: Size, seed: int, arm: Arm, out: Path) -> Path:
    family = load_family("scenes")
    rows: list[Result] = []
    headline: list[Result] = []
    ratios: Result = {}
    relays: list[Result] = []
    equal_time: Result = {}
    for member in ("large", "small"):
        bench = Benchmark(family, member, size, seed)
        selected = bench.selection()
        rows += selected + bench.ablations()
        near = {point.name for point in alternatives(selected).values() if point is not None}
        claims, equal = bench.headline(near)
        headline += claims
        equal_time[member] = equal
        share = bench.decoder_share()
        ratios[f"{member}_decoder_share"] = share
        ratios[f"{member}_serial_ceiling"] = ceiling(bench.configs.propagation, share)
        if member == "large":
            relays = relay_rows(bench, arm, size)
    ratios |= ratios_of(headline, relays)
    over = ratios["propagate_serial"] / ratios["plain_over_diffusers"]
    ratios["propagate_serial_of_ceiling"] = over / ratios["large_serial_ceiling"]
    ratios["at_equal_time"] = equal_time
    names = {"propagate-serial": "propagate_serial", "propagate-parallel": "propagate_parallel"}
    scores = {
        names.get(row["name"], row["name"]): score_of(row)
        for row in headline
        if row["member"] == "large" and row["name"] != PIPELINE
    }
    scores |= {f"relay_{row['accel']}": score_of(row) for row in relays}
    accel_plots.score_against_seconds(rows, relays, out / "accel.png")
    page = accel_tables.markdown([*headline, *rows], relays, ratios)
    with saving(out / "accel.md") as file:
        file.write(page.encode())
    return report.write("accel", [*rows, *headline, *relays], ratios, scores, out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Accelerations against diffusers.")
    parser.add_argument("--count", type=int, default=Size.count, help="prompts of the selection")
    parser.add_argument("--headline-count", type=int, default=Size.headline, help="other prompts")
    parser.add_argument("--seed", type=int, default=0, help="of the selection's prompts")
    parser.add_argument(
        "--arm", default="edge/small@0.5>device/large", help="the accelerated relay"
    )
    parser.add_argument("--quick", action="store_true", help="a toy run: it proves nothing")
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the results")
    told = parser.parse_args()
    quiet_libraries()
    one_thread()
    size = QUICK if told.quick else Size(told.count, told.headline_count)
    print(run(size, told.seed, Arm.parse(told.arm), told.out))


if __name__ == "__main__":
    main()
