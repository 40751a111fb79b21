"""The table of roles and methods."""

from __future__ import annotations

from baton.common.rpc.auth import ANONYMOUS, PERMITTED, caller
from baton.v1 import coordinator_pb2, edge_pb2


def test_every_method_of_every_service_has_its_roles_and_nothing_else_has() -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in (coordinator_pb2, edge_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert set(PERMITTED) == methods
    assert all(roles and "anonymous" not in roles for roles in PERMITTED.values())


def test_outside_a_call_nobody_calls() -> None:
    assert caller() == ANONYMOUS
