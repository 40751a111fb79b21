"""Times arms as a user has them: a device asks a coordinator, and an edge draws its part.

Coordinator, edge and device are processes of their own over gRPC loopback, or over a link that is
longer and narrower; the device may be throttled to be slower than the edge. What was computed where
is told by each process's own clock. Every round draws every entry once, in a new order and with
another prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import track

from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import use_threads
from baton.common.families.scenes.evaluate import Case
from baton.common.families.spec import FamilySpec
from baton.common.plan import OpenPlan
from tests.bench.arms import Entry
from tests.bench.timing import draw_here, task_of
from tests.support.device_worker import Device, device
from tests.support.node_processes import Link, Nodes, nodes
from tests.support.throttle import processor_share, throttled

#: 10 Mbit/s each way, 40 ms there and back, to coordinator and edge alike.
SHAPED = Link(round_trip=0.04, rate=10e6 / 8)
#: What a throttled device's processor time may be off by.
_SHARE_TOLERANCE = 0.15
_SPIN = 0.2  # seconds of processor time
#: Levels of 255 by which a picture may differ that was drawn in a batch.
_PICTURE_TOLERANCE = 2


@dataclass(frozen=True)
class Setting:
    """slower: how many times slower the device is than the edge."""

    name: str
    rounds: int
    link: Link | None = None
    slower: float = 1.0


@dataclass(frozen=True)
class Bill:
    """What one picture took: seconds as `Seconds` has them, bytes, steps and round trips.

    control: of the total what was neither computed nor decoded.
    """

    total: float
    deciding: float
    queue: float
    edge: float
    transfer: float
    device: float
    decode: float
    sent: int
    received: int
    round_trips: int
    edge_steps: int

    @property
    def control(self) -> float:
        return self.total - self.edge - self.device - self.decode


@dataclass(frozen=True)
class Billed:
    """A setting's bills by entry, a round each; arms: those that were drawn.

    share: of a processor that the device got; here: seconds that the default plan took in this
    process in the same rounds; wire_trips: a picture, as proxies count them, its report included.
    """

    setting: Setting
    bills: Mapping[str, Sequence[Bill]]
    arms: Mapping[str, Sequence[str]]
    share: float
    here: Sequence[float] = ()
    wire_trips: float | None = None

    @property
    def share_within(self) -> bool:
        wanted = 1.0 / self.setting.slower
        return abs(self.share - wanted) <= _SHARE_TOLERANCE * wanted

    def values(self, name: str, field: str) -> list[float]:
        """Round by round."""
        return [float(getattr(bill, field)) for bill in self.bills[name]]

    def rows(self, entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
        """Medians over the rounds."""
        return [self._row(name, entries[name]) for name in self.bills]

    def _row(self, name: str, entry: Entry) -> dict[str, Any]:
        row: dict[str, Any] = {
            "name": name,
            "kind": entry.kind,
            "setting": self.setting.name,
            "link": None if self.setting.link is None else asdict(self.setting.link),
            "arms_drawn": sorted(set(self.arms[name])),
            "rounds": len(self.bills[name]),
        }
        for field in fields(Bill):
            unit = "_seconds" if field.type == "float" else ""
            row[field.name + unit] = median(self.values(name, field.name))
        row["control_plane_ms"] = 1000 * median(self.values(name, "control"))
        row["device_slower"] = self.setting.slower
        row["device_processor_share"] = self.share
        row["device_processor_share_within"] = self.share_within
        return row


def bill(
    family: LoadedFamily,
    entries: Mapping[str, Entry],
    cases: Sequence[Case],
    setting: Setting,
    default: tuple[str, OpenPlan],
) -> Billed:
    """Draw all entries under a setting, by the names under which they are told.

    The default is asked for by its short name, without steps. default: the name of one, and
    its plan, which this process draws once a round, too; its round trips are counted.
    """
    rng, names, (counted, plan) = np.random.default_rng(0), list(entries), default
    bills: dict[str, list[Bill]] = {name: [] for name in names}
    arms: dict[str, list[str]] = {name: [] for name in names}
    here: list[float] = []
    with _world(family.spec, setting) as (drawer, world), ThreadPoolExecutor(1) as thread:
        thread.submit(use_threads, 1).result()
        for name in names:
            drawer.ask(**_asked(entries[name], cases[0]))  # the first of its kind is slow
        shares = [_share(drawer)]
        for case in track(cases[: setting.rounds], f"{setting.name:<12}", transient=True):
            for index in rng.permutation(len(names)):
                told = drawer.ask(**_asked(entries[names[index]], case))
                bills[names[index]].append(_bill_of(told))
                arms[names[index]].append(told["arm"])
            drawn = thread.submit(draw_here, family, task_of(family, plan, case)).result()
            here.append(drawn.total)
        shares.append(_share(drawer))
        trips = _trips(drawer, world, entries[counted], cases[: setting.rounds])
    return Billed(setting, bills, arms, sum(shares) / len(shares), here, trips)


def _share(drawer: Device) -> float:
    return processor_share(drawer.pid, lambda: drawer.ask(spin=_SPIN))


def _trips(drawer: Device, world: Nodes, entry: Entry, cases: Sequence[Case]) -> float | None:
    """Handshakes and calls of a picture; None where no meter counts them.

    A device that has spun since its last picture has told of that one.
    """
    if not world.meters:
        return None
    before = world.trips()
    for case in cases:
        drawer.ask(**_asked(entry, case))
    drawer.ask(spin=_SPIN)
    return (world.trips() - before) / len(cases)


@contextlib.contextmanager
def _world(spec: FamilySpec, setting: Setting) -> Iterator[tuple[Device, Nodes]]:
    """A device, as slow as it is to be, and the nodes that it knows."""
    with (
        nodes(setting.link, str(spec.folder)) as world,
        device(**device_settings(spec), coordinator=world.known) as drawer,
        throttled(drawer.pid, setting.slower),
    ):
        yield drawer, world


def device_settings(spec: FamilySpec) -> dict[str, Any]:
    """A device with all members but the largest; a weak one is waited for."""
    small = list(spec.members)[1:]
    return {"family": str(spec.folder), "members": ",".join(small), "coordinator_timeout": 30.0}


def _asked(entry: Entry, case: Case) -> dict[str, Any]:
    asked: dict[str, Any] = {"prompt": case.prompt, "seed": case.seed}
    if entry.kind == "default":  # with steps and levels of its own, whatever the bandit has learned
        return asked | {"arm": "relay"}
    asked |= {"arm": entry.arm, "sampler": entry.sampler, "accel": entry.accel, "fallback": False}
    return asked | ({} if entry.steps is None else {"steps": entry.steps})


def _bill_of(told: Mapping[str, Any]) -> Bill:
    known = {**told["seconds"], **told["traffic"], "edge_steps": told["edge_steps"]}
    return Bill(**{field.name: known[field.name] for field in fields(Bill)})


def check_alike(
    family: LoadedFamily,
    entries: Sequence[Entry],
    cases: Sequence[Case],
    pictures: Mapping[str, npt.NDArray[np.uint8]],
) -> dict[str, Any]:
    """Draw entries through the nodes, and compare with what was drawn in batches here.

    pictures: uint8 [n, H, W, 3] by entry, of the first n cases. Latents travel exactly. Raises
    RuntimeError for a picture that is another one by more than rounding.
    """
    spec, differences = family.spec, list[int]()
    with (
        nodes(None, str(spec.folder)) as world,
        device(**device_settings(spec), coordinator=world.known, codec="fp32") as drawer,
    ):
        for entry in entries:
            for expected, case in zip(pictures[entry.name], cases, strict=False):
                told = drawer.ask(**_asked(entry, case), picture=True)
                found = np.frombuffer(bytes.fromhex(told["picture"]), np.uint8)
                apart = np.abs(found.astype(int) - expected.reshape(-1).astype(int)).max()
                differences.append(int(apart))
                if apart > _PICTURE_TOLERANCE:
                    raise RuntimeError(f"{entry.name}: the nodes draw {case.prompt!r} otherwise")
    return {"pictures": len(differences), "largest_difference": max(differences)}
