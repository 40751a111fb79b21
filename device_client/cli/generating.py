"""``baton generate``: live progress with the handoff visible, then where the pictures are."""

from __future__ import annotations

import secrets
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from common.cli import print_json
from common.errors import InvalidRequest
from common.quiet import quiet_libraries

quiet_libraries()

from device_client.events import Decided, EdgeLost, Event, HandedOver, Reattached, Stepped  # noqa: E402
from device_client.result import Result  # noqa: E402
from device_client.sdk import Client, check_wish  # noqa: E402
from device_client.session import Wish  # noqa: E402
from device_client.settings import DeviceSettings  # noqa: E402

MAX_PICTURES = 64
#: Characters of a request's id for people: `baton explain` takes any unique beginning.
SHORT_ID = 8


@dataclass(frozen=True)
class Request:
    """options: fields of `Wish`; out: a PNG file or a folder, None for names in this folder."""

    options: dict[str, Any]
    count: int
    out: Path | None
    metadata: bool


def pick_seed(seed: int | None) -> int:
    """The seed, or a random one. Raises InvalidRequest for a negative or huge one."""
    if seed is None:
        return secrets.randbelow(2**31)
    if not 0 <= seed < 2**63 - MAX_PICTURES:
        raise InvalidRequest(f"a seed is from 0 to 2^63 - {MAX_PICTURES + 1}, got {seed}")
    return seed


def generate(settings: DeviceSettings, request: Request, as_json: bool) -> None:
    """Draw, save and tell. Raises BatonError."""
    if not 1 <= request.count <= MAX_PICTURES:
        raise InvalidRequest(f"--n must be from 1 to {MAX_PICTURES}, got {request.count}")
    check_wish(Wish(**request.options))
    options = dict(request.options)
    with Client(settings) as client, _Display(quiet=as_json) as display:
        results = client.generate_many(
            options.pop("prompt"), request.count, display.on_event, **options
        )
    paths = [
        result.save(_path(request, result, index), request.metadata)
        for index, result in enumerate(results)
    ]
    if as_json:
        print_json([describe(result, path) for result, path in zip(results, paths, strict=True)])
        return
    for result, path in zip(results, paths, strict=True):
        print(summary(result, path))


def describe(result: Result, path: Path) -> dict[str, object]:
    """One result for programs."""
    quality = result.quality
    return {
        "path": str(path),
        "request_id": result.request_id,
        "seed": result.task.seed,
        "arm": result.arm,
        "steps": {place: result.steps_at(place) for place in ("edge", "device")},
        "seconds": asdict(result.seconds),
        "bytes": asdict(result.traffic),
        "verified": None if quality is None else quality.strict,
        "facts": None if quality is None else dict(quality.facts),
        "notes": list(result.notes),
    }


def summary(result: Result, path: Path) -> str:
    """One result for people: where it is, how it was drawn, whether it shows what it should."""
    steps = " + ".join(
        f"{result.steps_at(place)} {place}"
        for place in ("edge", "device")
        if result.steps_at(place)
    )
    lines = [
        f"{path}  {result.arm}  {steps} steps  {result.seconds.total:.2f} s"
        f"  {result.traffic.sent + result.traffic.received} bytes  seed {result.task.seed}"
        f"  {verdict(result)}  request {result.request_id[:SHORT_ID]}"
    ]
    lines += [f"  note: {note}" for note in result.notes]
    return "\n".join(lines)


def verdict(result: Result) -> str:
    """``verified``, or what does not hold."""
    if result.quality is None:
        return "not verifiable"
    if result.quality.strict:
        return "verified ✓"
    wrong = [fact for fact, holds in result.quality.facts.items() if not holds]
    return f"not verified ✗ ({', '.join(wrong)})"


def _path(request: Request, result: Result, index: int) -> Path:
    name = f"baton-{result.task.seed}.png"
    if request.out is None:
        return Path(name)
    if request.out.suffix.lower() != ".png":
        return request.out / name
    if request.count == 1:
        return request.out
    return request.out.with_stem(f"{request.out.stem}-{index + 1}")


class _Display:
    """A progress bar over the steps of all pictures; says where they run and when they move."""

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True, quiet=quiet or not sys.stderr.isatty())
        self._progress = Progress(
            TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), console=console
        )
        self._console = Console(stderr=True, quiet=quiet)
        self._bar = self._progress.add_task("deciding", total=None)
        self._total = 0

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def on_event(self, event: Event) -> None:
        if isinstance(event, Decided):
            self._total += event.plan.steps
            self._progress.update(self._bar, total=self._total)
            self._say(f"{event.decision.arm.name} ({event.decision.reason})")
        elif isinstance(event, Stepped):
            where = f"{event.location}: {event.member} step {event.step}"
            self._progress.update(self._bar, description=where, advance=1)
        elif isinstance(event, HandedOver):
            self._say(f"handed over at step {event.step}: {event.size} bytes")
        elif isinstance(event, EdgeLost):
            self._say(f"edge {event.address} lost ({event.reason}); on from {event.resume_step}")
        elif isinstance(event, Reattached):
            self._say(f"edge {event.address} reached again ({event.reason})")

    def _say(self, text: str) -> None:
        self._progress.console.print(text, style="dim", highlight=False)
