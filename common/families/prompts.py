"""Prompts to measure and to train on where the user brings none."""

from __future__ import annotations

from pathlib import Path

from baton.common.config import user_path
from baton.common.errors import InvalidRequest
from baton.common.families.manifest import Manifest
from baton.common.families.registry import find_prompts
from baton.common.limits import check_prompt

_GENERAL = (
    "a photo of a red car in front of a house",
    "two cats and a dog on a wooden floor",
    "an oil painting of a mountain lake at sunset",
    "a plate with five apples",
    "a portrait of an old man with a hat",
    "a blue cup left of a green book on a table",
    "a city street at night in the rain",
    "a bird above a tree",
)
_MOST = 4096
_FEW = 16


def sample_prompts(
    family: Manifest, count: int | None, seed: int, file: Path | None = None
) -> list[str]:
    """``count`` prompts: the first lines of ``file``, the family's own, or general ones in turn.

    count: None for every line of the file, or a few prompts. Raises InvalidRequest for a file that
    cannot be read or has too few lines, or a bad count.
    """
    if count is not None and not 1 <= count <= _MOST:
        raise InvalidRequest(f"the number of prompts is from 1 to {_MOST}, got {count}")
    if file is not None:
        return _read(file, count)
    count = count or _FEW
    if own := find_prompts(family.prompts):
        return own(family.sizes.default, count, seed)
    return [_GENERAL[index % len(_GENERAL)] for index in range(count)]


def _read(file: Path, count: int | None) -> list[str]:
    try:
        lines = user_path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"cannot read prompts from {file}: {error}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if len(prompts) < (count or 1):
        raise InvalidRequest(f"{file} has {len(prompts)} prompts, {count or 1} were asked for")
    return [check_prompt(prompt) for prompt in prompts[: count or _MOST]]
