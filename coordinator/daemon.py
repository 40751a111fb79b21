"""The coordinator's composition: everything is built here, and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from baton.common.errors import BatonError
from baton.common.interrupts import stop_signals
from baton.common.naming import is_loopback, joined
from baton.common.request import Preference
from baton.common.rpc.access import Guard, ending_soon
from baton.common.rpc.channel import CONTROL_BYTES, bind, make_server
from baton.common.rpc.serving import Health, check_exposure
from baton.common.rpc.ticket_keys import kept_private_key, read_private_key
from baton.common.rpc.tickets import Signer
from baton.common.streams import announce
from baton.coordinator.bandit.context import DIMENSION
from baton.coordinator.bandit.linucb import LinUCB
from baton.coordinator.bandit.prior import static_prior
from baton.coordinator.bandit.reward import RewardModel
from baton.coordinator.decider import Clocks, Decider, Policy
from baton.coordinator.fleet import Fleet
from baton.coordinator.known import Known, built_in_families
from baton.coordinator.servicer import AdminServicer, CoordinatorServicer
from baton.coordinator.settings import IN_MEMORY, Settings
from baton.coordinator.store.base import Store
from baton.coordinator.store.sqlite import SqliteStore
from baton.coordinator.store.thread import StoreThread
from baton.coordinator.tickets import Issuer
from baton.v1 import coordinator_pb2, coordinator_pb2_grpc

_log = logging.getLogger(__name__)
_SERVICES = [service.full_name for service in coordinator_pb2.DESCRIPTOR.services_by_name.values()]


def build_decider(settings: Settings, fleet: Fleet, store: StoreThread, clocks: Clocks) -> Decider:
    """The decider that the settings describe, not yet restored."""
    weights: dict[Preference, float] = {
        "quality": settings.weight_quality,
        "balanced": settings.weight_balanced,
        "speed": settings.weight_speed,
    }
    families = built_in_families()
    prior = static_prior(weights, Known(families, fleet.census).preferences)
    bandit = LinUCB(DIMENSION, settings.alpha, settings.ridge_lambda, prior)
    policy = Policy(
        RewardModel(weights, settings.latency_half_seconds),
        settings.exploration,
        settings.decision_expiry_seconds,
        np.random.default_rng(settings.seed),
        families,
    )
    return Decider(bandit, policy, fleet, store, clocks)


@dataclass(frozen=True)
class Secrets:
    """Who is let in, and the key that signs tickets."""

    guard: Guard
    ticket_key: Ed25519PrivateKey

    @classmethod
    def read(cls, settings: Settings, kept: Path | None) -> Secrets:
        """``kept``: the file of a key that is made. Raises InvalidRequest for one of no use."""
        if settings.ticket_key is not None:
            key = read_private_key(settings.ticket_key)
        elif kept is not None:
            key = kept_private_key(kept)
        else:
            key = Ed25519PrivateKey.generate()
        return cls(settings.guard(), key)


def _key_file(store: SqliteStore, db: Path) -> Path | None:
    """Beside the database, under its whole name; None for one that ends with the process.

    A database that is older may have a key that was named after its stem.
    """
    if db == IN_MEMORY:
        return None
    own = Path(os.path.realpath(db))
    path, older = own.with_name(f"{own.name}.ticket-key"), db.with_suffix(".ticket-key")
    if store.unmarked and older.exists() and not path.exists():
        with contextlib.suppress(OSError):
            older.rename(path)
    return path


class Node:
    """A coordinator that listens. ``address`` is where."""

    def __init__(self, settings: Settings, store: Store, clocks: Clocks, secrets: Secrets) -> None:
        self._settings = settings
        self._secrets = secrets
        self._store = StoreThread(store)
        self.fleet = Fleet(settings.lease_seconds, clocks.monotonic, is_loopback(settings.host))
        self.decider = build_decider(settings, self.fleet, self._store, clocks)
        self._server = make_server(secrets.guard, most_bytes=CONTROL_BYTES)
        self._health = Health(self._server, _SERVICES)
        self._issuer = Issuer(Signer(secrets.ticket_key), settings.ticket_seconds, clocks.unix)
        self._sweeper: asyncio.Task[None] | None = None
        self.address = ""

    async def start(self) -> None:
        """Restore what was learned, then listen. Raises as `bind` does."""
        host = self._settings.host
        port = bind(self._server, host, self._settings.port, self._secrets.guard.tls)
        self.address = joined(host, port)
        restored = await self.decider.restore()
        _log.info("restored %d rewards from %s", restored.rewards, self._settings.db)
        if restored.others:
            _log.warning("%s", restored.complaint)
        coordinator_pb2_grpc.add_CoordinatorServicer_to_server(
            CoordinatorServicer(self.fleet, self.decider, self._issuer), self._server
        )
        coordinator_pb2_grpc.add_AdminServicer_to_server(
            AdminServicer(self.fleet, self.decider), self._server
        )
        await self._server.start()
        await self._health.serving()
        self._sweeper = asyncio.create_task(self._sweep())

    async def drain(self) -> None:
        """Take nothing new, answer what was asked. Health says so first."""
        await self._health.draining()
        await self._server.stop(self._settings.grace_seconds)

    async def stop(self) -> None:
        """Drain, and keep what was learned."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        await self.drain()
        await self.decider.close()
        await self._store.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            self.fleet.sweep()
            try:
                expired = await self.decider.expire()
            except BatonError as error:
                _log.error("expiry has to wait: %s", error)
                continue
            if expired:
                _log.info("%d decisions were never reported and count as failed", expired)


@contextlib.asynccontextmanager
async def running(
    settings: Settings, store: Store | None = None, clocks: Clocks | None = None
) -> AsyncIterator[Node]:
    """A coordinator that listens within the block; its database is ``settings.db``.

    Raises InvalidRequest, Unreachable, Incompatible or ExecutionFailed, each saying what to do.
    """
    check_exposure(settings.host, settings.insecure, settings.guard())
    for line in ending_soon(settings):
        _log.warning("%s", line)
    kept = None
    if store is None:
        store = own = SqliteStore(settings.db)
        kept = _key_file(own, settings.db)
    with contextlib.ExitStack() as failing:
        failing.callback(store.close)
        secrets = Secrets.read(settings, kept)
        node = Node(settings, store, clocks or Clocks(time.monotonic, time.time), secrets)
        failing.pop_all()  # from here on the node closes it
    try:
        await node.start()
        yield node
    finally:
        await node.stop()


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; one line on stdout says when and where it listens."""
    async with running(settings) as node:
        with stop_signals() as stopped:
            announce(f"baton-coordinator listening on {node.address}")
            await stopped.wait()
        _log.info("draining")
