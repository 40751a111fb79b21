"""An accepted request ends exactly once, whoever cancels, leaves, is too slow or crashes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from torch import Tensor

from baton.common.errors import DeadlineExceeded, ExecutionFailed, Overloaded, Unreachable
from baton.common.families.loaded import LoadedFamily
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.channel import Keepalive, channel_to
from baton.common.rpc.convert import plan_to_proto
from baton.common.rpc.status import from_rpc_error
from baton.device_client.events import Decided, Event
from baton.device_client.sdk import AsyncClient
from baton.edge_server.requests.registry import Counts
from baton.v1 import edge_pb2
from baton.v1.edge_pb2_grpc import EdgeStub
from tests.support.engines import Counter, Gate
from tests.support.nodes import device, edge, until
from tests.support.tasks import PROMPTS, plan

STEPS = 20


def ask(request_id: str, **fields: Any) -> edge_pb2.DenoiseRequest:
    values = {
        "protocol_version": PROTOCOL_VERSION,
        "request_id": request_id,
        "prompt": PROMPTS[0],
        "plan": plan_to_proto(plan("edge/small", fields.pop("steps", STEPS))),
        "width": 16,
        "height": 16,
        "codec": "fp32",
    }
    return edge_pb2.DenoiseRequest(**(values | fields))


async def last_event(address: str, request: edge_pb2.DenoiseRequest) -> edge_pb2.DenoiseEvent:
    """Over a connection of its own."""
    async with channel_to(address) as channel:
        *_, last = [event async for event in EdgeStub(channel).Denoise(request, timeout=60)]
    return last


async def error_of(call: Any) -> Exception:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return from_rpc_error(caught.value, "the edge")


async def test_ten_copies_at_once_are_one_execution_and_ten_equal_answers(
    family: LoadedFamily,
) -> None:
    counter = Counter()
    async with edge(family, counter) as node:
        request = ask("r", checkpoint_every=3)
        answers = await asyncio.gather(*(last_event(node.address, request) for _ in range(10)))
        assert counter.calls == STEPS
        assert len({answer.SerializeToString() for answer in answers}) == 1
        assert node.registry.counts == Counts(completed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, 8])
async def test_after_a_thousand_cancels_at_random_steps_nothing_is_left(
    family: LoadedFamily, seed: int
) -> None:
    """Five hundred by each seed."""
    chance = random.Random(seed)
    settings = {"max_active": 8, "max_queue": 1000, "linger": 0.0}
    async with edge(family, **settings) as node, channel_to(node.address) as channel:
        stub, names = EdgeStub(channel), iter(range(500))
        await cancel_at(stub, "first", 0, politely=True)
        before = len(asyncio.all_tasks())

        async def keep_cancelling() -> None:
            for number in names:
                await cancel_at(stub, f"r{number}", chance.randrange(10), number % 2 == 0)

        await asyncio.gather(*(keep_cancelling() for _ in range(24)))
        await until(lambda: not node.registry.places)
        await until(lambda: len(asyncio.all_tasks()) <= before)
        assert node.registry.unfinished == 0
        counts = node.registry.counts
        assert counts.completed + counts.cancelled + counts.abandoned == 501
        assert min(counts.cancelled, counts.abandoned) > 100
        assert len(node.registry.kept) <= 256
        assert (await last_event(node.address, ask("one-more"))).HasField("image")


async def cancel_at(stub: Any, request_id: str, step: int, politely: bool) -> None:
    """Cancel when the step is heard of, or leave without a word."""
    call = stub.Denoise(ask(request_id, steps=10, checkpoint_every=3), timeout=100)
    try:
        async for event in call:
            if event.progress.step >= step:
                break
        if politely:
            await stub.Cancel(edge_pb2.CancelRequest(request_id=request_id), timeout=100)
    finally:
        call.cancel()


class Crash(BaseException):
    """What no step catches."""


async def test_a_crash_of_the_model_thread_ends_all_and_is_told_to_health(
    family: LoadedFamily, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    def crash(member: str, x: Tensor) -> None:
        gate(member, x)
        raise Crash

    async with edge(family, crash, max_active=2) as node, channel_to(node.address) as channel:
        stub, health = EdgeStub(channel), health_pb2_grpc.HealthStub(channel)
        calls = [stub.Denoise(ask(f"r{i}"), timeout=60) for i in range(4)]
        errors = [asyncio.ensure_future(error_of(call)) for call in calls]
        await until(lambda: node.registry.unfinished == 4)
        gate.lift()
        for error in await asyncio.gather(*errors):
            assert isinstance(error, ExecutionFailed)
            assert "crashed" in str(error)
        late = await error_of(stub.Denoise(ask("late"), timeout=60))
        assert isinstance(late, ExecutionFailed)
        await until(lambda: node.registry.draining)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        # The late one may be refused, or let in and ended before the registry hears of the crash.
        assert node.registry.counts in (Counts(failed=4), Counts(failed=5))
        assert "model thread has crashed" in caplog.text


async def test_a_call_that_runs_out_of_time_ends_the_request_too(family: LoadedFamily) -> None:
    gate = Gate()
    async with edge(family, gate) as node, channel_to(node.address) as channel:
        error = await error_of(EdgeStub(channel).Denoise(ask("r"), timeout=0.5))
        assert isinstance(error, DeadlineExceeded)
        await until(lambda: node.registry.counts.expired)
        gate.lift()
        await until(lambda: not node.registry.places)
        assert node.registry.counts == Counts(expired=1)
        assert gate.arrived <= 1


async def test_a_hopeless_request_is_refused_before_any_model_work(family: LoadedFamily) -> None:
    counter = Counter()
    async with edge(family, counter, max_active=1) as node, channel_to(node.address) as channel:
        stub = EdgeStub(channel)
        await last_event(node.address, ask("measured", steps=50))
        calls = counter.calls
        alone = await error_of(stub.Denoise(ask("alone", steps=200), timeout=0.02))
        assert isinstance(alone, DeadlineExceeded)
        assert counter.calls == calls
        assert node.registry.counts == Counts(completed=1)


async def test_a_listener_that_takes_nothing_is_left_and_its_request_ends(
    family: LoadedFamily,
) -> None:
    """Its connection has room for some checkpoints and no more."""
    gate = Gate()
    settings = {"reader_patience": 0.2, "linger": 0.0}
    narrow = [*Keepalive().client_options(), ("grpc.http2.bdp_probe", 0)]
    async with edge(family, gate, **settings) as node:
        async with grpc.aio.insecure_channel(node.address, options=narrow) as channel:
            request = ask("r", steps=200, width=64, height=64, checkpoint_every=1)
            call = EdgeStub(channel).Denoise(request, timeout=100)
            assert (await anext(aiter(call))).HasField("accepted")
            async with asyncio.timeout(60):
                while not node.registry.counts.abandoned:
                    gate.allow(1)
                    await asyncio.sleep(0.005)
            error = await error_of(call)
            assert isinstance(error, Unreachable)
            assert "took nothing" in str(error)
        assert node.registry.counts == Counts(abandoned=1)
        assert gate.arrived < 200


async def test_a_full_edge_says_soon_when_to_come_back(family: LoadedFamily) -> None:
    gate = Gate()
    full = edge(family, gate, max_active=1, max_queue=0)
    async with full as node, channel_to(node.address) as channel:
        held = asyncio.ensure_future(last_event(node.address, ask("r")))
        await until(lambda: node.registry.places)
        error = await error_of(EdgeStub(channel).Denoise(ask("other"), timeout=60))
        assert isinstance(error, Overloaded)
        assert error.retry_after > 0
        gate.lift()
        assert (await held).HasField("image")


async def test_the_devices_time_reaches_the_edge_and_ends_the_request_there(
    family: LoadedFamily, family_folder: Path
) -> None:
    gate = Gate()
    async with edge(family, gate) as node:
        with device(family_folder, members="") as client, pytest.raises(DeadlineExceeded):
            await client.generate(PROMPTS[0], arm="edge/large", edge=node.address, timeout=1.0)
        await until(lambda: node.registry.counts.expired)
        gate.lift()
        await until(lambda: not node.registry.places)
        assert node.registry.counts == Counts(expired=1)
        assert gate.arrived <= 1


async def test_a_device_that_cannot_make_it_says_so_before_it_begins(
    family: LoadedFamily, family_folder: Path
) -> None:
    told: list[Event] = []

    async def draw(client: AsyncClient, **options: Any) -> None:
        told.clear()
        async for event in client.stream(PROMPTS[0], arm="device", **options):
            told.append(event)

    with device(family_folder, members="small") as client:
        await draw(client, steps=5)
        with pytest.raises(DeadlineExceeded, match=r"allow .* s or fewer steps"):
            await draw(client, steps=200, timeout=0.02)
    assert [type(event) for event in told] == [Decided]


async def test_ctrl_c_tells_the_edge(
    family: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    gate = Gate()
    environment = os.environ | {
        "BATON_CONFIG": os.devnull,
        "BATON_DEVICE_STATE_FOLDER": str(tmp_path),
    }
    async with edge(family, gate, linger=3600) as node:
        command = ["-m", "baton.device_client.cli.main", "generate", PROMPTS[0]]
        flags = ["--family", str(family_folder), "--edge", node.address, "--arm", "edge/large"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, *flags, env=environment, cwd=tmp_path
        )
        try:
            await asyncio.to_thread(gate.wait_for_call, 1)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert node.registry.counts == Counts(cancelled=1)
        gate.lift()
        await until(lambda: not node.registry.places)
