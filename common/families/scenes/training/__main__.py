"""``make train-scenes``: the whole family, on any machine, for as long as one has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from baton.common.cli import run
from baton.common.families.manifest import BUILT_IN, read_manifest
from baton.common.families.scenes.training.device import Machine, find_device
from baton.common.families.scenes.training.export import export_family
from baton.common.families.scenes.training.loop import Allowance
from baton.common.families.scenes.training.members import FINISHER
from baton.common.families.scenes.training.pack import read_pack
from baton.common.families.scenes.training.stages import STAGES, Recipe, Training, check_stages
from baton.common.families.scenes.worlds import DETAIL, world_of
from baton.common.quiet import quiet_libraries

_GUIDANCE = 3.0
_CALIBRATED = 150  # renders at most
_RUN_DIR = Path("runs/scenes")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def train(
    run_dir: Annotated[Path, typer.Option(help="Checkpoints and logs.")] = _RUN_DIR,
    minutes: Annotated[
        float, typer.Option(min=0.0, help="Of everything, over all runs in the folder.")
    ] = 1200.0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of each stage, instead of minutes.")
    ] = None,
    stage: Annotated[
        list[str] | None, typer.Option(help=f"Only these: {', '.join(STAGES)}.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the CPU; all of its cores by default.")
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="For the denoisers.")] = Recipe.scenes,
    pictures: Annotated[int, typer.Option(min=1, help="For the autoencoder.")] = Recipe.pictures,
    gate: Annotated[
        float, typer.Option(help="Share of reconstructions that must be recognised.")
    ] = Recipe.gate,
    pack: Annotated[
        Path | None, typer.Option(help="Folder for packed averages, rewritten every minute.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Packed averages to go on from, in an empty run folder.")
    ] = None,
) -> None:
    """Train what is not trained yet; each stage takes its share of the time and ends by itself."""
    try:
        stages = check_stages(stage or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    machine = _machine(device, threads)
    if start is not None and not any(run_dir.glob("*.safetensors")):
        read_pack(start, run_dir)
    training = Training(
        Recipe(
            run_dir,
            DETAIL,
            machine,
            minutes,
            steps=steps,
            scenes=scenes,
            pictures=pictures,
            gate=gate,
            guidance=_GUIDANCE,
            pack=pack,
        )
    )
    for name in stages:
        training.run(name)


@app.command()
def finisher(
    folder: Annotated[Path, typer.Option(help="Folder of the family.")] = BUILT_IN["scenes"],
    run_dir: Annotated[Path, typer.Option(help="Checkpoints and logs.")] = Path("runs/finisher"),
    minutes: Annotated[float, typer.Option(min=0.0, help="Of training.")] = 30.0,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of minutes.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the CPU; all of its cores by default.")
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="To learn from.")] = 60_000,
) -> None:
    """Train a finisher for a family that is there already, from the one that it has if any."""
    from baton.common.families.scenes.training.finishing import add_finisher, finish_family

    machine = _machine(device, threads)
    allowance = Allowance(steps, 60 * minutes)
    add_finisher(folder, finish_family(folder, run_dir, machine, allowance, scenes))
    typer.echo(f"wrote {folder / FINISHER}")


@app.command()
def export(
    run_dir: Annotated[Path, typer.Option(help="Checkpoints to read.")] = _RUN_DIR,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = BUILT_IN["scenes"],
    guidance: Annotated[float, typer.Option(help="Default guidance scale.")] = _GUIDANCE,
) -> None:
    """Write the newest averages as a family."""
    export_family(run_dir, out, DETAIL, guidance)
    typer.echo(f"wrote {out}")


@app.command()
def card(
    folder: Annotated[Path, typer.Option(help="Folder of the family.")] = BUILT_IN["scenes"],
    bench: Annotated[Path, typer.Option(help="Folder for scenes.json.")] = Path("bench"),
    count: Annotated[int, typer.Option(min=1, help="Prompts.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the prompts.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each picture.")] = 50,
    run_dir: Annotated[Path, typer.Option(help="Logs for the learning curves.")] = _RUN_DIR,
) -> None:
    """Measure a family and write its card."""
    from baton.common.families.scenes.training.calibration import draw_calibration
    from baton.common.families.scenes.training.card import write_card
    from baton.common.families.scenes.training.curves import draw_curves

    draw_curves(run_dir, tuple(STAGES), folder / "learning.png")
    world = world_of(read_manifest(folder).sizes.default)
    draw_calibration(world, folder / "verifier.png", min(count, _CALIBRATED))
    write_card(folder, bench, (count, seed), steps)


def _machine(device: str, threads: int | None) -> Machine:
    try:
        machine = Machine(find_device(device))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if threads is not None:
        torch.set_num_threads(threads)
    return machine


def main() -> None:
    quiet_libraries()
    run(app)


if __name__ == "__main__":
    main()
