"""Composition of an edge node: the one place where its parts meet."""

from __future__ import annotations

import asyncio
import contextlib

import grpc.aio
import torch

from baton.v1 import edge_pb2, edge_pb2_grpc
from common.families.loader import Family, load_family
from common.families.local import warm_up
from common.rpc.channel import bind, make_server
from common.rpc.serving import Health, check_exposure, serve_until_signal
from edge_server.engine.engine import Engine, Limits
from edge_server.membership import Identity, Membership, Occupancy
from edge_server.registry import Registry
from edge_server.servicer import EdgeServicer
from edge_server.settings import EdgeSettings


async def serve(settings: EdgeSettings) -> None:
    """Load the family, listen, join the coordinator, and serve until a signal.

    Raises BatonError for a bad setting, damaged weights or a port in use.
    """
    check_exposure(settings.host, settings.insecure)
    server = make_server()
    port = bind(server, settings.host, settings.port)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    family = load_family(settings.family, settings.member_list)
    warm_up(family)
    engine = Engine(family, settings.node_id, Limits(settings.max_active, settings.max_rows))
    registry = Registry(engine, settings.capacity, settings.result_ttl, settings.linger)
    servicer = EdgeServicer(family, registry, settings)
    edge_pb2_grpc.add_EdgeServicer_to_server(servicer, server)
    address = settings.advertise or f"{settings.host}:{port}"
    membership = _membership(settings, family, registry, address)
    engine.start()
    try:
        await _run(server, membership, registry, settings, f"{settings.host}:{port}")
    finally:
        await asyncio.to_thread(engine.stop)


async def _run(
    server: grpc.aio.Server,
    membership: Membership | None,
    registry: Registry,
    settings: EdgeSettings,
    address: str,
) -> None:
    joining = asyncio.ensure_future(membership.run()) if membership else None

    async def drain() -> None:
        registry.draining = True
        if joining is not None and membership is not None:
            joining.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await joining
            await membership.leave()
        await registry.wait_idle(settings.drain_grace)

    health = Health(server, [edge_pb2.DESCRIPTOR.services_by_name["Edge"].full_name])
    await serve_until_signal(server, health, f"baton-edge listening on {address}", drain)


def _membership(
    settings: EdgeSettings, family: Family, registry: Registry, address: str
) -> Membership | None:
    if not settings.coordinator:
        return None
    identity = Identity(settings.node_id, address, family.name, family.members, family.fingerprint)

    def occupancy() -> Occupancy:
        unfinished = registry.unfinished
        active = min(unfinished, settings.max_active)
        return Occupancy(active, unfinished - active, settings.capacity)

    return Membership(settings.coordinator, identity, occupancy)
