"""The command line ``baton-edge``. Model code is imported by the command that needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from baton.common.cli import log_to_stderr, print_json, print_rows, run
from baton.common.config import load_settings
from baton.common.errors import InvalidRequest
from baton.common.interrupts import run_daemon
from baton.common.rpc.access import AdminSettings
from baton.edge_server.settings import DEFAULT_PORT, EdgeSettings

app = typer.Typer(
    help="An edge of Baton: runs the early steps of many requests together.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _group() -> None:
    """Keep ``serve`` a subcommand."""


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one.")] = None,
    node_id: Annotated[
        str | None, typer.Option(help="Name of this node; else one of its own.")
    ] = None,
    advertise: Annotated[
        str | None, typer.Option(help="HOST:PORT at which devices reach this node.")
    ] = None,
    coordinator: Annotated[str | None, typer.Option(help="HOST:PORT to join.")] = None,
    family: Annotated[str | None, typer.Option(help="Family name or folder.")] = None,
    members: Annotated[str | None, typer.Option(help="Members to load, comma-separated.")] = None,
    max_active: Annotated[int | None, typer.Option(help="Requests denoised together.")] = None,
    max_rows: Annotated[
        str | None, typer.Option(help="Rows of one model call; auto: as many as gain something.")
    ] = None,
    max_queue: Annotated[int | None, typer.Option(help="Requests that may wait.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the model.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port for Prometheus; 0 picks a free one.")
    ] = None,
    metrics_host: Annotated[
        str | None, typer.Option(help="Address at which Prometheus finds it; loopback by default.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="auto, or off: measure nothing at the start.")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Allow other machines, unauthenticated.")
    ] = None,
) -> None:
    """Run an edge until SIGTERM or SIGINT.

    Flags win over the environment (BATON_EDGE_PORT and so on), which wins over the file.
    """
    settings, _ = load_settings(EdgeSettings, "edge", dict(locals()))
    from baton.common.quiet import quiet_libraries
    from baton.edge_server.checks import check_serving

    check_serving(settings)
    log_to_stderr()
    quiet_libraries()
    from baton.edge_server import daemon

    run_daemon(daemon.serve(settings))


@app.command()
def profile(
    member: Annotated[str | None, typer.Option(help="Member to measure; else all.")] = None,
    size: Annotated[
        str | None, typer.Option(help="PIXELS or WIDTHxHEIGHT; else the family's.")
    ] = None,
    max_rows: Annotated[int | None, typer.Option(help="Rows up to which calls grow.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the model.")] = None,
    family: Annotated[str | None, typer.Option(help="Family name or folder.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="In seconds, less exactly.")] = False,
    guidance: Annotated[
        bool, typer.Option("--guidance", help="What leaving guidance out costs, instead.")
    ] = False,
    prompts: Annotated[int | None, typer.Option(help="Pictures of --guidance.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of each; else the family's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="PNG file to draw it to.")] = None,
) -> None:
    """Measure what rounds cost on this machine, for `serve` to plan with.

    It is kept in the state folder; measure while nothing else runs. Of larger pictures and batches
    it takes minutes.
    """
    told = {"threads": threads, "family": family, "max_rows": max_rows}
    settings, _ = load_settings(EdgeSettings, "edge", told)
    if guidance:
        _check_unused("--guidance", {"--size": size, "--max-rows": max_rows, "--quick": quick})
        from baton.edge_server.guidance_command import GuidanceRequest, measure_guidance

        measure_guidance(settings, GuidanceRequest(member, prompts, steps, plot), as_json)
        return
    _check_unused("a profile of rounds", {"--prompts": prompts, "--steps": steps})
    from baton.edge_server.profile_command import ProfileRequest, make_profile

    make_profile(settings, ProfileRequest(member, size, quick, plot), as_json)


def _check_unused(what: str, flags: Mapping[str, object]) -> None:
    """Raises InvalidRequest for a flag that says nothing there."""
    for flag, value in flags.items():
        if value not in (None, False):
            raise InvalidRequest(f"{flag} means nothing for {what}; leave it out")


@app.command()
def status(
    address: Annotated[
        str, typer.Option(envvar="BATON_EDGE", help="HOST:PORT of the edge.")
    ] = f"127.0.0.1:{DEFAULT_PORT}",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask an edge what it holds and how busy it is."""
    from baton.common.rpc.edge_status import edge_status

    access = load_settings(AdminSettings, "admin", {})[0].access()
    found = asyncio.run(edge_status(address, access))
    if as_json:
        print_json(found)
    else:
        rows = [{"field": key, "value": value} for key, value in found.items()]
        print_rows(rows, ["field", "value"], as_json=False)


def main() -> None:
    """Entry point of the script ``baton-edge``."""
    run(app)


if __name__ == "__main__":
    main()
