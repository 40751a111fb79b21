"""``make bench-serve``: the edge under load, beside what others serve diffusion models with.

    python -m tests.bench.serving [--quick] [--budget 0.5:2] [--out FOLDER]

One trace (arrivals, prompts, 20 to 50 steps, two sizes) for all systems, each in a process of its
own, with 16 rows in a call, one thread and no acceleration:

- *diffusers*: its pipeline, one request after the other;
- *dynamic*: batches of equal steps and size that leave together, 0.5 s after their first request;
- *batcher*: LitServe around the pipeline, tuned;
- *direct*: batching step by step with whole decodes beside it, as InstGenIE does, tuned;
- *baton*: the product's engine as shipped; and the paper's ablation of it.

Stages: ``alone`` (seconds of each kind of request), ``tune``, ``closed`` loops (throughput), the
``relay`` as capacity, ``open`` loops (latency from the scheduled arrival; refused and late requests
are misses), and the guidance that they skipped, drawn again. What was measured is kept in
``build/bench-cache``, so a broken run goes on where it was. Writes ``serve.json``, its plots and
``serve-trace.json``.

``ratios`` are of closed loops, medians of those within a round with a 95% interval:

- ``throughput_vs_diffusers`` (serial) by member, and ``throughput_share``: of what a bare loop
  gains at batch 8 over batch 1; ``throughput_vs_batcher``, ``throughput_vs_direct`` and the upper
  end of its interval, ``throughput_vs_direct_high``: all of the engine without skipping;
- ``skip_saving_share``: of the rows that skipping saves, what comes back as time;
- ``accel``: the engine with an acceleration, over the engine without;
- ``straw``: by baseline, its throughput over that of its calls alone;
- ``relay_capacity_share``: half of the requests handed off, of the accounted ideal;
- ``planned_share``: of the rounds in the open loops; ``plan_seconds``: of the longest plan;
- ``simulated``: where contention between UNet and decoder reaches what the paper claims
  (`tests.bench.contention`); no figure of it was measured;
- ``goodput_3x``, ``fair_share``: as ``tests.bench.overload`` has measured them.

``scores``: of the guidance that the engine ran under a normal load and in the burst, drawn again on
other prompts and paired with pictures in full; of the relay's mix.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from baton.common.quiet import quiet_libraries
from tests.bench import report
from tests.bench.contention import SWEEP, contention, setting_rows
from tests.bench.planner import planner_rows
from tests.bench.serving import figures, plots, relaying
from tests.bench.serving.closed import Loop
from tests.bench.serving.keep import CACHE, Kept
from tests.bench.serving.scheduling import ABLATIONS, FULL_SKIP, NO_SKIP
from tests.bench.serving.stages import BURST, QUICK, Points, Size, Stages
from tests.bench.serving.systems import Spec
from tests.bench.serving.trace import save
from tests.bench.timing import one_thread

_NORMAL = "0.9"
_PLAIN = f"baton {NO_SKIP}"


class Bench:
    """A run, stage by stage; what they came to gathers here."""

    def __init__(self, stages: Stages) -> None:
        self.stages = stages
        self.rows: list[dict[str, Any]] = []
        self.ratios: dict[str, Any] = {}
        self.scores: dict[str, Any] = {}
        self.specs: list[Spec] = []
        self.paces: dict[str, float] = {}
        self.lane: dict[str, bool] = {}

    def tune(self) -> None:
        batcher, direct, rows = self.stages.tune()
        serial = self.stages.spec("diffusers", "diffusers")
        dynamic = self.stages.spec("dynamic", "dynamic")
        # As many threads as it has: its decodes may have one of their own.
        self.lane = {"decode_lane": True} if dict(direct.settings)["beside"] else {}
        self.specs = [serial, dynamic, batcher, direct, self.stages.baton(**self.lane)]
        self.rows += rows

    def closed(self) -> None:
        stages = self.stages
        lean = [stages.baton(name, **self.lane) for name in (NO_SKIP, FULL_SKIP)]
        loops = stages.closed([*self.specs, *lean])
        self.paces = {
            name: figures.closed_rows({name: of}, "")[0]["pace_per_s"] for name, of in loops.items()
        }
        straws = figures.straws(loops)
        direct = figures.against(loops, _PLAIN, "direct")
        self.ratios |= {
            "throughput_vs_batcher": figures.told(figures.against(loops, _PLAIN, "batcher")),
            "throughput_vs_direct": figures.told(direct),
            "throughput_vs_direct_high": direct.high,
            "skip_saving_share": _saving(loops),
            "straw": straws,
            "of_straw": figures.of_straw(straws),
        }
        self.rows += figures.closed_rows(loops, "closed")

    def gains(self) -> None:
        """Over diffusers serial, at the family's default size, and with accelerations."""
        stages, vs, share = self.stages, dict[str, Any](), dict[str, Any]()
        for member in ("small", "large"):
            serial = stages.spec("diffusers", "diffusers", member)
            loops = stages.closed([serial, stages.baton(NO_SKIP, member)], "plain")
            bare = stages.bare(member)
            vs[member] = figures.told(figures.against(loops, _PLAIN, "diffusers"))
            share[member] = figures.told(figures.share_of_bare(loops, _PLAIN, "diffusers", bare))
            self.rows += figures.closed_rows(loops, f"closed, {member}, default size")
        self.ratios |= {"throughput_vs_diffusers": vs, "throughput_share": share}
        self._accels()

    def _accels(self) -> None:
        stages = self.stages
        plain = stages.baton(NO_SKIP, "large")
        fast = [
            replace(stages.baton(NO_SKIP, "large", accel=accel), name=f"{_PLAIN} {accel}")
            for accel in stages.size.accels
        ]
        loops = stages.closed([plain, *fast], "accelerated")
        self.ratios["accel"] = {
            spec.options["accel"]: figures.told(figures.against(loops, spec.name, plain.name))
            for spec in fast
        }
        self.rows += figures.closed_rows(loops, "closed, large, default size, accelerated")

    def relay(self) -> None:
        stages = self.stages
        whole = stages.baton(NO_SKIP, "large")
        relayed = replace(stages.baton(NO_SKIP, "large", relay=relaying.ARM), name="relayed")
        loops = stages.closed([whole, relayed], "relayed")
        ratio = figures.against(loops, "relayed", _PLAIN)
        ideal = stages.relay_ideal()
        self.ratios |= {
            "relay_capacity": figures.told(ratio) | {"ideal": ideal},
            "relay_capacity_share": ratio.median / ideal,
        }
        self.rows += figures.closed_rows(loops, "closed, large, half handed off at 40%")
        self.scores |= {f"relay {name}": of for name, of in stages.relay_scores().items()}

    def simulate(self) -> None:
        """Contention, which this machine has little of; and what planning itself costs."""
        quick = self.stages.size == QUICK
        rows, ratios = self.stages.kept(("contention", quick), lambda: _contention(quick))
        planned = self.stages.kept("planner", planner_rows)
        self.rows += [{"load": "simulated", **row} for row in rows] + planned
        self.ratios["simulated"] = ratios
        self.ratios["plan_seconds"] = max(row["plan_seconds_most"] for row in planned)

    def open(self) -> Points:
        stages = self.stages
        ablations = [stages.baton(name, **self.lane) for name in ABLATIONS]
        points = stages.open([*self.specs, *ablations], self.paces)
        mine = [of for (name, _), of in points.slices.items() if name == "baton"]
        planned = [part for of in mine for part in of]
        self.ratios["planned_share"] = figures.planned_share(planned)
        self.rows += figures.point_rows(points, stages.alone)
        self.scores |= stages.replays(points, _NORMAL)
        return points


def _contention(quick: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return (setting_rows(SWEEP[-1], 100, 50), {}) if quick else contention()


def _saving(loops: dict[str, list[Loop]]) -> dict[str, Any] | None:
    """None where nothing may be skipped."""
    lean = f"baton {FULL_SKIP}"
    if any(some.rows >= whole.rows for some, whole in zip(loops[lean], loops[_PLAIN], strict=True)):
        return None
    return figures.told(figures.skip_saving(loops, lean, _PLAIN))


@contextmanager
def _stage(name: str) -> Any:
    begun = time.monotonic()
    print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
    yield
    print(f"{time.strftime('%H:%M:%S')} {name}: {time.monotonic() - begun:.0f} s", flush=True)


def run(stages: Stages, folder: Path) -> Path:
    """Measure everything and write ``serve.json`` and its plots."""
    bench = Bench(stages)
    with _stage("alone"):
        stages.time_alone()
    with _stage("tune"):
        bench.tune()
    with _stage("simulate"):
        bench.simulate()
    with stages.apart():
        for stage in (bench.gains, bench.relay):
            with _stage(stage.__name__):
                stage()
            _partial(bench, folder)
    with stages.fleet:
        with _stage("closed"):
            bench.closed()
        _partial(bench, folder)
        with _stage("open"):
            points = bench.open()
    return _write(bench, points, folder)


def _partial(bench: Bench, folder: Path) -> None:
    """What is known so far, for a run that may be cut short."""
    bench.ratios |= figures.overload_ratios()
    report.write("serve", bench.rows, bench.ratios, bench.scores, folder)


def _write(bench: Bench, points: Points, folder: Path) -> Path:
    _partial(bench, folder)
    plots.against_load(bench.rows, folder / "serve.png")
    bursts = {name: of[0] for (name, load), of in points.slices.items() if load == BURST}
    shown = {name: bursts[name] for name in ("baton", "direct") if name in bursts}
    plots.through_burst(shown, folder / "serve-burst.png")
    traces = [bench.stages.trace(seed, 2000) for seed in bench.stages.size.seeds]
    save(traces, folder / "serve-trace.json")
    return folder / "serve.json"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The edge under load, beside other systems.")
    parser.add_argument("--family", default="scenes", help="a name or a folder")
    parser.add_argument("--budget", default="", help="of guidance, such as 0.5:2; else its own")
    parser.add_argument("--quick", action="store_true", help="five minutes: it proves nothing")
    parser.add_argument("--seconds", type=float, default=None, help="of a point and seed")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    parser.add_argument("--anew", action="store_true", help="use nothing that was kept")
    asked = parser.parse_args(arguments)
    quiet_libraries()
    one_thread()
    size = QUICK if asked.quick else Size()
    if asked.seconds is not None:
        size = replace(size, seconds=asked.seconds)
    quick = report.ROOT / "build/bench-quick"
    folder = asked.out or (quick if asked.quick else report.FOLDER)
    kept = Kept(None if asked.anew else CACHE)
    path = run(Stages(size, kept, asked.family, asked.budget), folder)
    print(json.dumps(json.loads(path.read_text())["ratios"], indent=1))
    print(path)


if __name__ == "__main__":
    main()
