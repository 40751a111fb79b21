"""Block masks on disk: what was saved comes back, and nothing else is taken for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baton.common.accel.masks import BlockMask, MaskKey, load_mask, mask_path, save_mask
from baton.common.diffusion.blocks import BlockGraph
from baton.common.diffusion.graphs import graph_of
from baton.common.errors import BatonError, Incompatible, WeightsError
from tests.support.graphs import conditional_unet, dit, random_mask

KEY = MaskKey("tiny", "large", "0123456789abcdef" * 2, "ddim", 4, "fedcba9876543210" * 2)
SMALL = BlockMask(
    KEY,
    ("conv_in", "mid", "conv_out"),
    (0b111, 0b100, 0b010, 0b000),
    chances=((1.0, 1.0, 1.0), (0.0, 0.125, 1.0), (0.25, 0.75, 0.5), (0.0, 0.0, 0.0)),
    settings={"seed": 3, "rate": 0.05, "estimator": "gumbel", "rectify": True},
)


@pytest.fixture(scope="module")
def graph() -> BlockGraph:
    return graph_of(conditional_unet(3))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_mask(SMALL, mask_path(tmp_path / "large" / "masks", "ddim", 4))


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(WeightsError) as caught:
        load_mask(path)
    text = str(caught.value)
    assert str(path) in text
    assert text.isprintable()
    assert len(text) < len(str(path)) + 300
    return text


def test_a_mask_comes_back_as_it_was_saved(path: Path) -> None:
    assert path.name == "ddim-4.json"
    assert load_mask(path) == SMALL


def test_a_mask_of_a_real_graph_comes_back_and_fits_it(graph: BlockGraph, tmp_path: Path) -> None:
    key = replace(KEY, steps=50)
    mask = BlockMask(key, graph.names, random_mask(graph, 50))
    found = load_mask(save_mask(mask, tmp_path / "ddim-50.json"))
    assert found == mask
    assert found.check(key, graph) is found


@pytest.mark.parametrize(
    ("change", "there", "here"),
    [
        ({"sampler": "euler"}, "ddim in 4", "euler in 4"),
        ({"steps": 20}, "in 4 steps", "in 20 steps"),
        ({"member": "small"}, "tiny/large", "tiny/small"),
        ({"family": "scenes"}, "tiny/large", "scenes/large"),
        ({"fingerprint": "f" * 32}, "(0123456789ab)", "(ffffffffffff)"),
        ({"grid": "a" * 32}, "levels fedcba987654", "levels aaaaaaaaaaaa"),
    ],
)
def test_a_mask_for_something_else_is_refused_with_both_named(
    graph: BlockGraph, change: dict[str, Any], there: str, here: str
) -> None:
    mask = BlockMask(KEY, graph.names, random_mask(graph, 4))
    with pytest.raises(Incompatible) as caught:
        mask.check(replace(KEY, **change), graph)
    text = str(caught.value)
    assert text.isprintable()
    assert 0 < text.index(there) < text.index(here)
    assert caught.value.exit_code == 4


def test_a_mask_that_does_not_say_its_levels_serves_any(graph: BlockGraph, tmp_path: Path) -> None:
    mask = BlockMask(replace(KEY, grid=""), graph.names, random_mask(graph, 4))
    assert mask.check(KEY, graph) is mask
    with pytest.raises(Incompatible):
        mask.check(replace(KEY, steps=5), graph)


def test_a_mask_of_other_blocks_is_refused_with_both_numbers(graph: BlockGraph) -> None:
    mask = BlockMask(KEY, graph.names, random_mask(graph, 4))
    for other in (graph_of(conditional_unet(3, mid=False)), graph_of(dit(2))):
        with pytest.raises(Incompatible) as caught:
            mask.check(KEY, other)
        assert str(len(graph)) in str(caught.value)
        assert str(len(other)) in str(caught.value)
    swapped = replace(mask, blocks=tuple(reversed(graph.names)))
    with pytest.raises(Incompatible):
        swapped.check(KEY, graph)


def test_no_bit_of_the_file_can_flip_unnoticed(path: Path) -> None:
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            refusal(path)


def test_a_file_cut_short_anywhere_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole) - 1):  # the last byte ends the line
        path.write_bytes(whole[:length])
        refusal(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"not JSON", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"version": NaN}'],
    ids=lambda content: str(content[:12]),
)
def test_what_is_no_mask_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "not a block mask" in refusal(path)


def test_a_file_that_is_not_there_or_too_large_is_refused(path: Path, tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.json")
    assert "directory" in refusal(tmp_path)
    path.write_bytes(b" " * (5 << 20))
    assert "too many" in refusal(path)


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The file with other content under a digest that is right."""
    content = json.loads(path.read_bytes())
    del content["digest"]
    change(content)
    text = json.dumps(content, sort_keys=True).encode()
    digest = hashlib.blake2b(text, digest_size=16).hexdigest()
    path.write_text(json.dumps(content | {"digest": digest}))
    return path


def test_what_was_written_on_purpose_is_read(path: Path) -> None:
    found = load_mask(rewritten(path, lambda content: content.update(member="small")))
    assert found.key.member == "small"


def test_a_file_of_version_1_is_read_and_says_no_levels(path: Path) -> None:
    def older(content: dict[str, Any]) -> None:
        content["version"] = 1
        del content["grid"]

    found = load_mask(rewritten(path, older))
    assert found == replace(SMALL, key=replace(SMALL.key, grid=""))


def test_another_version_is_refused_with_both_named(path: Path) -> None:
    text = refusal(rewritten(path, lambda content: content.update(version=7)))
    assert "version 7" in text
    assert "reads 2" in text


@pytest.mark.parametrize(
    "change",
    [
        {"sampler": "heun"},
        {"steps": 0},
        {"steps": 201},
        {"steps": "4"},
        {"steps": 5},
        {"blocks": []},
        {"blocks": ["conv_in", "mid"]},
        {"run": ["7", "4", "2"]},
        {"run": ["7", "4", "2", "8"]},
        {"run": ["7", "4", "2", "-1"]},
        {"run": ["7", "4", "2", "0x1"]},
        {"run": ["7", "4", "2", "f" * 300]},
        {"run": []},
        {"chances": [["x"]]},
        {"settings": {"a": [1]}},
        {"more": 1},
        {"\x1b[2J\n": 1},
        {"member": "a\nb"},
        {"family": "\x1b[2J"},
        {"fingerprint": "x\ny"},
        {"grid": "levels"},
        {"grid": ""},
        {"version": 1},
    ],
    ids=str,
)
def test_content_that_no_mask_has_is_refused(path: Path, change: dict[str, Any]) -> None:
    refusal(rewritten(path, lambda content: content.update(change)))


@pytest.mark.parametrize("field", ["version", "family", "member", "run", "blocks", "chances"])
def test_a_field_too_few_is_refused(path: Path, field: str) -> None:
    assert field in refusal(rewritten(path, lambda content: content.pop(field)))


def test_every_error_here_is_one_of_ours() -> None:
    assert issubclass(WeightsError, BatonError)
