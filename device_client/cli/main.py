"""The command line ``baton``. Model code is imported by the command that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from baton.common.cli import print_rows, run
from baton.common.config import config_file, load_settings
from baton.device_client.settings import DeviceSettings

app = typer.Typer(
    help="Baton: text-to-image diffusion, relayed between edges and this device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")

Prompt = Annotated[str, typer.Argument(help="What the picture should show.", show_default=False)]
Coordinator = Annotated[str | None, typer.Option(help="HOST:PORT of the coordinator.")]
Edge = Annotated[str | None, typer.Option(help="HOST:PORT of an edge, or several, best first.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def generate(
    prompt: Prompt,
    negative_prompt: Annotated[
        str, typer.Option("--negative-prompt", "--negative", help="What it should not show.")
    ] = "",
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; random if left out.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; 1 turns it off.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Pictures, with successive seeds.")] = 1,
    prefer: Annotated[str, typer.Option(help="quality, balanced or speed.")] = "balanced",
    arm: Annotated[
        str | None,
        typer.Option(help="device, edge, relay@FRACTION, or a full name; left out: decided."),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="ddim, euler or dpmpp_2m; left out: the family's own.")
    ] = None,
    accel: Annotated[
        str | None,
        typer.Option(help="none, propagate, masks or full; left out: as settings or family say."),
    ] = None,
    guidance_budget: Annotated[
        str | None,
        typer.Option(
            help="Guidance that a busy edge may leave out: none, or the share of the steps from"
            " which on, and how many in a row (0.6:1); left out: as settings or family say."
        ),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Pixels: SIDE or WIDTHxHEIGHT.")] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds that a picture may take; left out: no limit.")
    ] = None,
    fallback: Annotated[
        bool | None,
        typer.Option(
            help="Whether the device may draw what no edge did; left out: not in place of --arm.",
            show_default=False,
        ),
    ] = None,
    edge: Edge = None,
    coordinator: Coordinator = None,
    family: Annotated[str | None, typer.Option(help="Family name or folder.")] = None,
    members: Annotated[str | None, typer.Option(help="Members that this device holds.")] = None,
    out: Annotated[Path | None, typer.Option(help="PNG file, or a folder.")] = None,
    metadata: Annotated[bool, typer.Option(help="Write prompt and plan into the PNG.")] = True,
    as_json: Json = False,
) -> None:
    """Draw a picture: on this device, on an edge, or on both, one after the other."""
    flags = {"coordinator": coordinator, "family": family, "members": members}
    settings, _ = load_settings(DeviceSettings, "device", flags)
    from baton.common.limits import check_accel, check_sampler
    from baton.common.request import GenerationRequest, check_preference
    from baton.device_client.cli import generating

    request = generating.Request(
        GenerationRequest(
            prompt,
            negative_prompt,
            steps,
            guidance,
            generating.pick_seed(seed),
            size,
            None if sampler is None else check_sampler(sampler),
            check_preference(prefer),
            arm=arm,
            edge=edge,
            timeout=timeout,
            accel=None if accel is None else check_accel(accel),
            guidance_budget=guidance_budget,
            fallback=fallback,
        ),
        count=n,
        out=out,
        metadata=metadata,
    )
    generating.generate(settings, request, as_json)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="PNG that Baton saved.", show_default=False)],
    family: Annotated[
        str | None, typer.Option(help="Family name or folder; left out: the file's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the picture drawn again here.")] = None,
    as_json: Json = False,
) -> None:
    """Run the plan in a picture again on this machine, and say whether the same comes of it."""
    settings, origins = load_settings(DeviceSettings, "device", {"family": family})
    named = None if origins["family"] == "default" else settings.family
    from baton.device_client.cli import replaying

    raise typer.Exit(replaying.replay_file(file, named, out, as_json))


@app.command()
def explain(
    request: Annotated[
        str,
        typer.Argument(
            metavar="REQUEST",
            help="A request's id, its beginning, or `last`.",
            show_default=False,
        ),
    ],
    as_json: Json = False,
) -> None:
    """Tell how one of this device's requests went: why there, what ran where, what failed."""
    settings, _ = load_settings(DeviceSettings, "device", {})
    from baton.device_client.cli import explaining

    explaining.explain(settings, request, as_json)


@app.command()
def analyze(
    family: Annotated[str | None, typer.Option(help="Family name or folder.")] = None,
    member: Annotated[
        str | None, typer.Option(help="Member to measure; left out: the family's largest.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="ddim, euler or dpmpp_2m; left out: the family's own.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; 1 turns it off.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="File with a prompt on each line; left out: the family's.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="Prompts; left out: all of the file, or 16.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the prompts and the first picture's noise.")] = 0,
    keys: Annotated[
        int | None, typer.Option(help="Key steps to propose; left out: as many as the paper has.")
    ] = None,
    spacing: Annotated[
        bool, typer.Option("--spacing", help="Search a grid of noise levels for few steps instead.")
    ] = False,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="For --spacing: arm with steps of its own; again: they share the grid."),
    ] = None,
    divergence: Annotated[
        bool,
        typer.Option("--divergence", help="Measure how far members' predictions part instead."),
    ] = False,
    tolerance: Annotated[
        float | None, typer.Option(help="For --divergence: distance that a cut may cost.")
    ] = None,
    out: Annotated[Path, typer.Option(help="JSON file, or a folder; the plot lies beside.")] = Path(
        "."
    ),
    as_json: Json = False,
) -> None:
    """Measure how much each block changes from step to step, and propose key steps."""
    settings, _ = load_settings(DeviceSettings, "device", {"family": family})
    from baton.common.tooling.analysis import AnalyzeRequest
    from baton.device_client.cli import analyses

    request = AnalyzeRequest(
        *(member, sampler, steps, guidance, prompts, count, seed, keys, out),
        tuple(arm or ()),
        tolerance,
    )
    analyses.chosen(spacing, divergence)(settings, request, as_json)


@app.command("train-masks")
def train_masks(
    member: Annotated[str, typer.Option(help="Member to train for.")] = "large",
    sampler: Annotated[
        str | None, typer.Option(help="ddim, euler or dpmpp_2m; left out: the family's own.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
    target_speed: Annotated[
        float, typer.Option(help="How many times cheaper than running every block.")
    ] = 1.8,
    cost: Annotated[
        str, typer.Option(help="What that is counted in: time on this machine, macs or blocks.")
    ] = "time",
    estimator: Annotated[str, typer.Option(help="bernoulli, interpolate or gumbel.")] = "bernoulli",
    iterations: Annotated[int, typer.Option(help="Of the optimiser, for each step.")] = 40,
    count: Annotated[int, typer.Option(help="Prompts to train on.")] = 8,
    prompts: Annotated[
        Path | None, typer.Option(help="File with a prompt on each line; left out: the family's.")
    ] = None,
    propagated: Annotated[
        bool, typer.Option(help="Train for accel full: within encoder propagation.")
    ] = False,
    refresh_every: Annotated[
        int, typer.Option(help="Run every block each so many steps; 0: at the first step only.")
    ] = 3,
    loss_scaling: Annotated[bool, typer.Option(help="Spare steps that change much.")] = True,
    bimodal: Annotated[float, typer.Option(help="Weight of the bi-modal regulariser.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of prompts, noise and sampling.")] = 0,
    family: Annotated[str | None, typer.Option(help="Family name or folder.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File; left out: beside the member's weights.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Learn which blocks of a member may reuse their last output, step by step."""
    device, _ = load_settings(DeviceSettings, "device", {"family": family})
    from baton.common.accel.mask_settings import Settings, check_estimator
    from baton.common.tooling.mask_request import MaskRequest
    from baton.device_client.cli import mask_training

    settings = Settings(
        target_speed=target_speed,
        estimator=check_estimator(estimator),
        iterations=iterations,
        bimodal=bimodal,
        loss_scaling=loss_scaling,
        refresh_every=refresh_every,
        seed=seed,
    )
    request = MaskRequest(
        device.family, member, sampler, steps, count, prompts, cost, out, propagated
    )
    mask_training.train_masks(request, settings, as_json, device.threads)


@app.command()
def demo(
    prompt: Annotated[
        str | None, typer.Argument(help="What to draw; left out: four prompts.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps; left out: as the family has it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 7,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("baton-demo"),
    as_json: Json = False,
) -> None:
    """Start a coordinator and an edge here and draw device-only, relayed and edge-only."""
    load_settings(DeviceSettings, "device", {})  # its nodes read them, and would not start
    from baton.device_client.cli import demonstrating

    demonstrating.demo(demonstrating.DemoRequest(prompt, steps, seed, out), as_json)


@app.command()
def doctor(edge: Edge = None, coordinator: Coordinator = None, as_json: Json = False) -> None:
    """Check this installation, the weights, the coordinator and the edges, and say what to do."""
    settings, _ = load_settings(DeviceSettings, "device", {"coordinator": coordinator})
    from baton.device_client.cli import diagnosing

    raise typer.Exit(diagnosing.doctor(settings, edge, as_json))


@config_app.command("show")
def config_show(as_json: Json = False) -> None:
    """List the settings of this device and where each value comes from."""
    settings, origins = load_settings(DeviceSettings, "device", {})
    values = settings.model_dump(mode="json")
    rows = [
        {"setting": name, "value": value, "origin": origins[name]} for name, value in values.items()
    ]
    print_rows(rows, ["setting", "value", "origin"], as_json)
    if not as_json:
        file = config_file()
        there = file is not None and file.exists()
        print(f"\nfile: {file or 'none without a home folder'}{'' if there else ' (not there)'}")


def main() -> None:
    """Entry point of the script ``baton``."""
    run(app)


if __name__ == "__main__":
    main()
