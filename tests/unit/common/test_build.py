from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pytest

from baton.common.build import NodeBuild, this_build
from baton.common.errors import InvalidRequest

LARGE, SMALL = {"large": "a" * 32}, {"small": "b" * 32}


def test_a_build_names_versions_and_processor() -> None:
    build = this_build()
    assert (build.torch, build.numpy) == (version("torch"), version("numpy"))
    assert build.processor.startswith(platform.machine())


def test_differences_name_both_sides_and_the_place() -> None:
    here = this_build()
    assert here.differences(here, "on edge e1") == []
    there = replace(here, torch="2.6.0", processor="arm64")
    assert there.differences(here, "on edge e1") == [
        f"torch 2.6.0 on edge e1, {here.torch} here",
        f"processor arm64 on edge e1, {here.processor} here",
    ]


@pytest.mark.parametrize("text", ["", "x" * 257, "a\nb", "\x1b[2J"])
def test_what_a_terminal_could_not_show_is_no_build_and_no_member(text: str) -> None:
    with pytest.raises(InvalidRequest, match="torch"):
        replace(this_build(), torch=text)
    with pytest.raises(InvalidRequest, match="member"):
        NodeBuild(this_build(), {text: "a" * 32})


@pytest.mark.parametrize(
    "members",
    [
        {"large": ""},
        {"large": "a" * 31},
        {"large": "a" * 33},
        {"large": "A" * 32},
        {"large": "a" * 32 + "\n"},
        {f"m{number}": "a" * 32 for number in range(17)},
    ],
)
def test_what_is_no_fingerprint_or_too_many_of_them_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        NodeBuild(this_build(), members)


def test_one_node_has_one_build_and_one_fingerprint_for_a_member() -> None:
    origin = NodeBuild(this_build(), LARGE)
    assert origin.agrees(NodeBuild(this_build(), LARGE | SMALL))
    assert origin.agrees(NodeBuild(this_build(), SMALL))
    assert not origin.agrees(NodeBuild(this_build(), {"large": "c" * 32}))
    assert not origin.agrees(NodeBuild(replace(this_build(), torch="2.6.0"), LARGE))
