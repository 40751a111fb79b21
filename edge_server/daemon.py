"""Composition of an edge node: the one place where its parts meet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from baton.common.build import this_build
from baton.common.checks import MAX_FAMILY_MEMBERS
from baton.common.errors import BatonError, Draining
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.local import warm_up
from baton.common.interrupts import stop_signals
from baton.common.naming import joined
from baton.common.node import Registration
from baton.common.rpc.access import ending_soon
from baton.common.rpc.channel import Keepalive, bind, make_server
from baton.common.rpc.serving import Health
from baton.common.streams import announce
from baton.edge_server.checks import Secrets, check_node
from baton.edge_server.engine.engine import Engine
from baton.edge_server.engine.scheduler import Limits
from baton.edge_server.engine.steering import Steering
from baton.edge_server.membership import Link, Membership
from baton.edge_server.name import own_name
from baton.edge_server.profile_report import serving_line
from baton.edge_server.profiled import profile_for, with_rows
from baton.edge_server.profiling import seeds
from baton.edge_server.requests.registry import Bounds, Occupancy, Registry
from baton.edge_server.requests.result_cache import Retention
from baton.edge_server.scheduling.controller import ControllerSettings
from baton.edge_server.scheduling.profile import LaneCount, Profile
from baton.edge_server.servicer import EdgeServicer
from baton.edge_server.settings import EdgeSettings
from baton.edge_server.tickets import Entrance, TicketGate
from baton.edge_server.wire import About, largest_request
from baton.v1 import edge_pb2, edge_pb2_grpc

if TYPE_CHECKING:  # their library is needed by whoever wants metrics alone
    from baton.edge_server.endpoint import Endpoint
    from baton.edge_server.metrics import Metrics

_log = logging.getLogger(__name__)
_FAREWELL_SECONDS = 0.5  # for what the streams are still to be told
_SERVICES = [service.full_name for service in edge_pb2.DESCRIPTOR.services_by_name.values()]


class Node:
    """An edge that listens. ``address`` is where."""

    def __init__(
        self,
        settings: EdgeSettings,
        family: LoadedFamily,
        secrets: Secrets,
        profile: Profile | None = None,
    ) -> None:
        self._settings = settings
        self._family = family
        self._secrets = secrets
        self._profile = profile
        self._server = make_server(
            secrets.guard, _keepalive(settings), largest_request(family), settings.reader_patience
        )
        self._health = Health(self._server, _SERVICES)
        self._metrics = _metrics(settings, family)
        self._endpoint: Endpoint | None = None
        self._engine = Engine(
            family,
            settings.node_id,
            limits_of(settings),
            settings.threads or torch.get_num_threads(),
            steering_of(settings, profile),
            self._metrics,
        )
        self.registry = Registry(self._engine, _bounds(settings), self._metrics)
        entrance = Entrance(settings.node_id, settings.tickets, secrets.ticket_keys)
        self._gate = TicketGate(entrance, family.spec, ratios=family.ratios)
        self._membership: Membership | None = None
        self._joining: asyncio.Task[None] | None = None
        self._failing: asyncio.Task[None] | None = None
        self.address = ""

    def bind(self) -> None:
        """Take the ports. Raises InvalidRequest or Unreachable if one cannot be bound."""
        settings = self._settings
        port = bind(self._server, settings.host, settings.port, self._secrets.guard.tls)
        self.address = joined(settings.host, port)
        if self._metrics is not None:
            self._endpoint = _endpoint(settings, self._metrics)

    @property
    def metrics_address(self) -> str:
        """Where its metrics are read; empty if nowhere."""
        return "" if self._endpoint is None else self._endpoint.address

    async def start(self) -> None:
        """Serve, and join the coordinator if there is one."""
        about = About(self._family, self._settings.node_id, self._profile, self._engine.course)
        servicer = EdgeServicer(about, self.registry, self._gate)
        edge_pb2_grpc.add_EdgeServicer_to_server(servicer, self._server)
        loop = asyncio.get_running_loop()

        def on_crash(error: BatonError) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self._fail, error)

        self._engine.start(on_crash)
        await self._server.start()
        await self._health.serving()
        if self._endpoint is not None:
            self._endpoint.start()
            _log.info("metrics at http://%s/metrics", self._endpoint.address)
        if self._settings.coordinator:
            link = Link(self._settings.coordinator, self._secrets.access, self._gate.trust)
            self._membership = Membership(link, self._registration(), self._occupancy)
            self._joining = asyncio.create_task(self._membership.run())

    async def drain(self) -> None:
        """Leave the coordinator, take nothing new, and let what runs end, or go on elsewhere."""
        begun = time.monotonic()
        await self._leave()
        self.registry.draining = True
        await self._health.draining()
        if not await self.registry.drain(begun + self._settings.drain_grace - time.monotonic()):
            _log.warning("%d requests did not end in time", self.registry.unfinished)

    async def _leave(self) -> None:
        """First of all: whom the coordinator sends here meanwhile would only be refused."""
        if self._joining is not None and self._membership is not None:
            self._joining.cancel()
            await asyncio.wait([self._joining])
            await self._membership.leave()

    async def stop(self) -> None:
        """End at once: what still runs is refused as Draining."""
        for task in (self._joining, self._failing):
            if task is not None:
                task.cancel()
        self.registry.close(Draining("the edge is shutting down; use another"))
        await asyncio.to_thread(self._engine.stop)
        await self._server.stop(_FAREWELL_SECONDS)
        if self._endpoint is not None:
            await asyncio.to_thread(self._endpoint.close)

    def _fail(self, error: BatonError) -> None:
        """The model thread is gone: end everything and serve no more, but stay to say so."""
        self.registry.close(error)
        self._failing = asyncio.create_task(self.drain())

    def _registration(self) -> Registration:
        family = self._family
        return Registration(
            node_id=self._settings.node_id,
            address=self._settings.advertise or self.address,
            family=family.name,
            members=tuple(family.members),
            fingerprint=family.fingerprint,
            family_members=tuple(family.spec.members)[:MAX_FAMILY_MEMBERS],
            secret=self._secrets.own,
            latent_space=family.spec.latent_space.id,
            arms=family.spec.own_arms,
            partial_members=family.spec.partial_members[:MAX_FAMILY_MEMBERS],
        )

    def _occupancy(self) -> Occupancy:
        return self.registry.occupancy()


def limits_of(settings: EdgeSettings) -> Limits:
    """Of the engine."""
    kept, activations = settings.cache_mib << 20, settings.activation_mib << 20
    return Limits(settings.max_active, settings.rows_limit, kept, activations)


def steering_of(settings: EdgeSettings, profile: Profile | None) -> Steering:
    """Of the engine's rounds: as measured ahead, where they were."""
    streams = profile is not None and profile.conditions.device.startswith("cuda")
    lanes: LaneCount = 2 if settings.decode_lane or streams else 1
    known = Steering(
        controlled=settings.adapt,
        control=ControllerSettings(settings.max_active, settings.skip_floor),
        decode_lane=settings.decode_lane,
    )
    if profile is None:
        return known
    return replace(
        known,
        latency=seeds(profile),
        pieces={of.size: of.pieces for of in profile.decoders},
        find=lambda pace, chunks: profile.latencies(pace.member, pace.size, chunks, lanes),
        chunks=lambda size: profile.chunks(size, lanes),
    )


def _metrics(settings: EdgeSettings, family: LoadedFamily) -> Metrics | None:
    """Without them, an edge does without their library."""
    if settings.metrics_port is None:
        return None
    from baton.edge_server.metrics import Metrics

    return Metrics(family.members)


def _endpoint(settings: EdgeSettings, metrics: Metrics) -> Endpoint:
    from baton.edge_server.endpoint import Endpoint

    return Endpoint(settings.metrics_host, settings.metrics_port or 0, metrics.registry)


def _bounds(settings: EdgeSettings) -> Bounds:
    retention = Retention(settings.result_ttl, settings.result_count, settings.result_bytes)
    return Bounds(settings.capacity, settings.linger, retention=retention)


def _keepalive(settings: EdgeSettings) -> Keepalive:
    return Keepalive(
        settings.keepalive_time, settings.keepalive_timeout, settings.keepalive_min_interval
    )


@contextlib.asynccontextmanager
async def running(
    settings: EdgeSettings,
    family: LoadedFamily | None = None,
    profile: Profile | None = None,
) -> AsyncIterator[Node]:
    """An edge that listens within the block, and is stopped without a drain after it.

    family: one that is loaded already, with its profile if there is one. Raises BatonError for a
    bad setting, damaged weights or a port in use.
    """
    secrets = check_node(settings)
    for line in ending_soon(settings):
        _log.warning("%s", line)
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(own_name(settings.names_folder, settings.wanted_name))
        settings = settings.model_copy(update={"node_id": name.node_id})
        secrets = replace(secrets, own=name.secret)
        if family is None:
            threads = stack.enter_context(_spared())
            settings = settings.model_copy(update={"threads": settings.threads or threads})
        loaded = family or load_family(settings.family, settings.member_list)
        if family is None:
            warm_up(loaded)
            profile = profile_for(settings, loaded)
            this_build()  # asked of the system once, and not while a request waits
        settings = with_rows(settings, profile)
        node = Node(settings, loaded, secrets, profile)
        node.bind()
        await node.start()
        steering, size = steering_of(settings, profile), loaded.spec.default_size
        skips = steering.controlled and settings.skip_floor < 1
        skip_after = settings.skip_floor if skips else None
        _log.info("%s", serving_line(settings.rows_limit, size, profile, skip_after))
        try:
            yield node
        finally:
            await node.stop()


@contextlib.contextmanager
def _spared() -> Iterator[int]:
    """Keep torch to one thread here; yields how many it would have used.

    OpenMP keeps a team for every thread that has used it. Teams that together outnumber the cores
    sleep at each barrier, and the model runs at less than half its speed: it alone may have one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


async def serve(settings: EdgeSettings) -> None:
    """Run until SIGTERM or SIGINT; one line on stdout says when and where it listens."""
    async with running(settings) as node:
        with stop_signals() as stopped:
            announce(f"baton-edge listening on {node.address}")
            await stopped.wait()
        _log.info("draining")
        await node.drain()
