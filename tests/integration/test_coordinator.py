"""A coordinator in this process, asked over real gRPC, with a real database."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.common.arm import Arm
from baton.common.errors import InvalidRequest, Unreachable
from baton.common.explanation import DecisionRecord
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import open_channel
from baton.coordinator.daemon import Node, running
from baton.coordinator.decider import Clocks
from baton.coordinator.settings import Settings
from baton.coordinator.store.base import NewDecision, Resolution, Write
from baton.coordinator.store.memory import MemoryStore
from baton.coordinator.store.sqlite import SqliteStore
from baton.v1 import coordinator_pb2 as pb
from baton.v1.coordinator_pb2_grpc import AdminStub, CoordinatorStub


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Client:
    def __init__(self, node: Node, channel: grpc.aio.Channel, clock: Clock) -> None:
        self.node = node
        self.clock = clock
        self.coordinator = CoordinatorStub(channel)
        self.admin = AdminStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    async def join(self, node_id: str = "e1", **fields: object) -> pb.RegisterResponse:
        values: dict[str, object] = {
            "protocol_version": PROTOCOL_VERSION,
            "node_id": node_id,
            "address": "127.0.0.1:7701",
            "family": "scenes",
            "members": ["large", "small"],
            "fingerprint": "f",
            "load": pb.NodeLoad(capacity=4),
        }
        return await self.coordinator.Register(pb.RegisterRequest(**(values | fields)))  # type: ignore[arg-type]

    async def decide(self, request_id: str = "r1", **fields: object) -> pb.DecideResponse:
        values: dict[str, object] = {
            "protocol_version": PROTOCOL_VERSION,
            "request_id": request_id,
            "preference": pb.PREFERENCE_QUALITY,
            "family": "scenes",
            "fingerprint": "f",
            "members": ["small"],
            "steps": 20,
            "rtt_seconds": 0.01,
        }
        return await self.coordinator.Decide(pb.DecideRequest(**(values | fields)))  # type: ignore[arg-type]

    async def report(self, decision_id: str, **fields: object) -> bool:
        values: dict[str, object] = {"ok": True, "total_seconds": 1.0} | fields
        request = pb.ReportRequest(decision_id=decision_id, **values)  # type: ignore[arg-type]
        return (await self.coordinator.Report(request)).applied


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        port=0, db=tmp_path / "c.db", seed=0, exploration=0.0, lease_seconds=10.0, grace_seconds=0.0
    )


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Client]:
    clock = Clock()
    async with (
        running(settings, clocks=Clocks(clock, clock)) as node,
        open_channel(node.address) as channel,
    ):
        yield Client(node, channel, clock)


def code(caught: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> str:
    return caught.value.code().name


async def test_an_edge_joins_serves_and_leaves(client: Client) -> None:
    assert (await client.join()).lease_seconds == 10.0
    answer = await client.decide()
    assert [edge.node_id for edge in answer.edges] == ["e1"]
    await client.coordinator.Deregister(pb.DeregisterRequest(node_id="e1"))
    assert (await client.decide("r2")).arm == "device/small"


async def test_a_lease_ends_and_the_edge_comes_back(client: Client) -> None:
    beat = pb.HeartbeatRequest(node_id="e1", load=pb.NodeLoad(active=1, capacity=4))
    assert not (await client.coordinator.Heartbeat(beat)).known
    await client.join()
    assert (await client.coordinator.Heartbeat(beat)).known
    client.clock.now += 11
    assert (await client.decide()).arm == "device/small"
    (node,) = (await client.admin.ListNodes(pb.ListNodesRequest())).nodes
    assert (node.state, node.load.active, node.seconds_since_heartbeat) == ("lost", 1, 11)
    assert not (await client.coordinator.Heartbeat(beat)).known
    await client.join()
    assert (await client.decide("r2")).edges


async def test_a_report_counts_once_and_an_unknown_one_not_at_all(client: Client) -> None:
    answer = await client.decide()
    assert await client.report(answer.decision_id, quality=0.9)
    assert not await client.report(answer.decision_id, quality=0.9)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.report("unknown")
    assert code(caught) == "NOT_FOUND"
    (stats,) = (await client.admin.ListArms(pb.ListArmsRequest())).arms
    assert (stats.family, stats.arm, stats.pulls, stats.rewards) == ("scenes", "device/small", 1, 1)


async def test_explain_tells_everything_by_either_id(client: Client) -> None:
    await client.join()
    await client.join("e2", members=["other"])
    await client.coordinator.Heartbeat(pb.HeartbeatRequest(node_id="e2", draining=True))
    answer = await client.decide("my-request")
    await client.report(answer.decision_id, ok=False, error="UNAVAILABLE")
    for key in (answer.decision_id, "my-request"):
        told = await client.admin.Explain(pb.ExplainRequest(id=key))
        assert len(told.features) == len(told.decision.context)
        assert told.decision.arm == answer.arm
        assert told.decision.reward == 0.0
        assert told.decision.report.error == "UNAVAILABLE"
        assert {score.arm for score in told.decision.scores} >= {answer.arm, "edge/other"}
        assert [edge.node_id for edge in told.rejected] == ["e2"]


async def test_what_edges_were_tried_is_kept_and_told_to_the_device_too(client: Client) -> None:
    answer = await client.decide("my-request")
    tried = [
        pb.EdgeAttempt(node_id="e1", address="h:1", stop=5, error="UNAVAILABLE", reason="gone"),
        pb.EdgeAttempt(node_id="e2", address="h:2", start=5, stop=8),
    ]
    assert await client.report(answer.decision_id, attempts=tried)
    request = pb.ExplainRequest(id="my-request")
    told = await client.coordinator.Explain(request)
    assert list(told.decision.report.attempts) == tried
    assert told == await client.admin.Explain(request)


async def test_a_withdrawn_decision_ends_once_and_teaches_nothing(client: Client) -> None:
    answer = await client.decide()
    assert await client.report(answer.decision_id, ok=False, error="CANCELLED")
    assert not await client.report(answer.decision_id, ok=False, error="CANCELLED")
    assert not await client.report(answer.decision_id)
    told = await client.admin.Explain(pb.ExplainRequest(id=answer.decision_id))
    assert told.decision.state == "withdrawn"
    assert not told.decision.HasField("reward")
    assert not (await client.admin.ListArms(pb.ListArmsRequest())).arms


async def test_decisions_are_listed_newest_first_and_light(client: Client) -> None:
    for number in range(3):
        await client.decide(f"r{number}")
    request = pb.ListDecisionsRequest(limit=2)
    listed = (await client.admin.ListDecisions(request)).decisions
    assert [item.request_id for item in listed] == ["r2", "r1"]
    assert not any(item.scores or item.context for item in listed)
    assert len((await client.admin.ListDecisions(pb.ListDecisionsRequest())).decisions) == 3


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"protocol_version": 99}, "FAILED_PRECONDITION"),
        ({"request_id": ""}, "INVALID_ARGUMENT"),
        ({"request_id": "x" * 1000}, "INVALID_ARGUMENT"),
        ({"steps": 0}, "INVALID_ARGUMENT"),
        ({"steps": 2**32 - 1}, "INVALID_ARGUMENT"),
        ({"rtt_seconds": float("nan")}, "INVALID_ARGUMENT"),
        ({"device_cpu": -1.0}, "INVALID_ARGUMENT"),
        ({"members": ["x"] * 50_000}, "INVALID_ARGUMENT"),
        ({"members": [str(number) for number in range(10_000)]}, "INVALID_ARGUMENT"),
        ({"preference": 9}, "INVALID_ARGUMENT"),
        ({"members": []}, "UNAVAILABLE"),
    ],
)
async def test_a_bad_question_gets_a_typed_status_and_the_node_lives(
    client: Client, fields: dict[str, object], status: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.decide(**fields)  # type: ignore[arg-type]
    assert code(caught) == status
    assert "\n" not in (caught.value.details() or "")
    assert (await client.decide("good")).arm == "device/small"


async def test_other_bad_input_gets_a_typed_status_too(client: Client) -> None:
    answer = await client.decide()
    calls = [
        client.join("bad id"),
        client.join(address="nowhere"),
        client.join(members=[]),
        client.join(load=pb.NodeLoad(cpu=float("inf"))),
        client.coordinator.Heartbeat(pb.HeartbeatRequest()),
        client.coordinator.Deregister(pb.DeregisterRequest(node_id="\x00")),
        client.report(answer.decision_id, total_seconds=float("nan")),
        client.report(answer.decision_id, quality=2.0),
        client.report(answer.decision_id, error="a red circle"),
        client.report(""),
        client.admin.ListDecisions(pb.ListDecisionsRequest(limit=10_000)),
        client.admin.Explain(pb.ExplainRequest()),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert code(caught) == "INVALID_ARGUMENT"
    assert await client.report(answer.decision_id)


class WatchedStore(MemoryStore):
    """Tells when something was resolved."""

    def __init__(self) -> None:
        super().__init__()
        self.resolved = threading.Event()

    def write(self, items: Sequence[Write]) -> list[bool]:
        changed = super().write(items)
        if any(isinstance(item, Resolution) for item in items):
            self.resolved.set()
        return changed


async def test_silent_decisions_expire_in_the_background(settings: Settings) -> None:
    quick, clock, store = (
        settings.model_copy(update={"sweep_seconds": 0.01}),
        Clock(),
        WatchedStore(),
    )
    async with (
        running(quick, store, Clocks(clock, clock)) as node,
        open_channel(node.address) as channel,
    ):
        client = Client(node, channel, clock)
        answer = await client.decide()
        clock.now += settings.decision_expiry_seconds + 1
        assert await asyncio.to_thread(store.resolved.wait, 10)
        told = await client.admin.Explain(pb.ExplainRequest(id=answer.decision_id))
        assert (told.decision.state, told.decision.reward) == ("expired", 0.0)
        assert not await client.report(answer.decision_id)


async def test_health_says_serving_and_then_drains(settings: Settings) -> None:
    patient = settings.model_copy(update={"grace_seconds": 60.0})  # until the watch is given up
    async with running(patient) as node, open_channel(node.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "baton.v1.Coordinator", "baton.v1.Admin"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest())
        seen = [(await watch.read()).status]
        stopping = asyncio.create_task(node.drain())
        seen.append((await watch.read()).status)
        assert seen == [
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        ]
        watch.cancel()
        await stopping


async def test_two_coordinators_live_in_one_process(settings: Settings, tmp_path: Path) -> None:
    other = settings.model_copy(update={"db": tmp_path / "other.db"})
    async with running(settings) as one, running(other) as two:
        assert one.address != two.address
        async with open_channel(one.address) as a, open_channel(two.address) as b:
            await Client(one, a, Clock()).decide()
            admin = AdminStub(b)
            assert not (await admin.ListArms(pb.ListArmsRequest())).arms


async def test_decisions_of_another_context_are_named_at_the_start(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(settings.db)
    old = DecisionRecord(
        "d", "r", 0.0, "scenes", "speed", Arm.device("small"), 1.0, False, (1.0, 0.5),
        features=("bias", "words"),
    )  # fmt: skip
    store.write([NewDecision(old), Resolution("d", "rewarded", 0.5, 1.0)])
    store.close()
    async with running(settings) as node, open_channel(node.address) as channel:
        told = await AdminStub(channel).Explain(pb.ExplainRequest(id="d"))
        assert not (await AdminStub(channel).ListArms(pb.ListArmsRequest())).arms
    assert list(told.features) == ["bias", "words"]
    (line,) = [item.getMessage() for item in caplog.records if item.levelname == "WARNING"]
    assert line == (
        "decisions of another context than this version's, which teach nothing: 1 of bias, words"
    )


async def test_a_taken_port_or_database_and_an_open_host_are_refused(
    settings: Settings, tmp_path: Path
) -> None:
    async with running(settings) as node:
        port = int(node.address.rpartition(":")[2])
        taken = settings.model_copy(update={"port": port, "db": tmp_path / "other.db"})
        for bad, error in (
            (taken, Unreachable),
            (settings, Unreachable),
            (settings.model_copy(update={"host": "0.0.0.0"}), InvalidRequest),
        ):
            with pytest.raises(error):
                async with running(bad):
                    pass


async def test_the_database_holds_what_was_answered(settings: Settings) -> None:
    clock = Clock()
    async with (
        running(settings, clocks=Clocks(clock, clock)) as node,
        open_channel(node.address) as channel,
    ):
        client = Client(node, channel, clock)
        answers = [await client.decide(f"r{number}") for number in range(5)]
        await client.report(answers[0].decision_id)
    connection = sqlite3.connect(settings.db)
    stored = dict(connection.execute("SELECT decision_id, arm FROM decisions"))
    rewards = connection.execute("SELECT decision_id, state FROM rewards").fetchall()
    connection.close()
    assert stored == {answer.decision_id: answer.arm for answer in answers}
    assert rewards == [(answers[0].decision_id, "rewarded")]
