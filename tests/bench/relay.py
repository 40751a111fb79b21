"""The relay: score, time and the edge's bill of every way to share a picture's steps.

RISE (relay inference and online scheduling) has a large model on an edge run the first steps and
hand the latent to a smaller one of the same family on the device; T-Stitch relays the other way
round; a finisher is trained for the last steps. Here they stand beside each member alone, at every
number of steps, plain and by named grids; beside fewer guided steps, accelerations and DeepCache;
and beside a foreign member that must fail. Every row is an arm drawn through the product's own
expansion (`tests.bench.arms`); only the control is put past the product's refusal.

1. *selection*: every arm on ``count`` prompts. For each number of steps the best-spaced `large`
   and the relays that may be best (`tests.bench.choosing`) are
2. *refined*: drawn on ``refine`` prompts of the same set, and chosen between; with arms of many
   steps that are always told;
3. *headline*: what was chosen, on ``headline`` other prompts, with short arms that are always told;
4. *times*: in process, all arms, and more rounds of the headline's; then through the product:
   over loopback, over a shaped link, and with slower devices (`tests.bench.product`);
5. *beside*: another family, so that nothing holds for this one by construction.

Scores are drawn in batches of common prefixes (`tests.bench.curves`), which some pictures are
checked against that the nodes draw. What is drawn is kept in ``build/bench-cache``, so a broken run
goes on where it was. ``--scores-only`` may run on a busy machine, with a second one ``--backwards``
beside it; ``--times-only`` follows on an idle one.

``ratios`` are those of `tests.bench.figures`; rows are explained in `tests.bench.rows`.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from baton.common.families.loaded import load_family
from baton.common.quiet import quiet_libraries
from tests.bench import plots, report
from tests.bench.arms import FOREIGN, left_out
from tests.bench.beside import beside_rows
from tests.bench.curves import Studio
from tests.bench.figures import Figures, choose, in_process, through_product
from tests.bench.rows import Measured, rows_of
from tests.bench.stages import QUICK, Size, Stages
from tests.bench.table import short_table
from tests.bench.timing import one_thread
from tests.support.foreign import ForeignFamily, write_foreign

CACHE = report.ROOT / "build" / "bench-cache"
_HEADLINE_SEED = 202


@dataclass(frozen=True)
class Run:
    """Where and how a benchmark runs. scores: draws nothing but them; times: draws none."""

    family: str = "scenes"
    beside: str | None = None
    size: Size = field(default_factory=Size)
    seeds: tuple[int, int] = (101, _HEADLINE_SEED)
    folder: Path = report.FOLDER
    cache: Path = CACHE
    scores_only: bool = False
    backwards: bool = False
    times_only: bool = False


def run(asked: Run) -> Path | None:
    """Measure everything and write ``relay.json`` and the plots; None where only scores are."""
    family = load_family(asked.family)
    with tempfile.TemporaryDirectory() as place:
        foreign = ForeignFamily(write_foreign(family.spec.folder, Path(place) / FOREIGN))
        others = {FOREIGN: (foreign, "small")}
        studio = Studio(family, others, asked.cache, asked.times_only, asked.backwards)
        bench = Stages(family, studio, asked.size, asked.seeds)
        selection = bench.select()
        refined = bench.refine(selection)
        headline = bench.headline(refined)
    if asked.scores_only:
        return None
    size = asked.size
    selection = replace(selection, times=bench.time(list(selection.drawings), size.rounds))
    times = bench.time(list(headline.drawings), size.headline_rounds)
    headline, timed = replace(headline, times=times), replace(refined, times=times)
    candidates = bench.candidates(timed)
    chosen = choose(timed, headline, candidates)
    refined = replace(refined, times=selection.times)
    figures = in_process(refined, headline, chosen)
    figures |= {"candidates": candidates, "nodes_draw_alike": bench.check(headline)}
    billed, drawn = bench.bill(chosen)
    figures |= through_product(billed, chosen)
    figures |= _told_of(asked, bench)
    rows = [*rows_of(headline), *rows_of(refined), *rows_of(selection)]
    rows += [row for one in billed.values() for row in one.rows(drawn)]
    rows += beside_rows(asked.beside, size.count, size.rounds)
    return _write(asked, (selection, headline), rows, figures)


def _told_of(asked: Run, bench: Stages) -> Figures:
    """What stands in no row. No prompt and no picture is left out, but arms may be."""
    return {
        "seeds": {"selection": asked.seeds[0], "headline": asked.seeds[1]},
        "default": bench.default.name,
        "arms_left_out": left_out(bench.family),
    }


def _write(
    asked: Run, measured: tuple[Measured, Measured], rows: list[dict[str, Any]], figures: Figures
) -> Path:
    selection, headline = measured
    scores = {name: one.score().as_dict() for name, one in headline.drawings.items()}
    path = report.write("relay", rows, figures, scores, asked.folder)
    plots.score_against_seconds(selection, "total", asked.folder / "relay.png")
    plots.score_against_seconds(selection, "edge", asked.folder / "relay-edge.png")
    plots.intensity_against_step(selection, asked.folder / "relay-intensity.png")
    print(short_table(rows, figures))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Score, time and bill of relays.")
    parser.add_argument("--family", default="scenes", help="a name or a folder")
    parser.add_argument("--beside", default=None, help="folder of another family; else a tiny one")
    parser.add_argument("--count", type=int, default=Size.count, help="prompts of the selection")
    parser.add_argument("--refine-count", type=int, default=Size.refine, help="for its best")
    parser.add_argument("--headline-count", type=int, default=Size.headline, help="other prompts")
    parser.add_argument("--seed", type=int, default=101, help="of the selection's prompts")
    parser.add_argument("--headline-seed", type=int, default=_HEADLINE_SEED, help="of the others")
    parser.add_argument("--quick", action="store_true", help="a toy run: it proves nothing")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--scores-only", action="store_true", help="draw, and time nothing")
    only.add_argument("--times-only", action="store_true", help="time what was drawn before")
    parser.add_argument(
        "--backwards", action="store_true", help="draw from the last prompts on, beside a first run"
    )
    asked = parser.parse_args()
    quiet_libraries()
    one_thread()
    size = replace(
        Size(), count=asked.count, refine=asked.refine_count, headline=asked.headline_count
    )
    print(
        run(
            Run(
                family=asked.family,
                beside=asked.beside,
                size=QUICK if asked.quick else size,
                seeds=(asked.seed, asked.headline_seed),
                folder=asked.out
                or (report.ROOT / "build/bench-quick" if asked.quick else report.FOLDER),
                scores_only=asked.scores_only,
                backwards=asked.backwards,
                times_only=asked.times_only,
            )
        )
        or "drawn"
    )


if __name__ == "__main__":
    main()
