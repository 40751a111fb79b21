"""What the operator's commands ask a running coordinator, as rows and records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from baton.common.config import load_settings
from baton.common.explanation import DecisionRecord
from baton.common.plain import plain
from baton.common.rpc import deciding
from baton.common.rpc.access import AdminSettings
from baton.common.rpc.peer import Peer
from baton.common.rpc.status import parsed
from baton.coordinator import wire
from baton.coordinator.explain import explain
from baton.coordinator.values import NodeView
from baton.v1.coordinator_pb2_grpc import AdminStub

T = TypeVar("T")
Row = dict[str, Any]

#: The coordinator answers the operator's questions in milliseconds or not at all.
CALL_SECONDS = 3.0


def nodes(address: str) -> list[Row]:
    """The edges that have joined. Raises Unreachable without an answer, as all of these do."""
    request = wire.nodes_request()
    answer = _ask(address, lambda admin: admin.ListNodes(request, timeout=CALL_SECONDS))
    return [_node_row(wire.node_from_proto(message)) for message in answer.nodes]


def arms(address: str) -> list[Row]:
    """The arms that were pulled, with what they earned."""
    request = wire.arms_request()
    answer = _ask(address, lambda admin: admin.ListArms(request, timeout=CALL_SECONDS))
    return [plain(wire.stats_from_proto(message)) for message in answer.arms]


def decisions(address: str, limit: int) -> list[Row]:
    """The newest decisions, newest first."""
    request = wire.decisions_request(limit)
    answer = _ask(address, lambda admin: admin.ListDecisions(request, timeout=CALL_SECONDS))
    return [_decision_row(deciding.record_from_proto(message)) for message in answer.decisions]


def explanation(address: str, key: str) -> tuple[Row, list[str]]:
    """A decision with all its fields, and told in lines. Raises UnknownName."""
    request = deciding.explain_request(key)
    answer = _ask(address, lambda admin: admin.Explain(request, timeout=CALL_SECONDS))
    record = deciding.explanation_from_proto(answer)
    return plain(record), list(explain(record))


def _ask(address: str, call: Callable[[AdminStub], Awaitable[T]]) -> T:
    """One call to the operator's service. Raises the error that the coordinator answered."""
    access = load_settings(AdminSettings, "admin", {})[0].access()

    peer = Peer("a coordinator", address, access)

    async def ask() -> T:
        async with peer.channel(CALL_SECONDS) as channel:
            return parsed(await call(AdminStub(channel)), str(peer))

    return asyncio.run(ask())


def _node_row(node: NodeView) -> Row:
    row = plain(node.registration) | plain(node.load)
    del row["load"]
    return row | {"state": node.state, "seconds_since_heartbeat": node.seconds_since_heartbeat}


def _decision_row(record: DecisionRecord) -> Row:
    row = plain(record)
    for absent in ("scores", "context", "features", "rejected"):  # explain has them
        del row[absent]
    return row
