"""The SDK: `Client` for scripts, `AsyncClient` for programs that want progress."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import torch

from common.config import checked
from common.errors import InvalidRequest
from common.families.loader import Family, load_family
from common.plan import (
    check_accel,
    check_guidance,
    check_prompt,
    check_sampler,
    check_seed,
    check_steps,
)
from common.quality.verifier import find_scorer
from device_client.account import run_and_tell
from device_client.decide import PREFERENCES
from device_client.events import Event, Finished
from device_client.journal import JOURNAL_FILE, Journal
from device_client.result import Result
from device_client.session import Device, PictureSession, Wish
from device_client.settings import DeviceSettings
from device_client.standby import StandbyTickets


class AsyncClient:
    """Draws pictures on an event loop. The model runs on one thread of its own.

    ``settings`` or their fields as keyword arguments; ``edges`` also as a list. Raises
    InvalidRequest for bad settings, WeightsError for missing or damaged weights.
    """

    def __init__(self, settings: DeviceSettings | None = None, **fields: Any) -> None:
        settings = settings or DeviceSettings()
        if isinstance(fields.get("edges"), list | tuple):
            fields["edges"] = ",".join(fields["edges"])
        origins = dict.fromkeys(fields, "argument")
        settings = checked(DeviceSettings, settings.model_dump() | fields, origins)
        access = settings.access()
        thread, family = _model(settings)
        standby = StandbyTickets(settings.state_folder)
        scorer = find_scorer(family.name)
        self._device = Device(family, settings, scorer, thread, access, standby)
        self._journal = Journal(settings.state_folder / JOURNAL_FILE, settings.journal_requests)

    @property
    def settings(self) -> DeviceSettings:
        return self._device.settings

    async def generate(self, prompt: str, **options: Any) -> Result:
        """Draw one picture; the options are the fields of `Wish`. Raises BatonError."""
        async with aclosing(self.stream(prompt, **options)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.result
        raise AssertionError("a stream ends with Finished or an error")

    async def stream(self, prompt: str, **options: Any) -> AsyncGenerator[Event, None]:
        """Draw one picture and tell how it goes; the last event is `Finished`.

        Closing the stream early cancels the request. Raises BatonError.
        """
        wish = check_wish(Wish(prompt, **options))
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        session = PictureSession(self._device, wish, uuid.uuid4().hex, queue.put_nowait)
        task = asyncio.ensure_future(run_and_tell(session, self._journal))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            yield Finished(await task)
        finally:
            task.cancel()
            await asyncio.wait([task])

    def close(self) -> None:
        """End the model thread."""
        self._device.model_thread.shutdown()


class Client:
    """Draws pictures, one call at a time, from ordinary code."""

    def __init__(self, settings: DeviceSettings | None = None, **fields: Any) -> None:
        self._async = AsyncClient(settings, **fields)

    @property
    def settings(self) -> DeviceSettings:
        return self._async.settings

    def generate(
        self, prompt: str, on_event: Callable[[Event], None] | None = None, **options: Any
    ) -> Result:
        """Draw one picture; ``on_event`` hears how it goes, the options are the fields of `Wish`.

        Raises BatonError.
        """
        return self.generate_many(prompt, 1, on_event, **options)[0]

    def generate_many(
        self,
        prompt: str,
        count: int,
        on_event: Callable[[Event], None] | None = None,
        **options: Any,
    ) -> list[Result]:
        """Draw several pictures of one prompt at once, with seeds ``seed, seed + 1, ...``."""

        async def one(wish: Wish) -> Result:
            async with aclosing(self._async.stream(**vars(wish))) as events:
                async for event in events:
                    if on_event is not None:
                        on_event(event)
                    if isinstance(event, Finished):
                        return event.result
            raise AssertionError("a stream ends with Finished or an error")

        async def all_of_them() -> list[Result]:
            first = Wish(prompt, **options)
            wishes = [replace(first, seed=first.seed + index) for index in range(count)]
            tasks = [asyncio.ensure_future(one(wish)) for wish in wishes]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        return _run_blocking(all_of_them)

    def close(self) -> None:
        """End the model thread."""
        self._async.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check_wish(wish: Wish) -> Wish:
    """Refuse what can never work before anybody is asked. Raises InvalidRequest."""
    check_prompt(wish.prompt)
    check_prompt(wish.negative, "negative prompt")
    check_sampler(wish.sampler)
    check_seed(wish.seed)
    if wish.accel is not None:
        check_accel(wish.accel)
    if wish.preference not in PREFERENCES:
        known = ", ".join(PREFERENCES)
        raise InvalidRequest(f"the preference is one of {known}, got {wish.preference!r}")
    if wish.steps is not None:
        check_steps(wish.steps)
    if wish.guidance is not None:
        check_guidance(wish.guidance)
    if wish.timeout is not None and not 0 < wish.timeout < math.inf:
        raise InvalidRequest(f"a timeout is a number of seconds above 0, got {wish.timeout}")
    return wish


def _model(settings: DeviceSettings) -> tuple[ThreadPoolExecutor, Family]:
    """The thread on which the model runs, and the family, loaded there.

    OpenMP keeps a team for every thread that has used it, and two that together outnumber the cores
    are less than half as fast: the caller's thread is not made to have one.
    """

    def load() -> Family:
        torch.set_num_threads(settings.threads or torch.get_num_threads())
        return load_family(settings.family, settings.member_list)

    thread = ThreadPoolExecutor(1, thread_name_prefix="baton-model")
    try:
        return thread, thread.submit(load).result()
    except BaseException:
        thread.shutdown()
        raise


def _run_blocking(work: Callable[[], Coroutine[Any, Any, list[Result]]]) -> list[Result]:
    """Run to the end, also where a loop runs already (a notebook): there on another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work())).result()
