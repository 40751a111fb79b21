"""Several pictures at once: each has its own time, and none is lost to another's failure."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from baton.common.errors import Cancelled, Overloaded
from baton.common.families.loaded import LoadedFamily
from baton.common.rpc.access import OPEN
from baton.device_client.events import Decided, EdgeLost, Event, Finished, Stepped
from baton.device_client.offline_tickets import OfflineTickets
from baton.device_client.result import Result
from baton.device_client.sdk import Client
from baton.device_client.session import Device, GenerationRequest, PictureSession
from baton.device_client.settings import DeviceSettings
from tests.support.engines import Gate, WatchedFamily
from tests.support.nodes import drawn_here, edge, until
from tests.support.tasks import plan, task

PROMPT = "a red cat"
SECONDS = 1.0


@pytest.fixture
def client(family_folder: Path) -> Iterator[Client]:
    with Client(family=str(family_folder), members="small") as made:
        yield made


class Queue:
    """A device whose model thread is held by one picture while others stand in line."""

    def __init__(self, family: LoadedFamily, folder: Path) -> None:
        self.gate, self.thread = Gate(), ThreadPoolExecutor(1)
        watched, settings = WatchedFamily(family, self.gate), DeviceSettings(members="small,large")
        self.heard: list[Event] = []
        self.device = Device(
            family.spec, settings, None, self.thread, OPEN, OfflineTickets(folder), watched
        )

    def session(
        self, number: int, timeout: float | None = None, member: str = "small"
    ) -> PictureSession:
        asked = GenerationRequest(
            PROMPT, arm=f"device/{member}", steps=1, seed=number, timeout=timeout
        )
        return PictureSession(self.device, asked, f"r{number}", self.heard.append)

    async def standing(self, session: PictureSession) -> asyncio.Task[Result]:
        """It has decided, and now asks for the model thread or has it."""
        known, drawing = len(self.heard), asyncio.ensure_future(session.run())
        await until(lambda: len(self.heard) > known)
        return drawing

    async def held(self) -> asyncio.Task[Result]:
        """The picture that holds the thread; by its member, the others' times are not known."""
        first = await self.standing(self.session(0, member="large"))
        await asyncio.to_thread(self.gate.wait_for_call, 1)
        return first


async def test_standing_in_line_for_the_model_is_no_part_of_a_pictures_time(
    family: LoadedFamily, tmp_path: Path
) -> None:
    queue, line = Queue(family, tmp_path), 1.2 * SECONDS  # longer than they may take
    first = await queue.held()
    begun = time.monotonic()
    waiting = [await queue.standing(queue.session(i, SECONDS)) for i in (1, 2)]
    await asyncio.sleep(line)
    queue.gate.lift()
    results = [await task for task in (first, *waiting)]
    elapsed = time.monotonic() - begun
    queue.thread.shutdown()
    for result in results[1:]:
        assert result.seconds.device <= result.seconds.total <= elapsed - line
    assert results[0].seconds.total > line


async def test_a_picture_withdrawn_in_line_has_taken_no_time(
    family: LoadedFamily, tmp_path: Path
) -> None:
    queue, line = Queue(family, tmp_path), 0.3
    first, session = await queue.held(), queue.session(1)
    begun = time.monotonic()
    waiting = await queue.standing(session)
    await asyncio.sleep(line)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert session.spent <= time.monotonic() - begun - line
    queue.gate.lift()
    await first
    queue.thread.shutdown()


def check_pictures(results: tuple[Result, ...], arm: str, family: LoadedFamily) -> None:
    for result in results:
        expected = task(plan(arm, 2), PROMPT, seed=result.task.seed)
        np.testing.assert_array_equal(result.picture, drawn_here(family, expected))


async def test_pictures_that_an_edge_refuses_cost_none_of_those_that_it_draws(
    family: LoadedFamily, family_folder: Path
) -> None:
    gate, refused = Gate(), []

    def on_event(event: Event) -> None:
        refused.extend([event] if isinstance(event, EdgeLost) else [])
        if len(refused) == 2:
            gate.lift()

    async with edge(family, gate, max_active=1, max_queue=1) as node:
        with Client(family=str(family_folder), members="", codec="fp32") as client:
            options = {"arm": "edge", "edge": node.address, "steps": 2, "seed": 5}
            with pytest.raises(Overloaded) as caught:
                await asyncio.to_thread(client.generate_many, PROMPT, 4, on_event, **options)
    finished = caught.value.finished
    assert len(finished) == 2
    assert sorted(result.task.seed for result in finished) == [r.task.seed for r in finished]
    check_pictures(finished, "edge/large", family)


def test_what_is_finished_outlives_a_listener_that_fails(
    client: Client, family: LoadedFamily
) -> None:
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, Finished) and sum(isinstance(e, Finished) for e in events) == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled) as caught:
        client.generate_many(PROMPT, 5, on_event, arm="device", steps=2)
    assert [result.task.seed for result in caught.value.finished] == [0, 1]
    check_pictures(caught.value.finished, "device/small", family)
    assert sum(isinstance(event, Finished) for event in events) == 2


def test_what_is_finished_outlives_an_interrupt(client: Client, family: LoadedFamily) -> None:
    def on_event(event: Event) -> None:
        if isinstance(event, Finished):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        client.generate_many(PROMPT, 3, on_event, arm="device", steps=2)
    assert [result.task.seed for result in caught.value.finished] == [0]  # type: ignore[attr-defined]
    assert client.generate(PROMPT, arm="device", steps=1).steps_at("device") == 1


async def test_an_interrupt_ends_the_pictures_where_a_loop_runs_already(client: Client) -> None:
    """As in a notebook, where the pictures are drawn on a loop of their own."""
    events: list[Event] = []
    main = threading.main_thread().ident
    assert main is not None
    told = threading.Event()

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, Finished) and not told.is_set():
            told.set()
            signal.pthread_kill(main, signal.SIGINT)

    with_loop = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            client.generate_many(PROMPT, 30, on_event, arm="device", steps=9)
    finally:
        signal.signal(signal.SIGINT, with_loop)
    assert sum(isinstance(event, Finished) for event in events) < 30


def test_events_tell_which_picture_they_are_of(client: Client) -> None:
    events: list[Event] = []
    results = client.generate_many(PROMPT, 3, events.append, arm="device", steps=2)
    for result in results:
        own = [type(e) for e in events if e.request_id == result.request_id]
        assert own == [Decided, Stepped, Stepped, Finished]
    assert len(events) == 3 * 4


def test_all_pictures_are_returned_in_the_order_of_their_seeds(
    client: Client, family: LoadedFamily
) -> None:
    results = client.generate_many(PROMPT, 3, arm="device", steps=2, seed=9)
    assert [result.task.seed for result in results] == [9, 10, 11]
    check_pictures(tuple(results), "device/small", family)
