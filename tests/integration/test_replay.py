"""Every picture can be drawn again from its record: however it was relayed, beside whomever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from baton.common.errors import BatonError, Incompatible
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.limits import SAMPLERS, SamplerName
from baton.device_client import Result, replay, replay_provenance
from baton.device_client.events import Finished, Stepped
from tests.support.engines import Gate
from tests.support.families import copy_family, flip_bit
from tests.support.nodes import device, edge, until
from tests.support.tasks import PROMPTS

CODECS = ("fp32", "fp16", "int8")
STEPS, EVERY, LAST_SEEN = 8, 3, 5


def assert_replays(family: LoadedFamily, result: Result) -> None:
    np.testing.assert_array_equal(replay_provenance(family, result.provenance), result.picture)


async def drawn_together(
    family: LoadedFamily, folder: Path, requests: list[dict[str, Any]], codec: str, threads: int = 1
) -> list[Result]:
    """Pictures that meet at one edge: its first call waits until all of them are there."""
    gate = Gate()
    async with edge(family, gate, threads=threads) as node:
        with device(folder, codec=codec, edges=node.address, threads=threads) as client:
            tasks = [
                asyncio.ensure_future(client.generate(prompt, **asked))
                for prompt, asked in zip(PROMPTS, requests, strict=False)
            ]
            await until(lambda: node.registry.unfinished == len(requests))
            gate.lift()
            return await asyncio.gather(*tasks)


@pytest.mark.parametrize(("codec", "threads"), [*((codec, 1) for codec in CODECS), ("fp32", 2)])
async def test_relays_in_shared_batches_replay_to_the_same_pixels(
    family: LoadedFamily, family_folder: Path, codec: str, threads: int
) -> None:
    requests = [
        {
            "arm": "edge/large@0.5>device/small",
            "sampler": "ddim",
            "steps": 8,
            "negative_prompt": "blue",
        },
        {"arm": "edge/large@0.7>device/small", "sampler": "euler", "steps": 6, "guidance": 1.0},
        {"arm": "edge/large@0.4>device/small", "sampler": "dpmpp_2m", "steps": 10, "size": 16},
        {"arm": "edge/small@0.5>device/large", "sampler": "dpmpp_2m", "steps": 4, "seed": 9},
        {"arm": "edge/large", "sampler": "euler", "steps": 5, "seed": 2**63 - 1},
    ]
    results = await drawn_together(family, family_folder, requests, codec, threads)
    for result, asked in zip(results, requests, strict=True):
        assert {step.threads for step in result.executed} == {threads}
        transfers = result.provenance.transfers
        assert transfers == (() if asked["arm"] == "edge/large" else (result.steps_at("edge"),))
        assert_replays(family, result)
    rows = {step.rows for result in results for step in result.executed}
    assert {1, 2} < rows
    assert any(count % 2 for count in rows - {1})
    assert {step.row for result in results for step in result.executed} > {0}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("arm", ["edge/large@0.4>device/small", "edge/large", "device/small"])
async def test_a_picture_in_a_file_is_drawn_again_from_the_file(
    family: LoadedFamily, family_folder: Path, tmp_path: Path, arm: str, sampler: SamplerName
) -> None:
    async with edge(family) as node:
        with device(family_folder, codec="fp16", members="small") as client:
            result = await client.generate(
                PROMPTS[2], arm=arm, edge=node.address, sampler=sampler, steps=6, seed=4
            )
    found = replay(result.save(tmp_path / "a.png"), str(family_folder))
    assert found.verdict == "identical"
    assert found.provenance == result.provenance
    assert found.reasons == ()
    ran = {step.node_id: {step.member} for step in result.executed}
    assert {name: origin.members.keys() for name, origin in found.provenance.nodes.items()} == ran


async def with_a_lost_edge(family: LoadedFamily, folder: Path, others: str, **asked: Any) -> Result:
    """Drawn on an edge that vanishes after a checkpoint, then elsewhere."""
    gate = Gate()
    settings = {"checkpoint_every": EVERY, "codec": asked.pop("codec")}
    async with edge(family, gate, node_id="doomed") as node:
        edges = ",".join(filter(None, [node.address, others]))
        with device(folder, members="small,large", **settings) as client:
            gate.allow(1)
            stream = client.stream(PROMPTS[3], edge=edges, steps=STEPS, seed=1, **asked)
            async for event in stream:
                if isinstance(event, Finished):
                    return event.result
                if isinstance(event, Stepped):
                    if event.step == LAST_SEEN:
                        node.cable.cut()
                    gate.allow(event.step < LAST_SEEN)
    raise AssertionError("no result")


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("codec", CODECS)
async def test_a_request_that_lost_its_edge_replays_over_the_checkpoint(
    family: LoadedFamily, family_folder: Path, sampler: SamplerName, codec: str
) -> None:
    options: dict[str, Any] = {"sampler": sampler, "codec": codec}
    async with edge(family, node_id="second") as second:
        for others, arm, transfers in (
            (second.address, "edge/large", (EVERY,)),
            (second.address, "edge/large@0.75>device/small", (EVERY, 6)),
            ("", "edge/large@0.75>device/small", (EVERY,)),
        ):
            result = await with_a_lost_edge(family, family_folder, others, arm=arm, **options)
            assert result.provenance.transfers == transfers
            assert result.executed[0].node_id == "doomed"
            assert_replays(family, result)


async def test_the_codec_and_each_transfer_show_in_the_pixels(
    family: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    """So the tests above would notice if a replay passed over one of them."""
    async with edge(family, node_id="second") as second:
        result = await with_a_lost_edge(
            family, family_folder, second.address, arm="edge/large@0.75>device/small", codec="int8"
        )
    path = result.save(tmp_path / "a.png")
    changes: list[dict[str, object]] = [{"transfers": [3]}, {"transfers": [6]}, {"codec": "fp32"}]
    for change in changes:
        tampered = rewritten(path, tmp_path / "b.png", lambda chunk, change=change: chunk | change)
        assert replay(tampered, family).difference.levels > 0


@pytest.fixture
def retrained(family_folder: Path, tmp_path: Path) -> LoadedFamily:
    """The family with other weights in one member: its latents mean the same."""
    folder = copy_family(family_folder, tmp_path / "retrained", digests=False)
    flip_bit(folder / "large/unet/diffusion_pytorch_model.safetensors")
    return load_family(str(folder))


async def test_a_picture_by_edges_of_other_weights_is_refused_with_the_edge_named(
    family: LoadedFamily, family_folder: Path, retrained: LoadedFamily, tmp_path: Path
) -> None:
    """Two kinds of weights under one name, on two edges: no family here can have been both."""
    async with edge(retrained, node_id="second") as second:
        result = await with_a_lost_edge(
            family, family_folder, second.address, arm="edge/large@0.75>device/small", codec="fp16"
        )
    assert [step.node_id for step in result.executed] == ["doomed"] * 3 + ["second"] * 3 + [
        "device"
    ] * 2
    path = result.save(tmp_path / "a.png")
    for here, named in ((family, "second"), (retrained, "doomed")):
        with pytest.raises(Incompatible, match=f"member 'large' on edge {named} ") as caught:
            replay(path, here)
        for known in (family, retrained):
            assert known.member_fingerprints["large"][:12] in str(caught.value)
        assert caught.value.exit_code == 4


async def test_an_edge_that_comes_back_with_other_weights_does_not_go_on(
    family: LoadedFamily, family_folder: Path, retrained: LoadedFamily
) -> None:
    """The record has one place for a node, so its steps must be of one kind."""
    async with edge(retrained, node_id="doomed") as again:
        result = await with_a_lost_edge(
            family, family_folder, again.address, arm="edge/large@0.75>device/small", codec="fp16"
        )
    assert result.steps_at("edge") == EVERY
    assert "other weights" in "; ".join(result.notes)
    assert_replays(family, result)


def rewritten(path: Path, to: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """The same picture with another plan in it."""
    with Image.open(path) as image:
        chunk = change(json.loads(image.info["baton"]))
        info = PngInfo()
        info.add_itxt("baton", json.dumps(chunk))
        image.save(to, pnginfo=info)
    return to


def _shorter(chunk: dict[str, Any]) -> dict[str, Any]:
    """A whole plan of one step less."""
    steps = len(chunk["executed"]) - 1
    return _told(chunk, steps) | {"executed": chunk["executed"][:steps]}


def _told(chunk: dict[str, Any], steps: int) -> dict[str, Any]:
    """With so many steps in its last segment and in every grid, and no others listed."""
    *whole, last = (_on_grid(segment, stop=steps) for segment in chunk["segments"])
    return chunk | {"segments": [*whole, last | {"stop": steps}]}


def _on_grid(segment: dict[str, Any], **change: object) -> dict[str, Any]:
    return segment | {"grid": segment["grid"] | change}


def _grids(chunk: dict[str, Any], **change: object) -> dict[str, Any]:
    return chunk | {"segments": [_on_grid(segment, **change) for segment in chunk["segments"]]}


def _guidance(chunk: dict[str, Any], first: int = 0, **change: object) -> dict[str, Any]:
    """Of the segments from the first on."""
    changed = [item | {"guidance": item["guidance"] | change} for item in chunk["segments"]]
    return chunk | {"segments": [*chunk["segments"][:first], *changed[first:]]}


def _cut_in_two(chunk: dict[str, Any]) -> dict[str, Any]:
    """A grid that ends at a level of noise where the edge handed over."""
    first, last = chunk["segments"]
    early = _on_grid(first, stop=first["stop"], until=1.0)
    return chunk | {"segments": [early, _on_grid(last, start=last["start"])]}


def _each(chunk: dict[str, Any], **change: object) -> dict[str, Any]:
    return chunk | {"executed": [step | change for step in chunk["executed"]]}


def _node(chunk: dict[str, Any], name: str, **change: object) -> dict[str, Any]:
    return chunk | {"nodes": chunk["nodes"] | {name: chunk["nodes"][name] | change}}


TAMPERED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "another seed": lambda c: c | {"seed": c["seed"] + 1},
    "another prompt": lambda c: c | {"prompt": "a blue house"},
    "another negative prompt": lambda c: c | {"negative_prompt": "a blue house"},
    "another member": lambda c: _each(c, member="large"),
    "another member on the edge": lambda c: _each(c, member="small"),
    "a member that nobody has": lambda c: _each(c, member="huge"),
    "another sampler": lambda c: _grids(c, sampler="euler"),
    "another scale": lambda c: _guidance(c, scale=7.0),
    "another scale on the device": lambda c: _guidance(c, 1, scale=7.0),
    "guidance as an input": lambda c: _guidance(c, kind="embedded"),
    "a guided member that takes none": lambda c: _guidance(c, kind="none"),
    "no guidance": lambda c: _each(c, branches="positive"),
    "guidance from an earlier step": lambda c: _each(c, branches="reuse"),
    "one step fewer": _shorter,
    "fewer steps than are listed": lambda c: _told(c, len(c["executed"]) - 1),
    "levels of a grid of their own": _cut_in_two,
    "a grid that the family lacks": lambda c: _grids(c, name="tuned", digest="d" * 32),
    "another size": lambda c: c | {"size": {"width": 32, "height": 32}},
    "another width": lambda c: c | {"size": c["size"] | {"width": 32}},
    "another latent space": lambda c: c | {"fingerprint": "0" * 32},
    "other weights": lambda c: _node(c, "device", members={"small": "0" * 32}),
    "other weights on the edge": lambda c: _node(c, "edge-test", members={"large": "0" * 32}),
    "another edge": lambda c: c | {"nodes": {"device": c["nodes"]["device"]}},
    "another family": lambda c: c | {"family": "scenes"},
}


async def test_a_tampered_plan_is_refused_or_told_apart(
    family: LoadedFamily, family_folder: Path, tmp_path: Path
) -> None:
    async with edge(family) as node:
        with device(family_folder, codec="fp16") as client:
            result = await client.generate(
                PROMPTS[1], arm="edge/large@0.5>device/small", edge=node.address, steps=6, seed=5
            )
    path = result.save(tmp_path / "a.png")
    assert replay(rewritten(path, tmp_path / "b.png", dict), family).verdict == "identical"
    for name, change in TAMPERED.items():
        tampered = rewritten(path, tmp_path / "b.png", change)
        try:
            verdict = replay(tampered, family).verdict
        except BatonError as error:
            verdict = str(error)
        assert verdict != "identical", name


async def test_two_threads_replay_as_two_threads(family: LoadedFamily, family_folder: Path) -> None:
    async with edge(family, threads=2) as node:
        with device(family_folder, codec="int8", threads=2) as client:
            result = await client.generate(
                PROMPTS[0], arm="edge/large@0.5>device/small", edge=node.address, steps=6, size=32
            )
    assert {step.threads for step in result.executed} == {2}
    assert_replays(family, result)
    assert torch.get_num_threads() == 1


async def test_the_built_in_family_replays_without_being_named(tmp_path: Path) -> None:
    scenes = load_family("scenes", ["large", "small"])
    async with edge(scenes) as node:
        with device(Path("scenes"), codec="fp16", members="small", edges=node.address) as client:
            result = await client.generate(
                "a red cat left of a blue house", arm="relay@0.4", steps=10, sampler="dpmpp_2m"
            )
    found = replay(result.save(tmp_path / "a.png"))
    assert found.verdict == "identical"
    assert found.scale == result.save_scale > 1
