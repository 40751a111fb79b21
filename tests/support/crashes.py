"""A coordinator's process under load, killed without mercy, and what it had acknowledged by then.

Every life goes on with the database of the last one. What is compared after each kill: the
clients' ledger, a copy of the database as the kill left it, and what the next life says.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from baton.common.rpc import PROTOCOL_VERSION
from baton.v1 import coordinator_pb2 as pb
from baton.v1.coordinator_pb2_grpc import AdminStub, CoordinatorStub

CLIENTS = 4
_SECONDS = 60
#: Of the delay between the last acknowledged operation and the kill: several commits long.
_MOMENT = 0.05


@dataclass
class Ledger:
    """What the clients know, over all lives.

    asked: request ids of every decision asked for. decided: decision id of those that were
    answered, by request id. sent: quality of each report sent, None for a withdrawal, by decision
    id; acknowledged: those of them that the coordinator said it applied.
    """

    asked: set[str] = field(default_factory=set)
    decided: dict[str, str] = field(default_factory=dict)
    sent: dict[str, float | None] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)

    @property
    def operations(self) -> int:
        return len(self.decided) + len(self.acknowledged)


@dataclass(frozen=True)
class Kept:
    """The database as a kill left it.

    decisions: (arm, request id) by decision id; rewards: (state, reward, quality) by decision id.
    """

    decisions: dict[str, tuple[str, str]]
    rewards: dict[str, tuple[str, float | None, float | None]]

    @classmethod
    def read(cls, db: Path) -> Kept:
        """From a copy: to open the file itself would recover it before its owner can."""
        with tempfile.TemporaryDirectory() as folder:
            for suffix in ("", "-wal"):
                if (path := db.with_name(db.name + suffix)).exists():
                    shutil.copy(path, folder)
            with contextlib.closing(sqlite3.connect(Path(folder) / db.name)) as connection:
                decisions = connection.execute("SELECT decision_id, arm, request_id FROM decisions")
                rewards = connection.execute(
                    "SELECT decision_id, state, reward, outcome ->> 'quality' FROM rewards"
                )
                return cls(
                    {key: (arm, request) for key, arm, request in decisions},
                    {key: (state, reward, quality) for key, state, reward, quality in rewards},
                )


@dataclass(frozen=True)
class Life:
    """One life of the coordinator.

    start_seconds: from the start of its process to its first answer; start_cpu_seconds: processor
    time that this took; operations: acknowledged in this life; rewards: found at its start.
    """

    start_seconds: float
    start_cpu_seconds: float
    operations: int
    rewards: int


def endure(db: Path, kills: int, seed: int) -> Iterator[Life]:
    """Kill the coordinator of ``db`` so many times under load; AssertionError if it lost anything.

    Every second kill comes right after a random number of acknowledged operations, every other at
    a random moment of the operations after them.
    """
    rng, ledger = random.Random(seed), Ledger()
    for life in range(kills + 1):
        kept = Kept.read(db) if life else Kept({}, {})
        before = ledger.operations
        with serving(db) as served, _stubs(served.address) as (coordinator, admin):
            _check(ledger, kept, admin)
            _check_no_report_counts_twice(ledger, kept, coordinator, rng)
            if life < kills:
                goal, delay = before + rng.randrange(1, 60), rng.choice([0.0, rng.random()])
                _load_until(ledger, served, f"{life}", goal, delay * _MOMENT)
        yield Life(
            served.start_seconds,
            served.start_cpu_seconds,
            ledger.operations - before,
            len(kept.rewards),
        )


@dataclass
class Served:
    """A running ``baton-coordinator serve``."""

    process: subprocess.Popen[str]
    address: str
    start_seconds: float
    start_cpu_seconds: float

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(_SECONDS)


@contextlib.contextmanager
def serving(db: Path, *flags: str) -> Iterator[Served]:
    """A coordinator on a free port, once it has answered a call; killed at the end."""
    command = [
        sys.executable,
        "-m",
        "baton.coordinator.cli",
        "serve",
        "--port",
        "0",
        "--db",
        str(db),
    ]
    environment = os.environ | {
        "BATON_CONFIG": os.devnull,
    }
    begun = time.monotonic()
    process = subprocess.Popen(
        [*command, "--seed", "0", *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        with _stubs(address) as (_, admin):
            admin.ListNodes(pb.ListNodesRequest(), timeout=_SECONDS)
        seconds = time.monotonic() - begun
        yield Served(process, address, seconds, _cpu_seconds(process.pid))
    finally:
        process.kill()
        process.communicate()


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _stubs(address: str) -> Iterator[tuple[CoordinatorStub, AdminStub]]:
    with grpc.insecure_channel(address) as channel:
        yield CoordinatorStub(channel), AdminStub(channel)


def _load_until(ledger: Ledger, served: Served, life: str, goal: int, delay: float) -> None:
    """Decide and report on several connections; kill so long after the goal was reached."""
    changed = threading.Condition()
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [
            threads.submit(_client, ledger, served.address, f"{life}-{number}", changed)
            for number in range(CLIENTS)
        ]
        with changed:
            assert changed.wait_for(lambda: ledger.operations >= goal, _SECONDS)
        time.sleep(delay)
        served.kill()
        for client in clients:
            client.result(_SECONDS)


def _client(ledger: Ledger, address: str, label: str, changed: threading.Condition) -> None:
    """Every fifth decision stays open and every seventh request is withdrawn."""
    rng = random.Random(label)
    with _stubs(address) as (coordinator, _), contextlib.suppress(grpc.RpcError):
        for number in range(1_000_000):
            request_id = f"{label}-{number}"
            ledger.asked.add(request_id)
            decision_id = coordinator.Decide(_question(request_id), timeout=_SECONDS).decision_id
            with changed:
                ledger.decided[request_id] = decision_id
                changed.notify()
            if number % 5 == 4:
                continue
            quality = None if number % 7 == 6 else rng.random()
            ledger.sent[decision_id] = quality
            answer = coordinator.Report(_report(decision_id, quality), timeout=_SECONDS)
            assert answer.applied
            with changed:
                ledger.acknowledged.add(decision_id)
                changed.notify()


def _question(request_id: str) -> pb.DecideRequest:
    return pb.DecideRequest(
        protocol_version=PROTOCOL_VERSION,
        request_id=request_id,
        family="scenes",
        members=["small", "medium", "large"],
        steps=20,
    )


def _report(decision_id: str, quality: float | None) -> pb.ReportRequest:
    if quality is None:
        return pb.ReportRequest(decision_id=decision_id, error="CANCELLED")
    return pb.ReportRequest(decision_id=decision_id, ok=True, total_seconds=1.0, quality=quality)


def _check(ledger: Ledger, kept: Kept, admin: AdminStub) -> None:
    """Nothing acknowledged is missing, nothing else is there, and the model has learned all."""
    for request_id, decision_id in ledger.decided.items():
        assert kept.decisions[decision_id][1] == request_id
    for _, request_id in kept.decisions.values():
        assert request_id in ledger.asked
    assert kept.rewards.keys() >= ledger.acknowledged
    for decision_id, (state, _, quality) in kept.rewards.items():
        assert quality == ledger.sent[decision_id]
        assert state == ("withdrawn" if quality is None else "rewarded")
    told = {stats.arm: stats for stats in admin.ListArms(pb.ListArmsRequest()).arms}
    arms = {key: arm for key, (arm, _) in kept.decisions.items()}
    open_ones = Counter(arm for key, arm in arms.items() if key not in kept.rewards)
    earned: dict[str, list[float]] = {}
    for key, (_, reward, _) in kept.rewards.items():
        if reward is not None:
            earned.setdefault(arms[key], []).append(reward)
    assert told.keys() == open_ones.keys() | earned.keys()
    for arm, stats in told.items():
        rewards = earned.get(arm, [])
        assert (stats.rewards, stats.pending) == (len(rewards), open_ones[arm])
        if rewards:
            assert abs(stats.mean_reward - sum(rewards) / len(rewards)) < 1e-9


def _check_no_report_counts_twice(
    ledger: Ledger, kept: Kept, coordinator: CoordinatorStub, rng: random.Random
) -> None:
    """Reports whose answer a kill cut off, sent again, count if they had not; others never."""
    unsure = ledger.sent.keys() - ledger.acknowledged
    certain = rng.sample(sorted(ledger.acknowledged), min(5, len(ledger.acknowledged)))
    for decision_id in (*sorted(unsure), *certain):
        report = _report(decision_id, ledger.sent[decision_id])
        applied = coordinator.Report(report, timeout=_SECONDS).applied
        assert applied == (decision_id not in kept.rewards)
        ledger.acknowledged.add(decision_id)
