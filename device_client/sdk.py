"""The SDK: `Client` for scripts, `AsyncClient` for programs that want progress."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from baton.common.config import checked
from baton.common.errors import BatonError, InvalidRequest
from baton.common.families.registry import find_scorer
from baton.common.families.spec import FamilySpec
from baton.common.given import text, whole
from baton.common.limits import check_seed
from baton.common.quiet import without_models
from baton.common.request import GenerationRequest, check_request
from baton.common.rpc.channel import Keepalive
from baton.common.rpc.channels import Channels
from baton.device_client.background import Background
from baton.device_client.checks import check_device
from baton.device_client.events import Event, Finished
from baton.device_client.journal import Journal
from baton.device_client.journaling import run_and_tell
from baton.device_client.model_thread import ModelThread
from baton.device_client.offline_tickets import OfflineTickets
from baton.device_client.order import Device
from baton.device_client.result import Result
from baton.device_client.session import PictureSession
from baton.device_client.settings import DeviceSettings

if TYPE_CHECKING:  # a device that holds no member draws without torch
    from baton.common.families.loaded import LoadedFamily


#: For what is still to be told when a client is closed, or the program ends without that.
_LAST_SECONDS = 3.0


class AsyncClient:
    """Draws pictures on an event loop. Model and network have a thread of their own each.

    Channels are kept from one picture to the next, whatever loops they are asked for on. What a
    coordinator is told of a picture follows it, at the latest when the client is closed or the
    program ends.

    ``settings`` or their fields as keyword arguments; ``edges`` also as a list. Raises
    InvalidRequest for bad settings, WeightsError for missing or damaged weights.
    """

    def __init__(self, settings: DeviceSettings | None = None, **fields: Any) -> None:
        settings = DeviceSettings() if settings is None else settings
        if not isinstance(settings, DeviceSettings):
            raise InvalidRequest(
                f"settings are DeviceSettings, or keyword arguments, got {type(settings).__name__}"
            )
        if isinstance(fields.get("edges"), list | tuple):
            fields["edges"] = ",".join(text("an edge", edge) for edge in fields["edges"])
        origins = dict.fromkeys(fields, "argument")
        settings = checked(DeviceSettings, settings.model_dump() | fields, origins)
        spec = check_device(settings)
        access = settings.access()
        thread, family = _model(settings, spec)
        offline, scorer = OfflineTickets(settings.state_folder), find_scorer(spec.scorer)
        spec = family.spec if family else spec
        channels = Channels(Keepalive(settings.keepalive_time, settings.keepalive_timeout))
        self._device = Device(
            spec, settings, scorer, thread, access, offline, family, channels=channels
        )
        self._background = Background(partial(_tell_the_rest, self._device))
        self._left = weakref.finalize(self, self._background.close, _LAST_SECONDS)
        self._journal = Journal.within(settings.state_folder, settings.journal_requests)

    @property
    def settings(self) -> DeviceSettings:
        return self._device.settings

    async def generate(self, prompt: str | GenerationRequest, **options: Any) -> Result:
        """Draw one picture of a request, or of a prompt with `GenerationRequest`'s other fields.

        Raises BatonError.
        """
        async with aclosing(self.stream(prompt, **options)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.result
        raise AssertionError("a stream ends with Finished or an error")

    async def stream(
        self, prompt: str | GenerationRequest, **options: Any
    ) -> AsyncGenerator[Event, None]:
        """Draw one picture, as `generate`, and tell how it goes; the last event is `Finished`.

        Closing the stream early cancels the request. Raises BatonError.
        """
        self.check_usable()
        request = check_request(_request(prompt, options))
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Event | None) -> None:
            with contextlib.suppress(RuntimeError):  # the listener's loop has been closed
                loop.call_soon_threadsafe(queue.put_nowait, event)

        session = PictureSession(self._device, request, uuid.uuid4().hex, tell)
        job = self._background.start(run_and_tell(session, self._journal))
        job.outcome.add_done_callback(lambda _: tell(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            yield Finished(job.outcome.result(), request_id=session.order.request_id)
        finally:
            job.withdraw()
            await job.ended()

    def check_usable(self) -> None:
        """Raises InvalidRequest for a client that is closed, or was made before a fork."""
        self._device.model_thread.check()

    def close(self) -> None:
        """End both threads, once what has begun is done and told; wait for that 3 s at most.

        On an event loop they end by themselves; `aclose` waits there.
        """
        self._device.model_thread.close()
        self._background.close(_LAST_SECONDS)

    async def aclose(self) -> None:
        """`close`, without keeping the loop from anything else."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


class Client:
    """Draws pictures, one call at a time, from ordinary code."""

    def __init__(self, settings: DeviceSettings | None = None, **fields: Any) -> None:
        self._async = AsyncClient(settings, **fields)

    @property
    def settings(self) -> DeviceSettings:
        return self._async.settings

    def generate(
        self,
        prompt: str | GenerationRequest,
        on_event: Callable[[Event], None] | None = None,
        **options: Any,
    ) -> Result:
        """Draw one picture of a request, or of a prompt with `GenerationRequest`'s other fields.

        ``on_event`` hears how it goes. Raises BatonError.
        """
        return self.generate_many(prompt, 1, on_event, **options)[0]

    def generate_many(
        self,
        prompt: str | GenerationRequest,
        count: int,
        on_event: Callable[[Event], None] | None = None,
        **options: Any,
    ) -> list[Result]:
        """Draw several pictures of one prompt at once, with seeds ``seed, seed + 1, ...``.

        A picture that fails ends none of the others; the first failure is raised when they are
        done. Whatever is raised, an interrupt included, has them in ``finished``, in the order of
        their seeds. Raises BatonError.
        """
        self._async.check_usable()
        requests = _successive(_request(prompt, options), count)
        finished: dict[int, Result] = {}

        def tell(event: Event) -> None:
            if isinstance(event, Finished):
                finished[event.result.task.seed] = event.result
            if on_event is not None:
                on_event(event)

        try:
            _run_blocking(lambda: _draw_all(self._async, requests, tell))
        except BaseException as error:
            vars(error)["finished"] = tuple(finished[seed] for seed in sorted(finished))
            raise
        return [finished[request.seed] for request in requests]

    def close(self) -> None:
        """As `AsyncClient.close`."""
        self._async.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


async def _tell_the_rest(device: Device) -> None:
    """The last that is done on the network."""
    await device.outbox.flush(_LAST_SECONDS)
    await device.channels.close()


def _model(settings: DeviceSettings, spec: FamilySpec) -> tuple[ModelThread, LoadedFamily | None]:
    """The thread on which the model runs, and the family, loaded there; None without a member.

    OpenMP keeps a team for every thread that has used it, and two that together outnumber the cores
    are less than half as fast: the caller's thread is not made to have one.
    """
    thread = ModelThread()
    members = settings.held(spec)
    if not members:
        return thread, None
    try:
        from baton.common.families.loaded import LoadedFamily
        from baton.common.families.local import use_threads
    except ImportError as error:
        raise without_models(error) from error

    def load() -> LoadedFamily:
        use_threads(settings.threads)
        return LoadedFamily.of(spec, members)

    try:
        return thread, thread.submit(load).result()
    except BaseException:
        thread.close(wait=False)  # who is interrupted does not wait for the weights
        raise


def _request(asked: str | GenerationRequest, options: Mapping[str, Any]) -> GenerationRequest:
    """options: further fields, in place of those of a request."""
    if isinstance(asked, GenerationRequest):
        return replace(asked, **options)
    return GenerationRequest(asked, **options)


def _successive(first: GenerationRequest, count: int) -> list[GenerationRequest]:
    """Raises InvalidRequest unless every one of them can work."""
    first, count = check_request(first), whole("the number of pictures", count)
    if count < 0:
        raise InvalidRequest(f"the number of pictures is 0 or more, got {count}")
    check_seed(first.seed + max(count - 1, 0))
    return [replace(first, seed=first.seed + index) for index in range(count)]


async def _draw_all(
    client: AsyncClient, requests: Sequence[GenerationRequest], tell: Callable[[Event], None]
) -> None:
    """Draw them at once. Raises the first picture's failure after the last picture's end.

    What ``tell`` raises ends them all.
    """
    failures: list[BatonError] = []

    async def one(request: GenerationRequest) -> None:
        async with aclosing(_ending(client.stream(request))) as events:
            async for event in events:
                if isinstance(event, BatonError):
                    failures.append(event)
                else:
                    tell(event)

    tasks = [asyncio.ensure_future(one(request)) for request in requests]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failures:
        raise failures[0]


async def _ending(
    events: AsyncGenerator[Event, None],
) -> AsyncGenerator[Event | BatonError, None]:
    """A picture's failure as its last event, so that it is not taken for its listener's."""
    async with aclosing(events):
        try:
            async for event in events:
                yield event
        except BatonError as error:
            yield error


def _run_blocking(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run to the end, also where a loop runs already (a notebook): there on another thread.

    An interrupt ends it there, too.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work())
        return
    handle: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None] | None]] = Future()

    async def stoppable() -> None:
        handle.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        await work()

    with ThreadPoolExecutor(1) as thread:
        ending = thread.submit(lambda: asyncio.run(stoppable()))
        try:
            ending.result()
        finally:
            loop, task = handle.result()
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                if task is not None:
                    loop.call_soon_threadsafe(task.cancel)
