"""A store on a thread of its own, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from baton.coordinator.store.base import Store, Write

T = TypeVar("T")

#: Writes that one commit may carry.
MAX_BATCH = 256


class StoreThread:
    """Runs a `Store` on one thread.

    Writes that wait together share one commit: syncing the disk takes milliseconds for any number.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._waiting: list[tuple[Write, asyncio.Future[bool]]] = []
        self._flusher: asyncio.Task[None] | None = None

    async def write(self, item: Write) -> bool:
        """Write durably; False if nothing changed. Raises what `Store.write` raises."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return await done

    async def run(self, work: Callable[[Store], T]) -> T:
        """Do ``work`` with the store on its thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, work, self._store)

    async def close(self) -> None:
        """Finish what waits, then close the store."""
        if self._flusher is not None:
            await self._flusher
        await self.run(lambda store: store.close())
        self._executor.shutdown()

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._commit(batch)
        finally:
            self._flusher = None

    async def _commit(self, batch: list[tuple[Write, asyncio.Future[bool]]]) -> None:
        items = [item for item, _ in batch]
        try:
            changed = await self.run(lambda store: store.write(items))
        except Exception as error:  # every waiting writer hears of it
            for _, done in batch:
                if not done.cancelled():
                    done.set_exception(error)
            return
        for (_, done), flag in zip(batch, changed, strict=True):
            if not done.cancelled():
                done.set_result(flag)
