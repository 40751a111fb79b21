"""Composition of an edge node: the one place where its parts meet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import torch

from baton.v1 import edge_pb2, edge_pb2_grpc
from common.families.loader import Family, load_family
from common.families.local import warm_up
from common.rpc.channel import bind, check_address, make_server
from common.rpc.serving import Health, check_exposure, until_signal
from edge_server.engine.engine import Engine, Limits
from edge_server.membership import Identity, Membership
from edge_server.registry import Occupancy, Registry
from edge_server.servicer import EdgeServicer
from edge_server.settings import EdgeSettings

_log = logging.getLogger(__name__)
_SERVICES = [service.full_name for service in edge_pb2.DESCRIPTOR.services_by_name.values()]


class Node:
    """An edge that listens. ``address`` is where."""

    def __init__(self, settings: EdgeSettings, family: Family) -> None:
        self._settings = settings
        self._family = family
        self._server = make_server()
        self._health = Health(self._server, _SERVICES)
        self._engine = Engine(
            family, settings.node_id, Limits(settings.max_active, settings.max_rows)
        )
        self.registry = Registry(
            self._engine, settings.capacity, settings.result_ttl, settings.linger
        )
        self._membership: Membership | None = None
        self._joining: asyncio.Task[None] | None = None
        self.address = ""

    def bind(self) -> None:
        """Take the port. Raises Unreachable if it is not to be had."""
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.address = f"{host}:{bind(self._server, host, settings.port)}"

    async def start(self) -> None:
        """Serve, and join the coordinator if there is one."""
        servicer = EdgeServicer(self._family, self.registry, self._settings)
        edge_pb2_grpc.add_EdgeServicer_to_server(servicer, self._server)
        self._engine.start()
        await self._server.start()
        await self._health.serving()
        if self._settings.coordinator:
            self._membership = Membership(
                self._settings.coordinator, self._identity(), self._occupancy
            )
            self._joining = asyncio.create_task(self._membership.run())

    async def drain(self) -> None:
        """Take nothing new, leave the coordinator, and let what runs end within the grace."""
        self.registry.draining = True
        await self._health.draining()
        if self._joining is not None and self._membership is not None:
            self._joining.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._joining
            await self._membership.leave()
        if not await self.registry.wait_idle(self._settings.drain_grace):
            _log.warning("%d requests did not end in time", self.registry.unfinished)

    async def stop(self) -> None:
        """End at once: what still runs is refused as Draining."""
        if self._joining is not None:
            self._joining.cancel()
        await asyncio.to_thread(self._engine.stop)
        await self._server.stop(1.0)

    def _identity(self) -> Identity:
        family = self._family
        return Identity(
            self._settings.node_id,
            self._settings.advertise or self.address,
            family.name,
            family.members,
            family.fingerprint,
        )

    def _occupancy(self) -> Occupancy:
        return self.registry.occupancy(self._settings.max_active)


@contextlib.asynccontextmanager
async def running(settings: EdgeSettings, family: Family | None = None) -> AsyncIterator[Node]:
    """An edge that listens within the block, and is stopped without a drain after it.

    ``family``: one that is loaded already. Raises BatonError for a bad setting, damaged weights or
    a port in use.
    """
    check_exposure(settings.host, settings.insecure)
    if settings.coordinator:
        check_address(settings.coordinator)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    loaded = family or load_family(settings.family, settings.member_list)
    node = Node(settings, loaded)
    node.bind()
    if family is None:
        warm_up(loaded)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


async def serve(settings: EdgeSettings) -> None:
    """Run until SIGTERM or SIGINT; one line on stdout says when and where it listens."""
    async with running(settings) as node:
        print(f"baton-edge listening on {node.address}", flush=True)
        await until_signal()
        _log.info("draining")
        await node.drain()
