"""A family's parts on disk: which files of each folder count. No torch.

A folder may hold more than a model: other variants of it, notes, what a copy from another system
left.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.common.errors import WeightsError
from baton.common.families.manifest import Part

SCHEDULER = "scheduler_config.json"
_CONFIG = "config.json"
_TOKENIZER = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
#: Either of these makes a tokenizer.
_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


@dataclass(frozen=True)
class Layout:
    """How a library stores a model's weights: in one file, or in several that an index names.

    index_first: which of both it takes if there are both.
    """

    weights: str
    index_first: bool


DIFFUSERS = Layout("diffusion_pytorch_model.safetensors", index_first=True)
TRANSFORMERS = Layout("model.safetensors", index_first=False)


def part_folder(folder: Path, part: Part) -> Path:
    """Where a part lies; one of a hub repository is fetched. Raises WeightsError."""
    if part.path is None:
        return _download(str(part.repo), part.subfolder)
    place = folder / part.path
    if not place.is_dir():
        raise WeightsError(f"{place} is missing; reinstall, or fetch the family's weights")
    return place


def model_files(folder: Path, layout: Layout) -> list[Path]:
    """Configuration and weights."""
    config, whole = folder / _CONFIG, folder / layout.weights
    index = folder / f"{layout.weights}.index.json"
    if index.is_file() and (layout.index_first or not whole.is_file()):
        return [config, index, *_shards(index)]
    return [config, whole]


def model_config(folder: Path) -> dict[str, Any]:
    """Raises WeightsError."""
    return json_object(folder / _CONFIG)


def tokenizer_files(folder: Path) -> list[Path]:
    """Raises WeightsError without a vocabulary."""
    paths = [folder / name for name in _TOKENIZER]
    files = [path for path in paths if path.is_file() or _is_dead(path)]
    names = {path.name for path in files}
    if not any(names.issuperset(needed) for needed in _VOCABULARIES):
        check_there(folder / _VOCABULARIES[0][0])
    return files


def check_there(path: Path) -> None:
    """Raises WeightsError if there is no such file."""
    if path.is_file():
        return
    if _is_dead(path):
        raise WeightsError(f"{path} is a link to a file that is not there")
    if path.exists():
        raise WeightsError(f"{path} is not a file")
    raise WeightsError(f"{path} is missing; reinstall, or fetch the family's weights")


def json_object(path: Path) -> dict[str, Any]:
    """Raises WeightsError."""
    check_there(path)
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"cannot read {path}: it is not JSON ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise WeightsError(f"cannot read {path}: it is not a JSON object")
    return value


def first_line(error: Exception) -> str:
    """What an error of a library says, for a line of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _shards(index: Path) -> list[Path]:
    names = json_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(_is_name(name) for name in names.values()):
        raise WeightsError(f"{index} does not name files of weights beside it")
    return [index.parent / name for name in sorted(set(names.values()))]


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name == Path(name).name


def _is_dead(path: Path) -> bool:
    """Whether it is a link to nowhere."""
    return path.is_symlink() and not path.exists()


def _download(repo: str, subfolder: str) -> Path:
    """A hub repository's folder, fetched or from the cache (HF_HOME)."""
    try:
        from huggingface_hub import snapshot_download

        root = snapshot_download(repo, allow_patterns=[f"{subfolder}/*" if subfolder else "*"])
    except Exception as error:  # the hub client raises many kinds, offline ones included
        raise WeightsError(f"cannot fetch {repo}: {first_line(error)}") from error
    return Path(root) / subfolder
