"""What the engine costs beside the models that it calls, in CPU seconds of the model thread.

    python -m tests.bench.engine [--repeats 5] [--steps 20 --steps 50]

Eight guided requests of the built-in family run together, to one step before their end, so that no
decoding counts. What is compared runs one after the other within a repeat, on one thread, each time
in another order; ratios are medians of those within a repeat. Of a row, and of ``ratios``:

- ``cpu_seconds``: from the first request's place to the last handoff, encoding included; ``rows``:
  the engine's limit; ``calls``: of the model; ``gain``: over no acceleration at as many steps.
- ``kept``: the gain at shipped limits to the gain where all that can be decoded ahead is. Both draw
  the same but for the last bits, so no score stands beside them.
- ``rows_per_second``: bare, of calls of the denoiser on inputs made beforehand; else of the
  engine's rounds, from the end of the first one on. ``to_bare``: the one to the other.

Writes ``bench/engine.json``.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.progress import track

from baton.common.arm import Arm
from baton.common.diffusion.blocks import ModelInputs
from baton.common.diffusion.conditioning import stacked
from baton.common.expansion import plan_of
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.local import use_threads
from baton.common.latents import Codec
from baton.common.limits import BOTH, Accel
from baton.common.request import Task
from baton.edge_server.engine.engine import Engine
from baton.edge_server.engine.job import Event, Job, Progressed, Work
from baton.edge_server.engine.scheduler import Limits
from tests.bench import report
from tests.bench.ratios import PairedRatio, paired_ratio
from tests.bench.timing import one_thread
from tests.support.engines import is_last
from tests.support.faults import Calls, FaultyFamily

REQUESTS = 8
SHIPPED, UNCAPPED = Limits().rows, 512
#: What is promised of each ratio.
KEPT, TO_BARE = 0.90, 0.95
_ACCELS: tuple[Accel, ...] = ("propagate", "masks", "full")
_PROMPT = "two blue houses on a night background"
_BARE_STEPS = 20


@dataclass(frozen=True)
class Drawn:
    """How one run went. rows_per_second: of all rounds but the first."""

    cpu_seconds: float
    rows_per_second: float
    calls: int


class _Meter:
    """Hears all jobs of a run on the model thread, and notes what it has computed by then."""

    def __init__(self, jobs: int) -> None:
        self._left = jobs
        self._ended = threading.Event()
        self._seconds: list[float] = []
        self._first_round = 0.0
        self._error: Exception | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progressed):  # mostly; asking for the time has its price, too
            self._first_round = self._first_round or time.thread_time()
            return
        self._seconds.append(time.thread_time())
        if isinstance(event, Exception):
            self._error = event
        if is_last(event):
            self._left -= 1
            if not self._left:
                self._ended.set()

    def drawn(self, calls: Calls) -> Drawn:
        """Waits for the end. Raises what a request failed with."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        begun, ended = self._seconds[0], self._seconds[-1]
        rows = [count for kind, count in calls.made if kind == "denoise"]
        per_second = sum(rows[1:]) / (ended - self._first_round)
        return Drawn(ended - begun, per_second, len(rows))


def draw(family: LoadedFamily, member: str, steps: int, accel: Accel, rows: int) -> Drawn:
    """All requests together, up to their last step, through an engine with this limit of rows."""
    arm = Arm.parse(f"edge/{member}@{1 - 1 / steps:.4f}>device/small")
    plan = plan_of(arm, family.name, "ddim", steps, family.spec.default_guidance)
    allowed = replace(plan, segments=tuple(replace(part, accel=accel) for part in plan.segments))
    expanded = family.accelerator.expand(allowed)
    watched, meter = FaultyFamily(family), _Meter(REQUESTS)
    engine = Engine(watched, "edge-bench", Limits(rows=rows), threads=1)
    for seed in range(REQUESTS):
        task = Task(_PROMPT, "", allowed, seed, family.spec.default_size)
        engine.submit(Job(Work(str(seed), task, expanded, Codec.FP16, 0), meter))
    engine.start()
    try:
        return meter.drawn(watched.calls)
    finally:
        engine.stop()


def call_bare(family: LoadedFamily, member: str, calls: int) -> Drawn:
    """So many calls of the denoiser over as many rows as a round of the engine has.

    On a fresh thread, as the engine's is: memory comes at another price on a process's first one.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_call_bare, family, member, calls).result()


@torch.inference_mode()
def _call_bare(family: LoadedFamily, member: str, calls: int) -> Drawn:
    use_threads(1)
    denoiser, rows = family.denoiser(member), REQUESTS * len(BOTH)
    text = family.encode_text(_PROMPT, member=member)
    sample = torch.randn((rows, *family.latent_shape(family.spec.default_size)))
    conditioning = stacked([text.row(branch) for branch in BOTH] * REQUESTS)
    inputs = ModelInputs(sample, torch.linspace(900.0, 1.0, rows), conditioning)
    begun = time.thread_time()
    for _ in range(calls):
        denoiser(inputs)
    seconds = time.thread_time() - begun
    return Drawn(seconds, calls * rows / seconds, calls)


_Way = Callable[[], Drawn]


def interleaved(ways: dict[str, _Way], repeats: int, title: str) -> dict[str, list[Drawn]]:
    """Each way once a repeat, in a new order, after one that does not count."""
    rng, found = random.Random(0), {name: list[Drawn]() for name in ways}
    next(iter(ways.values()))()
    for _ in track(range(repeats), description=f"{title:<20}", transient=True):
        for name in rng.sample(list(ways), len(ways)):
            found[name].append(ways[name]())
    return found


def kept_gains(
    family: LoadedFamily, steps: int, repeats: int
) -> tuple[list[dict[str, Any]], dict[str, PairedRatio]]:
    """Rows, and by accel what of its gain is kept at shipped limits."""
    ways: dict[str, _Way] = {"none": lambda: draw(family, "large", steps, "none", SHIPPED)}
    for accel in _ACCELS:
        for rows in (SHIPPED, UNCAPPED):
            ways[f"{accel} {rows}"] = lambda accel=accel, rows=rows: draw(  # type: ignore[misc]
                family, "large", steps, accel, rows
            )
    found = interleaved(ways, repeats, f"large, {steps} steps")
    kept = {
        accel: _ratio(found[f"{accel} {UNCAPPED}"], found[f"{accel} {SHIPPED}"])
        for accel in _ACCELS
    }
    rows_told = [
        {
            "name": f"large, {steps} steps, {name}",
            "cpu_seconds": median(run.cpu_seconds for run in runs),
            "calls": runs[0].calls,
            "gain": _ratio(found["none"], runs).median,
        }
        for name, runs in found.items()
    ]
    return rows_told, kept


def to_bare(
    family: LoadedFamily, member: str, repeats: int
) -> tuple[list[dict[str, Any]], PairedRatio]:
    """Rows, and the engine's rows per second to those of a bare loop."""
    ways: dict[str, _Way] = {
        "engine": lambda: draw(family, member, _BARE_STEPS, "none", SHIPPED),
        "bare": lambda: call_bare(family, member, _BARE_STEPS - 2),
    }
    found = interleaved(ways, repeats, f"{member} beside bare calls")
    pace = {name: [run.rows_per_second for run in runs] for name, runs in found.items()}
    rows = [
        {"name": f"{member}, {name}", "rows_per_second": median(values)}
        for name, values in pace.items()
    ]
    return rows, paired_ratio(pace["engine"], pace["bare"])


def _ratio(one: list[Drawn], other: list[Drawn]) -> PairedRatio:
    """Of CPU seconds."""
    return paired_ratio([run.cpu_seconds for run in one], [run.cpu_seconds for run in other])


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Of each comparison.")] = 5,
    steps: Annotated[list[int] | None, typer.Option(help="Of a request.")] = None,
) -> None:
    """Measure and write bench/engine.json."""
    one_thread()
    family, rows = load_family(members=("large", "small")), list[dict[str, Any]]()
    kept, bare = dict[str, PairedRatio](), dict[str, PairedRatio]()
    for count in steps or (20, 50):
        told, of_accels = kept_gains(family, count, repeats)
        rows += told
        kept |= {f"{accel}, {count} steps": ratio for accel, ratio in of_accels.items()}
    for member, times in (("large", repeats), ("small", 4 * repeats)):
        told, bare[member] = to_bare(family, member, times)
        rows += told
    for title, least, found in (("kept", KEPT, kept), ("to bare", TO_BARE, bare)):
        for name, ratio in found.items():
            short = "" if ratio.median >= least else f"  below {least}"
            between = f"{ratio.low:.3f} to {ratio.high:.3f}"
            typer.echo(f"{title + ', ' + name:<28} {ratio.median:.3f} ({between}){short}")
    ratios = {"kept": _as_dict(kept), "to_bare": _as_dict(bare)}
    typer.echo(report.write("engine", rows, ratios, {}))


def _as_dict(ratios: dict[str, PairedRatio]) -> dict[str, Any]:
    return {name: asdict(ratio) for name, ratio in ratios.items()}


if __name__ == "__main__":
    typer.run(main)
