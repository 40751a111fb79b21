"""``baton demo``: a coordinator and an edge as processes of their own, and every arm drawn once."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from baton.common.cli import print_json
from baton.common.outputs import check_writable
from baton.common.quiet import quiet_libraries
from baton.common.request import GenerationRequest, check_request
from baton.device_client.cli import generating
from baton.device_client.cli.contact_sheet import contact_sheet
from baton.device_client.cli.node_process import announced_process
from baton.device_client.png import save_png
from baton.device_client.result import Result
from baton.device_client.settings import DeviceSettings

PROMPTS = (
    "a red heart",
    "three yellow stars on a night background",
    "a green tree and a purple house on a snow background",
    "a red cat left of a blue house on a night background",
)
#: Short names: the family's own arms if it has such.
ARMS = ("device", "relay", "edge")
CONTACT_SHEET = Path("baton-demo.png")
_START_SECONDS = 120.0


@dataclass(frozen=True)
class DemoRequest:
    prompt: str | None
    steps: int | None
    seed: int
    out: Path


def demo(request: DemoRequest, as_json: bool) -> None:
    """Start the nodes, draw, print the table, write the pictures. Raises BatonError."""
    prompts = [request.prompt] if request.prompt is not None else list(PROMPTS)
    asked = [
        check_request(GenerationRequest(prompt, steps=request.steps, seed=request.seed))
        for prompt in prompts
    ]
    out = check_writable(request.out / "1.png").parent
    check_writable(CONTACT_SHEET)
    quiet_libraries()
    from baton.device_client.sdk import Client

    console = Console(stderr=True, quiet=as_json)
    with contextlib.ExitStack() as stack:
        with console.status("starting a coordinator and an edge"):
            coordinator = stack.enter_context(coordinator_process())
            stack.enter_context(edge_process(coordinator))
            client = stack.enter_context(Client(DeviceSettings(coordinator=coordinator)))
        with console.status("warming up"):
            for arm in ARMS:  # connections, and what each process does once
                client.generate(asked[0], arm=arm)
        rows: list[tuple[Result, Path]] = []
        for one in asked:
            for arm in ARMS:
                with console.status(escape(f"{arm}: {one.prompt}")):
                    result = client.generate(one, arm=arm)
                path = out / f"{len(rows) // len(ARMS) + 1}-{arm}.png"
                rows.append((result, result.save(path)))
    results = [result for result, _ in rows]
    sheet = contact_sheet(prompts, ARMS, [result.image for result in results])
    save_png(sheet, CONTACT_SHEET, None)
    if as_json:
        print_json([generating.describe(result, path) for result, path in rows])
        return
    Console().print(_table(results))
    for arm, result in zip(ARMS, results, strict=False):
        print(f"  {arm:<6}  {result.arm}")
    print(f"pictures in {out}/, all of them in {CONTACT_SHEET}")


def coordinator_process() -> contextlib.AbstractContextManager[str]:
    """A coordinator on a free loopback port with a database of its own; yields its address."""
    folder = tempfile.TemporaryDirectory(prefix="baton-demo-")
    database = str(Path(folder.name) / "coordinator.db")
    arguments = ["baton.coordinator.cli", "serve", "--port", "0", "--db", database]
    return _process(arguments, folder)


def edge_process(coordinator: str) -> contextlib.AbstractContextManager[str]:
    """An edge on a free loopback port, joined to the coordinator; yields its address."""
    arguments = ["baton.edge_server.cli", "serve", "--port", "0", "--coordinator", coordinator]
    quick = ["--node-id", "demo-edge", "--profile", "off"]  # it has no two requests at a time
    return _process([*arguments, *quick], contextlib.nullcontext())


@contextlib.contextmanager
def _process(
    arguments: list[str], resource: contextlib.AbstractContextManager[object]
) -> Iterator[str]:
    command = [sys.executable, "-m", *arguments]
    with (
        resource,
        tempfile.TemporaryFile("w+") as log,
        announced_process(command, log, _START_SECONDS) as address,
    ):
        yield address


def _table(results: list[Result]) -> Table:
    numbers = ("seconds", "at the edge", "steps", "bytes")
    table = Table("prompt and arm", *numbers, "verified", box=SIMPLE)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for index, result in enumerate(results):
        if index % len(ARMS) == 0:
            table.add_row(f"[bold]{escape(result.task.prompt)}[/bold]")
        table.add_row(
            f"  {ARMS[index % len(ARMS)]}",
            f"{result.seconds.total:.3f}",
            f"{result.seconds.edge:.3f}",
            f"{result.steps_at('edge')} + {result.steps_at('device')}",
            f"{result.traffic.sent + result.traffic.received:,}",
            _verified(result),
        )
    table.caption = "at the edge: seconds that it computed; steps: run at the edge + on the device"
    return table


def _verified(result: Result) -> str:
    """Yes, or how many of the prompt's facts hold."""
    if result.quality is None:
        return "not verifiable"
    facts = result.quality.facts
    if result.quality.strict:
        return "yes ✓"
    return f"no ({sum(facts.values())} of {len(facts)} facts)"
