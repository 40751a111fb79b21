"""Records of large mixed batches travel, and are read back from the picture."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
from PIL import Image

from baton.common.build import NodeBuild, this_build
from baton.common.errors import BatonError, ExecutionFailed, InvalidRequest
from baton.common.families.loaded import LoadedFamily
from baton.common.limits import MAX_BLOCKS, MAX_ROWS, MAX_STEPS
from baton.common.record import ExecutedStep
from baton.common.rpc.channel import open_channel
from baton.common.rpc.convert import executed_from_proto, executed_to_proto, largest_record
from baton.common.rpc.status import from_rpc_error
from baton.device_client.png import read_png, save_png
from baton.device_client.provenance import MAX_CHUNK_CHARS, Provenance, read_chunk
from baton.edge_server.engine.job import Drawn
from baton.v1 import edge_pb2, edge_pb2_grpc, plan_pb2
from tests.support.engines import run_together
from tests.support.graphs import random_mask, with_mask
from tests.support.lying import PROMPT, STEPS, Scripted, accepted, image, stretch
from tests.support.nodes import device
from tests.support.servers import ActingEdge, serving
from tests.support.tasks import plan, task, work

IMAGE = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
FINGERPRINT = "a" * 32


def blocks(step: int, row: int) -> int:
    """Another set for each row of each step, of the most blocks that a member may have."""
    return (1 << MAX_BLOCKS) - 1 - step * MAX_ROWS - row


def largest(steps: int) -> tuple[ExecutedStep, ...]:
    made = ExecutedStep(
        0, "m" * 64, "edge", "n" * 128, "both", MAX_ROWS, 512, 510, 1, 0, 0.0123456789
    )
    return tuple(
        replace(
            made,
            step=step,
            blocks=blocks(step, 0),
            neighbours=tuple((1, blocks(step, row)) for row in range(MAX_ROWS)),
        )
        for step in range(steps)
    )


def test_the_largest_record_is_within_the_bound_of_its_message() -> None:
    steps = largest(3)
    message = edge_pb2.Image(executed=executed_to_proto(steps))
    assert 0.9 * largest_record(3) < message.ByteSize() < largest_record(3)
    assert executed_from_proto(message.executed) == list(steps)


def test_the_largest_record_is_read_from_its_picture(tmp_path: Path) -> None:
    steps = MAX_STEPS // 4
    executed, of = largest(steps), task(plan("edge/large", steps))
    origin = NodeBuild(this_build(), {"m" * 64: FINGERPRINT})
    made = Provenance(of, executed, FINGERPRINT, "fp16", (), {"n" * 128: origin})
    found = read_png(save_png(IMAGE, tmp_path / "a.png", made)).provenance
    assert found.executed == executed
    assert len(made.chunk()) * MAX_STEPS / steps < MAX_CHUNK_CHARS


@pytest.mark.parametrize("text", ["[" * 900_000, "[1" + ",1" * 900_000, '{"a":' * 900_000])
def test_a_plan_of_more_parts_than_any_is_not_parsed(text: str) -> None:
    with pytest.raises(InvalidRequest, match="too many"):
        read_chunk(text)


def drawn_in_a_large_batch(ask: edge_pb2.DenoiseRequest) -> list[edge_pb2.DenoiseEvent]:
    rows = [plan_pb2.BatchRows(rows=1, blocks=blocks(0, row).to_bytes(128)) for row in range(512)]
    batch = {"rows": MAX_ROWS, "threads": 1, "blocks": [rows[0].blocks], "neighbours": rows}
    told = image()
    del told.image.executed[:]
    told.image.executed.extend(stretch(step, step + 1, **batch) for step in range(STEPS))
    return [accepted(), told]


async def test_a_picture_of_a_large_mixed_batch_arrives_and_is_read_again(
    family_folder: Path, tmp_path: Path
) -> None:
    async with serving(Scripted(drawn_in_a_large_batch)) as address:
        with device(family_folder, edges=address) as client:
            asked = {"arm": "edge/large", "steps": STEPS, "fallback": False}
            result = await client.generate(PROMPT, **asked)
    assert [len(step.neighbours) for step in result.executed] == [MAX_ROWS] * STEPS
    assert read_png(result.save(tmp_path / "a.png")).provenance.executed == result.executed


def test_rows_that_run_alike_are_recorded_as_one(family: LoadedFamily) -> None:
    """Rows of one batch differ by what they run, and not by whose they are."""
    mask = random_mask(family.blocks("large"), 4, 3)
    of = [with_mask(plan("edge/large", 4), mask), *[plan("edge/large", 4)] * 5]
    works = [work(f"r{i}", task(made, seed=i)) for i, made in enumerate(of)]
    told = set()
    for listener in run_together(family, works):
        outcome = listener.outcome()
        assert isinstance(outcome, Drawn)
        told |= {len(step.neighbours) for step in outcome.executed}
    assert told == {2}


async def test_of_what_is_too_large_an_answer_is_the_answerers_and_a_request_the_askers() -> None:
    """Both are refused by gRPC itself, in one status."""
    async with serving(ActingEdge(lambda context: None)) as address:
        async with open_channel(address, most_bytes=4) as narrow:
            status = edge_pb2_grpc.EdgeStub(narrow).GetStatus(edge_pb2.GetStatusRequest())
            answer = await _refusal(status)
        async with open_channel(address) as channel:
            request = edge_pb2.DenoiseRequest(resume=bytes(17 << 20))
            asked = await _refusal(edge_pb2_grpc.EdgeStub(channel).Denoise(request).read())
    assert (type(answer), type(asked)) == (ExecutionFailed, InvalidRequest)
    assert "the edge answered more" in str(answer)


async def _refusal(call: Awaitable[object]) -> BatonError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value, "the edge")
