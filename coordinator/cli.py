"""The command line ``baton-coordinator``.

Whatever reaches gRPC is imported by the command that needs it: help answers sooner, and gRPC reads
its log level, which `baton.common.cli.run` sets, when it is imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from baton.common.cli import log_to_stderr, print_json, print_rows, run
from baton.common.config import load_settings
from baton.common.interrupts import run_daemon
from baton.coordinator.settings import DEFAULT_PORT, Settings

DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"

app = typer.Typer(
    help="The coordinator of Baton.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Address = Annotated[
    str, typer.Option(envvar="BATON_COORDINATOR", help="HOST:PORT of the coordinator.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one.")] = None,
    db: Annotated[Path | None, typer.Option(help="Database file.")] = None,
    lease_seconds: Annotated[float | None, typer.Option(help="Lease of an edge.")] = None,
    exploration: Annotated[float | None, typer.Option(help="Share of random choices.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the choices.")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Allow other machines, unauthenticated.")
    ] = None,
) -> None:
    """Run a coordinator until SIGTERM or SIGINT.

    Flags win over the environment (BATON_COORDINATOR_PORT and so on), which wins over the file.
    """
    flags: dict[str, object] = {
        "host": host,
        "port": port,
        "db": db,
        "lease_seconds": lease_seconds,
        "exploration": exploration,
        "seed": seed,
        "insecure": insecure,
    }
    settings, _ = load_settings(Settings, "coordinator", flags)
    from baton.coordinator import daemon

    log_to_stderr()
    run_daemon(daemon.serve(settings))


@app.command()
def nodes(address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """List the edges that have joined."""
    from baton.coordinator import admin

    columns = ["node_id", "address", "state", "family", "members", "active", "queued", "capacity"]
    print_rows(admin.nodes(address), columns, as_json)


@app.command()
def arms(address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """List the arms that were pulled, and what they earned."""
    from baton.coordinator import admin

    columns = ["family", "latent_space", "arm", "pulls", "rewards", "mean_reward", "pending"]
    print_rows(admin.arms(address), columns, as_json)


@app.command()
def decisions(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """List the newest decisions."""
    from baton.coordinator import admin

    columns = ["decision_id", "request_id", "arm", "propensity", "state", "reward"]
    print_rows(admin.decisions(address, limit), columns, as_json)


@app.command()
def explain(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A decision's or a request's id.")],
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Tell why a request got its arm and its edges, and others not."""
    from baton.coordinator import admin

    row, lines = admin.explanation(address, id_)
    if as_json:
        print_json(row)
    else:
        print("\n".join(lines))


def main() -> None:
    """Entry point of ``baton-coordinator``."""
    run(app)


if __name__ == "__main__":
    main()
