"""What is loaded of a folder is what is digested, whatever else lies there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from baton.common.errors import WeightsError
from baton.common.families.loaded import LoadedFamily, load_family
from tests.support.conditionings import context
from tests.support.families import copy_family, edit_json

PARTS = {
    "vae": "shared/vae",
    "text encoder": "shared/text_encoder",
    "tokenizer": "shared/tokenizer",
    "scheduler": "shared/scheduler",
    "member": "small/unet",
}
UNET = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(family_folder: Path, tmp_path: Path) -> Path:
    return copy_family(family_folder, tmp_path / "family", digests=False)


def _dead_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


#: By name of the file, what makes it.
FOREIGN: dict[str, Callable[[Path], object]] = {
    "._config.json": lambda path: path.write_bytes(b"\x00\x05\x16\x07\xff\xfe"),
    "._diffusion_pytorch_model.safetensors": lambda path: path.write_bytes(b"\x00\x05"),
    ".config.json.swp": lambda path: path.write_bytes(b"\xff"),
    "notes.json": lambda path: path.write_text("not json"),
    "settings.json": lambda path: path.write_text("[" * 20_000),
    "old.json": lambda path: path.mkdir(),
    "old.safetensors": lambda path: path.mkdir(),
    "list.txt": lambda path: path.write_text("hello"),
    "folder.txt": lambda path: path.mkdir(),
    "dead.json": _dead_link,
    "dead.safetensors": _dead_link,
    "dead.txt": _dead_link,
    "pipe.json": os.mkfifo,
    "diffusion_pytorch_model.fp16.safetensors": lambda path: path.write_bytes(b"half"),
    "diffusion_pytorch_model.non_ema.safetensors": lambda path: path.write_bytes(b"other"),
    "diffusion_pytorch_model.bin": lambda path: path.write_bytes(b"pickle"),
    "diffusion_pytorch_model.safetensors.index.json": lambda path: path.mkdir(),
    "model.fp16.safetensors": lambda path: path.write_bytes(b"half"),
    "model.safetensors.index.fp16.json": lambda path: path.write_text("{}"),
    "adapter_config.json": lambda path: path.write_text("{}"),
    "generation_config.json": lambda path: path.write_text("{"),
    "tokenizer.model": lambda path: path.write_bytes(b"\xff"),
    "tekken.json": lambda path: path.write_text("{"),
}


def test_foreign_files_change_neither_fingerprints_nor_what_is_loaded(
    family: LoadedFamily, copy: Path
) -> None:
    for part in PARTS.values():
        for name, make in FOREIGN.items():
            make(copy / part / name)
    found = load_family(str(copy), ["small"])
    assert found.fingerprint == family.fingerprint
    assert found.member_fingerprints["small"] == family.member_fingerprints["small"]
    loaded, clean = (
        found.models.unets["small"].state_dict(),
        family.models.unets["small"].state_dict(),
    )
    assert all(torch.equal(loaded[name], clean[name]) for name in clean)
    prompt = "a red cat on a blue background"
    assert torch.equal(
        context(found.encode_text(prompt)), context(load_family(str(copy), []).encode_text(prompt))
    )
    assert (
        found.models.tokenizer(prompt)["input_ids"] == family.models.tokenizer(prompt)["input_ids"]
    )


def test_a_tokenizer_of_vocabulary_and_merges_is_not_taken_for_another_kind(
    family: LoadedFamily, copy: Path
) -> None:
    folder = copy / PARTS["tokenizer"]
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (folder / "tokenizer.json").unlink()
    clean = load_family(str(copy), ["small"])
    assert (
        clean.models.tokenizer("a red cat")["input_ids"]
        == family.models.tokenizer("a red cat")["input_ids"]
    )
    for name in ("tokenizer.model", "tekken.json", "._tiktoken.model"):
        (folder / name).write_bytes(b"\xff")
    found = load_family(str(copy), ["small"])
    assert found.member_fingerprints == clean.member_fingerprints
    assert (
        found.models.tokenizer("a red cat")["input_ids"]
        == clean.models.tokenizer("a red cat")["input_ids"]
    )


def _split(folder: Path, weights: str) -> Path:
    """The weights in two files and an index that names them."""
    tensors = load_file(folder / weights)
    names = sorted(tensors)
    stem, halves = weights.removesuffix(".safetensors"), (names[::2], names[1::2])
    places = {}
    for number, half in enumerate(halves, start=1):
        shard = f"{stem}-0000{number}-of-00002.safetensors"
        kept = {name: tensors[name] for name in half}
        save_file(kept, folder / shard, metadata={"format": "pt"})
        places |= dict.fromkeys(half, shard)
    index = folder / f"{weights}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


@pytest.mark.parametrize(
    ("part", "weights"), [("small/unet", UNET), ("shared/text_encoder", "model.safetensors")]
)
def test_weights_in_several_files_are_digested_as_they_are_loaded(
    family: LoadedFamily, copy: Path, part: str, weights: str
) -> None:
    index = _split(copy / part, weights)
    (copy / part / weights).unlink()
    found = load_family(str(copy), ["small"])
    prompt = context(found.encode_text("a red cat"))
    torch.testing.assert_close(prompt, context(family.encode_text("a red cat")))
    (copy / part / "model-00003-of-00003.safetensors").write_bytes(b"foreign")
    assert load_family(str(copy), ["small"]).member_fingerprints == found.member_fingerprints
    path = next(index.parent.glob("*-00001-of-00002.safetensors"))
    altered = {name: tensor + 1 for name, tensor in load_file(path).items()}
    save_file(altered, path, metadata={"format": "pt"})
    assert load_family(str(copy), ["small"]).member_fingerprints != found.member_fingerprints


@pytest.mark.parametrize(
    ("part", "weights"), [("small/unet", UNET), ("shared/text_encoder", "model.safetensors")]
)
def test_of_a_whole_file_and_an_index_the_one_that_is_loaded_is_digested(
    copy: Path, part: str, weights: str
) -> None:
    index, whole = _split(copy / part, weights), copy / part / weights
    before = load_family(str(copy), ["small"]).member_fingerprints
    unused = whole if part == "small/unet" else index
    shutil.copyfile(copy / part / "config.json", unused)
    assert load_family(str(copy), ["small"]).member_fingerprints == before


@pytest.mark.parametrize("names", [["../../other.safetensors"], [3], "x", None])
def test_an_index_that_names_no_files_beside_it_is_named(copy: Path, names: object) -> None:
    index = copy / "small/unet" / f"{UNET}.index.json"
    weights = dict(enumerate(names)) if isinstance(names, list) else names
    index.write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(WeightsError, match=index.name):
        load_family(str(copy), ["small"])


@pytest.mark.parametrize(
    "name",
    [
        "shared/vae/config.json",
        "shared/text_encoder/model.safetensors",
        "shared/tokenizer/tokenizer.json",
        "shared/scheduler/scheduler_config.json",
        f"small/unet/{UNET}",
    ],
)
def test_what_is_no_file_where_one_is_needed_is_named(copy: Path, name: str) -> None:
    path = copy / name
    path.unlink()
    for make, said in ((Path.mkdir, "not a file"), (_dead_link, "link"), (os.mkfifo, "not a file")):
        make(path)
        with pytest.raises(WeightsError) as caught:
            load_family(str(copy), ["small"])
        assert str(path) in str(caught.value)
        assert said in str(caught.value)
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_dead_link_that_would_change_the_tokens_is_named(copy: Path) -> None:
    path = copy / "shared/tokenizer/tokenizer_config.json"
    path.unlink()
    _dead_link(path)
    with pytest.raises(WeightsError, match=r"tokenizer_config\.json is a link"):
        load_family(str(copy), ["small"])


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"{", b"[]"])
def test_a_file_that_is_not_json_is_named(copy: Path, content: bytes) -> None:
    for name in ("small/unet/config.json", "shared/tokenizer/tokenizer_config.json"):
        kept = (copy / name).read_bytes()
        (copy / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name.rpartition("/")[2]):
            load_family(str(copy), ["small"])
        (copy / name).write_bytes(kept)


def test_links_to_the_files_of_a_model_are_followed(family: LoadedFamily, copy: Path) -> None:
    for path in (copy / "small/unet").iterdir():
        elsewhere = path.with_name(f"blob-{path.stem}")
        path.rename(elsewhere)
        path.symlink_to(elsewhere.name)
    found = load_family(str(copy), ["small"])
    assert found.member_fingerprints["small"] == family.member_fingerprints["small"]


def test_a_vae_and_a_scheduler_may_share_a_folder(family: LoadedFamily, copy: Path) -> None:
    for path in (copy / PARTS["scheduler"]).iterdir():
        path.rename(copy / PARTS["vae"] / path.name)
    edit_json(copy / "family.json", lambda m: m.update(scheduler={"path": PARTS["vae"]}))
    assert load_family(str(copy), ["small"]).fingerprint == family.fingerprint


def test_the_shipped_family_keeps_its_fingerprint() -> None:
    """Saved pictures and peers carry it: it may change with the weights only."""
    shipped = load_family("scenes", [])
    assert shipped.fingerprint == "c3b1c1cc4bf448571d11a6904852cf2a"


def test_a_machine_without_room_for_links_is_told_of(
    family_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(WeightsError, match="temporary folder"):
        load_family(str(family_folder), ["small"])
