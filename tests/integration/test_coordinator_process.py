"""The command line as its users run it: one process each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from baton.common.rpc import PROTOCOL_VERSION
from baton.v1 import coordinator_pb2 as pb

CLI = [sys.executable, "-m", "baton.coordinator.cli"]
SECONDS = 30


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BATON_CONFIG", os.devnull)
    monkeypatch.delenv("BATON_COORDINATOR", raising=False)


@contextlib.contextmanager
def serving(db: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A coordinator's process and address; killed at the end."""
    command = [*CLI, "serve", "--port", "0", "--db", str(db), "--seed", "0", *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("baton-coordinator listening on 127.0.0.1:")
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False
    )


def refused(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line of an error."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


class Device:
    """Calls from a thread of the test, over a plain channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._decide = channel.unary_unary(
            "/baton.v1.Coordinator/Decide",
            pb.DecideRequest.SerializeToString,
            pb.DecideResponse.FromString,
        )
        self._report = channel.unary_unary(
            "/baton.v1.Coordinator/Report",
            pb.ReportRequest.SerializeToString,
            pb.ReportResponse.FromString,
        )

    def decide(self, request_id: str) -> str:
        request = pb.DecideRequest(
            protocol_version=PROTOCOL_VERSION,
            request_id=request_id,
            family="scenes",
            members=["small", "medium"],
            steps=20,
        )
        decision_id: str = self._decide(request, timeout=SECONDS).decision_id
        return decision_id

    def report(self, decision_id: str) -> bool:
        request = pb.ReportRequest(decision_id=decision_id, ok=True, total_seconds=1.0, quality=0.5)
        applied: bool = self._report(request, timeout=SECONDS).applied
        return applied


@contextlib.contextmanager
def device(address: str) -> Iterator[Device]:
    with grpc.insecure_channel(address) as channel:
        yield Device(channel)


def test_a_signal_drains_and_exits_with_0(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with serving(tmp_path / "c.db") as (process, address), device(address) as client:
            client.decide("r")
            process.send_signal(number)
            assert process.wait(SECONDS) == 0
            assert process.stdout is not None
            assert process.stdout.read() == ""


def test_the_operator_sees_nodes_arms_and_decisions(tmp_path: Path) -> None:
    with serving(tmp_path / "c.db") as (_, address), device(address) as client:
        decision_id = client.decide("my-request")
        at = ("--address", address)
        assert json.loads(cli("nodes", "--json", *at).stdout) == []
        (arm,) = json.loads(cli("arms", "--json", *at).stdout)
        (decision,) = json.loads(cli("decisions", "--json", *at).stdout)
        assert (arm["pulls"], arm["pending"]) == (1, 1)
        assert (decision["decision_id"], decision["arm"]) == (decision_id, arm["arm"])
        assert decision_id in cli("decisions", *at).stdout
        told = cli("explain", "my-request", *at).stdout
        assert told.startswith(f"decision {decision_id} for request my-request\n")
        explained = json.loads(cli("explain", decision_id, "--json", *at).stdout)
        assert len(explained["features"]) == len(explained["context"])
        assert "no decision or request nope" in refused(cli("explain", "nope", *at), 2)


def test_the_address_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "c.db") as (_, address):
        monkeypatch.setenv("BATON_COORDINATOR", address)
        assert cli("arms", "--json").stdout == "[]\n"


def test_nobody_listening_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert "no answer" in refused(cli("nodes", "--address", f"127.0.0.1:{port}"), 3)


def test_a_peer_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        refused(cli("arms", "--address", f"127.0.0.1:{port}"), 3)


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path / "c.db") as (_, address):
        port = address.rpartition(":")[2]
        result = cli("serve", "--port", port, "--db", str(tmp_path / "other.db"))
        assert f"127.0.0.1:{port}" in refused(result, 3)


def test_a_database_in_use_or_damaged_is_one_line(tmp_path: Path) -> None:
    db = tmp_path / "c.db"
    with serving(db):
        assert "in use" in refused(cli("serve", "--port", "0", "--db", str(db)), 3)
    damaged = tmp_path / "damaged.db"
    damaged.write_text("not a database" * 1000)
    assert "damaged" in refused(cli("serve", "--port", "0", "--db", str(damaged)), 5)


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--host", "0.0.0.0", "--port", "0"),
        ("serve", "--port", "70000"),
        ("serve", "--port", "many"),
        ("serve", "--exploration", "2"),
        ("serve", "--bogus"),
        ("nodes", "--address", "nowhere"),
        ("decisions", "--limit", "0"),
        ("explain",),
        ("bogus",),
    ],
)
def test_wrong_usage_is_one_line_and_2(arguments: tuple[str, ...]) -> None:
    refused(cli(*arguments), 2)


def test_a_setting_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_COORDINATOR_ALPHA", "nonsense")
    line = refused(cli("serve", "--port", "0"), 2)
    assert "alpha" in line
    assert "environment" in line
