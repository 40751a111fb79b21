from __future__ import annotations

import pytest

from baton.common.arm import Arm
from baton.common.errors import InvalidRequest
from baton.common.node import NodeLoad, Registration
from baton.common.rpc import joining
from baton.coordinator import wire
from baton.coordinator.values import ArmStats, NodeView
from baton.v1 import coordinator_pb2 as pb


def test_a_node_and_its_statistics_survive_the_wire() -> None:
    load = NodeLoad(0.5, 0.25, 1, 2, 3)
    node = NodeView(Registration("e", "h:1", "scenes", ("a", "b"), "f"), load, "draining", 1.5)
    assert wire.node_from_proto(wire.node_to_proto(node)) == node
    stats = ArmStats("scenes", Arm.edge("large"), 3, 2, 0.5, 1)
    assert wire.stats_from_proto(wire.stats_to_proto(stats)) == stats


@pytest.mark.parametrize(
    "load", [pb.NodeLoad(cpu=2.0), pb.NodeLoad(memory=float("nan")), pb.NodeLoad(queued=2**31)]
)
def test_a_bad_load_is_refused(load: pb.NodeLoad) -> None:
    with pytest.raises(InvalidRequest):
        joining.load_from_proto(load)


def test_what_an_operator_is_told_can_be_printed() -> None:
    stats = wire.stats_from_proto(pb.ArmStats(arm="edge/large", family="a\nb"))
    assert (str(stats.arm), stats.family) == ("edge/large", "a b")
    with pytest.raises(InvalidRequest):
        wire.stats_from_proto(pb.ArmStats(arm="edge/\x1b[2J", family="scenes"))
    with pytest.raises(InvalidRequest):
        wire.node_from_proto(pb.Node(node_id="\x1b[2J", address="h:1", members=["m"]))
