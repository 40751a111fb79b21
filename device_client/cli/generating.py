"""``baton generate``: live progress with the handoff visible, then where the pictures are."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from baton.common.cli import print_json
from baton.common.errors import InvalidRequest
from baton.common.outputs import check_writable, claiming, file_or_folder
from baton.common.progress import Bar
from baton.common.quiet import quiet_libraries
from baton.common.request import GenerationRequest, check_request
from baton.device_client.checks import check_device, check_here
from baton.device_client.events import (
    Decided,
    EdgeLost,
    Event,
    Finished,
    HandedOver,
    Queued,
    Reattached,
    Stepped,
)
from baton.device_client.result import Result
from baton.device_client.settings import DeviceSettings

MAX_PICTURES = 64
#: Characters of a request's id for people: `baton explain` takes any unique beginning.
SHORT_ID = 8


@dataclass(frozen=True)
class Request:
    """first: of the pictures; out: a PNG or a folder, None for names in this folder."""

    first: GenerationRequest
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
    """Draw, save each picture when it is done, and tell of those. Raises BatonError."""
    if not 1 <= request.count <= MAX_PICTURES:
        raise InvalidRequest(f"--n must be from 1 to {MAX_PICTURES}, got {request.count}")
    first = check_request(request.first)
    spec = check_device(settings)
    check_here(first, settings, spec)
    album = _Album(request, first.seed)
    if settings.held(spec):
        quiet_libraries()
    from baton.device_client.sdk import Client

    with Client(settings) as client, album.telling(as_json), Display(quiet=as_json) as display:

        def on_event(event: Event) -> None:
            display.on_event(event)
            if isinstance(event, Finished):
                album.save(event.result)

        client.generate_many(first, request.count, on_event)


class _Album:
    """The pictures of one command, each saved under its own name."""

    def __init__(self, request: Request, seed: int) -> None:
        """Raises InvalidRequest for a place where none can be written."""
        self._request = request
        self._seed = seed
        self._saved: dict[int, tuple[Result, Path]] = {}
        self._folder, self._name = file_or_folder(request.out or Path(), ".png")
        for number in range(request.count):
            check_writable(self._wanted(seed + number))

    def save(self, result: Result) -> None:
        """A name that the user did not choose to the letter takes nobody's place.

        Raises InvalidRequest.
        """
        seed, metadata = result.task.seed, self._request.metadata
        path = self._wanted(seed)
        if self._name is None or self._request.count > 1:
            with claiming(path) as path:
                result.save(path, metadata)
        else:
            result.save(path, metadata)
        self._saved[seed] = result, path

    def _wanted(self, seed: int) -> Path:
        if self._name is None:
            return self._folder / f"baton-{seed}.png"
        path = self._folder / self._name
        number = seed - self._seed + 1
        return path if self._request.count == 1 else path.with_stem(f"{path.stem}-{number}")

    @contextlib.contextmanager
    def telling(self, as_json: bool) -> Iterator[None]:
        """Tell in the end, however it comes."""
        try:
            yield
        finally:
            self._tell(as_json)

    def _tell(self, as_json: bool) -> None:
        """List what is saved, if anything is, in the order of the seeds."""
        count = self._request.count
        saved = [self._saved[seed] for seed in sorted(self._saved)]
        if as_json and saved:
            print_json([describe(result, path) for result, path in saved])
        elif not as_json:
            for result, path in saved:
                print(summary(result, path))
            if len(saved) < count > 1:
                print(f"{len(saved)} of {count} pictures are done", file=sys.stderr)


def describe(result: Result, path: Path) -> dict[str, object]:
    """One result for programs."""
    quality = result.quality
    return {
        "path": str(path),
        "request_id": result.request_id,
        "seed": result.task.seed,
        "arm": result.arm,
        "arm_executed": result.arm_executed,
        "steps": {place: result.steps_at(place) for place in ("edge", "device")},
        "seconds": asdict(result.seconds),
        "bytes": {"sent": result.traffic.sent, "received": result.traffic.received},
        "round_trips": result.traffic.round_trips,
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
    asked, ran = result.arm, result.arm_executed
    arm = asked if asked == ran else f"{ran} in place of {asked}"
    lines = [
        f"{path}  {arm}  {steps} steps"
        f"  {result.seconds.total:.2f} s ({result.seconds.edge:.2f} at the edge)"
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


class Display(Bar):
    """A bar of the newest steps of all pictures; says where they run and when they move."""

    def __init__(self, quiet: bool) -> None:
        super().__init__("deciding", quiet=quiet)
        self._planned: dict[str, int] = {}
        self._done: dict[str, int] = {}

    @property
    def planned(self) -> int:
        """Steps of all the plans so far."""
        return sum(self._planned.values())

    @property
    def done(self) -> int:
        """The newest step of each picture, added up: some are run in one call, or again."""
        return sum(self._done.values())

    def on_event(self, event: Event) -> None:
        if isinstance(event, Decided):
            self._planned[event.request_id] = event.plan.steps
            self.show(total=self.planned)
            self.say(f"{event.decision.arm} ({event.decision.reason})")
        elif isinstance(event, Stepped):
            self._done[event.request_id] = event.step
            where = f"{event.location}: {event.member} step {event.step}"
            self.show(where, self.done)
        elif isinstance(event, Queued):
            self.show(f"edge: {event.position} waiting before")
        elif isinstance(event, HandedOver):
            self.say(f"handed over at step {event.step}: {event.size} bytes")
        elif isinstance(event, EdgeLost):
            self.say(f"edge {event.address} lost ({event.reason}); on from {event.resume_step}")
        elif isinstance(event, Reattached):
            self.say(f"edge {event.address} reached again ({event.reason})")
