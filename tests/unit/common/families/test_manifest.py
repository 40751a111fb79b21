"""Finding and reading a family's manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baton.common.errors import InvalidRequest, UnknownName, WeightsError
from baton.common.families.manifest import (
    BUILT_IN,
    MANIFEST_NAME,
    find_family,
    folder_fingerprint,
    read_manifest,
)
from baton.common.size import Size
from tests.support.families import copy_family, edit_json, flip_bit


@pytest.fixture
def folder(family_folder: Path, tmp_path: Path) -> Path:
    (tmp_path / MANIFEST_NAME).write_bytes((family_folder / MANIFEST_NAME).read_bytes())
    return tmp_path


def test_a_family_is_found_by_name_folder_or_manifest(folder: Path) -> None:
    assert find_family("scenes") == BUILT_IN["scenes"]
    assert find_family(str(folder)) == folder
    assert find_family(str(folder / MANIFEST_NAME)) == folder


@pytest.mark.parametrize("name", ["", "nothing", "/nowhere", "a\0b", "x" * 5_000, "../" * 50])
def test_an_unknown_family_is_said_with_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownName, match="scenes"):
        find_family(name)


def refused(folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_manifest(folder)
    message = str(caught.value)
    assert str(folder / MANIFEST_NAME) in message
    assert "\n" not in message
    return message


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"{}"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    refused(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.pop("vae"), "vae"),
        (lambda m: m.update(colour="red"), "colour"),
        (lambda m: m.update(members={}), "members"),
        (lambda m: m.update(layout="sd9"), "layout"),
        (lambda m: m["sizes"].update(multiple="many"), "sizes.multiple"),
        (lambda m: m.update(vae={}), "path or a repo"),
        (lambda m: m.update(vae={"path": "a", "repo": "b"}), "path or a repo"),
        (lambda m: m["vae"].update(extra=1), "vae.extra"),
    ],
)
def test_a_wrong_field_is_named(
    folder: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit_json(folder / MANIFEST_NAME, change)
    assert said in refused(folder)


@pytest.mark.parametrize("size", [-16, 0, 7, 15, 17, 24, 80, 65536, 2**31])
def test_a_size_outside_the_limits_is_refused_with_them(folder: Path, size: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"from 16 to 64 in multiples of 16.* got {size}"):
        read_manifest(folder).check_size(size)


def test_a_size_within_the_limits_is_kept(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert [manifest.check_size(size).width for size in (16, 32, 48, 64)] == [16, 32, 48, 64]
    assert manifest.check_size((16, 64)) == Size(16, 64)


def test_an_unknown_member_is_said_with_the_known_ones(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest.check_member("small") == "small"
    with pytest.raises(UnknownName, match=r"'huge'.*large, small"):
        manifest.check_member("huge")


def test_a_fingerprint_is_of_configuration_and_weights_not_of_library_versions(
    family_folder: Path, tmp_path: Path
) -> None:
    copy = copy_family(family_folder, tmp_path / "copy")
    vae, scheduler = copy / "shared/vae", copy / "shared/scheduler"
    original = folder_fingerprint(family_folder / "shared/vae", family_folder / "shared/scheduler")
    assert folder_fingerprint(vae, scheduler) == original
    edit_json(vae / "config.json", lambda c: c.update(_diffusers_version="9.9"))
    (vae / "README.md").write_text("hello")
    assert folder_fingerprint(vae, scheduler) == original
    edit_json(vae / "config.json", lambda c: c.update(scaling_factor=0.25))
    rescaled = folder_fingerprint(vae, scheduler)
    flip_bit(vae / "diffusion_pytorch_model.safetensors")
    altered = folder_fingerprint(vae, scheduler)
    assert len({original, rescaled, altered}) == 3
    assert folder_fingerprint(scheduler, vae) != altered
