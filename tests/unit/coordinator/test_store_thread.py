from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from baton.common.arm import Arm
from baton.common.errors import ExecutionFailed
from baton.common.explanation import DecisionRecord
from baton.coordinator.store.base import NewDecision, Write
from baton.coordinator.store.memory import MemoryStore
from baton.coordinator.store.thread import StoreThread


def new(number: int) -> NewDecision:
    return NewDecision(
        DecisionRecord(
            f"d{number}", "r", 1.0, "scenes", "speed", Arm.device("small"), 1.0, False, (1.0,)
        )
    )


class GatedStore(MemoryStore):
    """Writes only once it is let; notes its batches and its threads."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.closed = False

    def write(self, items: Sequence[Write]) -> list[bool]:
        self.entered.set()
        assert self.gate.wait(10)
        self.batches.append(len(items))
        self.threads.add(threading.get_ident())
        if any(isinstance(item, NewDecision) and item == new(99) for item in items):
            raise ExecutionFailed("disk is full")
        return super().write(items)

    def close(self) -> None:
        self.closed = True


async def started(store: GatedStore) -> tuple[StoreThread, asyncio.Task[bool]]:
    """A thread whose first write waits at the gate."""
    thread = StoreThread(store)
    first = asyncio.create_task(thread.write(new(0)))
    await asyncio.to_thread(store.entered.wait)
    return thread, first


async def test_writes_that_wait_together_share_one_commit() -> None:
    store = GatedStore()
    thread, first = await started(store)
    rest = [asyncio.create_task(thread.write(new(number))) for number in (1, 2, 2, 3)]
    await asyncio.sleep(0)
    store.gate.set()
    assert await asyncio.gather(first, *rest) == [True, True, True, False, True]
    assert store.batches == [1, 4]
    assert len(store.threads) == 1
    assert threading.get_ident() not in store.threads
    await thread.close()


async def test_the_loop_goes_on_while_the_disk_is_slow() -> None:
    store = GatedStore()
    thread, first = await started(store)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not first.done()
    store.gate.set()
    assert await first
    await thread.close()


async def test_an_error_reaches_everybody_in_the_batch_and_nobody_after() -> None:
    store = GatedStore()
    thread, first = await started(store)
    doomed = [asyncio.create_task(thread.write(new(number))) for number in (1, 99)]
    await asyncio.sleep(0)
    store.gate.set()
    assert await first
    for task in doomed:
        with pytest.raises(ExecutionFailed):
            await task
    assert await thread.write(new(1))
    await thread.close()


async def test_closing_finishes_what_waits() -> None:
    store = GatedStore()
    thread, first = await started(store)
    store.gate.set()
    await thread.close()
    assert store.closed
    assert await first
    assert store.find("d0") is not None


async def test_a_writer_that_gave_up_does_not_disturb_the_others() -> None:
    store = GatedStore()
    thread, first = await started(store)
    second = asyncio.create_task(thread.write(new(1)))
    third = asyncio.create_task(thread.write(new(2)))
    await asyncio.sleep(0)
    second.cancel()
    store.gate.set()
    assert await first
    assert await third
    assert store.find("d1") is not None
    await thread.close()
