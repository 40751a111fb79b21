"""A family's parts on disk: what of each folder is loaded, and no other file that lies there.

The libraries look for files by patterns that differ from version to version, and a folder may hold
more than a model: other variants of it, notes, what a copy from another system left. So they are
shown a folder of links to the very files that count, and the fingerprints are of those too.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextModel, CLIPTokenizer

from baton.common.diffusion.scheduler_config import check_scheduler
from baton.common.errors import Incompatible, WeightsError
from baton.common.families.manifest import Manifest, Part, file_digest, folder_fingerprint

_SCHEDULER = "scheduler_config.json"
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
class _Library:
    """How it stores a model's weights: in one file, or in several that an index names.

    index_first: which of both it takes if there are both.
    """

    weights: str
    index_first: bool
    options: dict[str, Any]


_DIFFUSERS = _Library(
    "diffusion_pytorch_model.safetensors",
    True,
    {"torch_dtype": torch.float32, "low_cpu_mem_usage": False},
)
_TRANSFORMERS = _Library("model.safetensors", False, {"dtype": torch.float32})
_LIBRARIES: dict[type[Any], _Library] = {
    AutoencoderKL: _DIFFUSERS,
    UNet2DConditionModel: _DIFFUSERS,
    CLIPTextModel: _TRANSFORMERS,
}


class Parts:
    """Loads a family's parts and tells their fingerprints; use it within ``open_parts``."""

    def __init__(self, folder: Path, manifest: Manifest, views: Path) -> None:
        self._folder = folder
        self._digests = manifest.digests
        self._views = views
        self._shown: dict[int, Path] = {}  # by identity of what was loaded

    def model(self, cls: type[Any], part: Part) -> Any:
        """A model of this class, in float32. Raises WeightsError."""
        folder, library = self._of(part), _LIBRARIES[cls]
        view = self._view(folder, _model_files(folder, library))
        with _told_of(folder, view):
            module, info = cls.from_pretrained(
                view, use_safetensors=True, output_loading_info=True, **library.options
            )
        if missing := sorted(info["missing_keys"]):
            raise WeightsError(f"{folder} lacks {len(missing)} weights, {missing[0]} among them")
        self._shown[id(module)] = view
        return module.eval().requires_grad_(False)

    def tokenizer(self, part: Part) -> CLIPTokenizer:
        """Raises WeightsError."""
        folder = self._of(part)
        view = self._view(folder, _tokenizer_files(folder))
        with _told_of(folder, view):
            tokenizer = CLIPTokenizer.from_pretrained(view)
        self._shown[id(tokenizer)] = view
        return tokenizer

    def scheduler(self, part: Part) -> dict[str, Any]:
        """Its configuration. Raises WeightsError for one that no sampler can honour."""
        path = self._of(part) / _SCHEDULER
        view = self._view(path.parent, [path])
        config = _json_object(path)
        self._shown[id(config)] = view
        try:
            check_scheduler(config)
        except Incompatible as error:
            raise WeightsError(f"{path}: {error}") from error
        return config

    def fingerprint(self, *loaded: object) -> str:
        """Of the files from which these were loaded."""
        return folder_fingerprint(*(self._shown[id(part)] for part in loaded))

    def _of(self, part: Part) -> Path:
        if part.path is None:
            return _download(str(part.repo), part.subfolder)
        folder = self._folder / part.path
        if not folder.is_dir():
            raise WeightsError(f"{folder} is missing; reinstall, or fetch the family's weights")
        return folder

    def _view(self, folder: Path, files: Iterable[Path]) -> Path:
        """A folder of links to these files, each of which is there and can be read."""
        self._check_digests(folder)
        with _temporary():
            view = Path(tempfile.mkdtemp(dir=self._views))
        for path in files:
            _check_readable(path)
            with _temporary():
                (view / path.name).symlink_to(path.absolute())
        return view

    def _check_digests(self, folder: Path) -> None:
        for name, expected in self._digests.items():
            path = self._folder / name
            if path.parent != folder:
                continue
            _check_there(path)
            if file_digest(path) != expected:
                raise WeightsError(
                    f"{path} is damaged: its digest is not the manifest's; reinstall"
                )


@contextlib.contextmanager
def open_parts(folder: Path, manifest: Manifest) -> Iterator[Parts]:
    """The parts of a family while it is loaded."""
    with _temporary():
        views = tempfile.TemporaryDirectory(prefix="baton-family-")
    with views as place:
        yield Parts(folder, manifest, Path(place))


@contextlib.contextmanager
def _temporary() -> Iterator[None]:
    """Links need a folder for temporary files, and some room in it."""
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"cannot load a family without a temporary folder ({error.strerror}); set TMPDIR"
        ) from error


def _model_files(folder: Path, library: _Library) -> list[Path]:
    """Configuration and weights."""
    config, whole = folder / "config.json", folder / library.weights
    index = folder / f"{library.weights}.index.json"
    if index.is_file() and (library.index_first or not whole.is_file()):
        return [config, index, *_shards(index)]
    return [config, whole]


def _shards(index: Path) -> list[Path]:
    names = _json_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(_is_name(name) for name in names.values()):
        raise WeightsError(f"{index} does not name files of weights beside it")
    return [index.parent / name for name in sorted(set(names.values()))]


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name == Path(name).name


def _tokenizer_files(folder: Path) -> list[Path]:
    paths = [folder / name for name in _TOKENIZER]
    files = [path for path in paths if path.is_file() or _is_dead(path)]
    names = {path.name for path in files}
    if not any(names.issuperset(needed) for needed in _VOCABULARIES):
        _check_there(folder / _VOCABULARIES[0][0])
    return files


def _is_dead(path: Path) -> bool:
    """Whether it is a link to nowhere."""
    return path.is_symlink() and not path.exists()


def _check_there(path: Path) -> None:
    if path.is_file():
        return
    if _is_dead(path):
        raise WeightsError(f"{path} is a link to a file that is not there")
    if path.exists():
        raise WeightsError(f"{path} is not a file")
    raise WeightsError(f"{path} is missing; reinstall, or fetch the family's weights")


def _check_readable(path: Path) -> None:
    _check_there(path)
    if path.suffix == ".json":
        _json_object(path)
        return
    try:
        path.open("rb").close()
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                pass
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise WeightsError(f"cannot load {path}: {_first_line(error)}") from error


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"cannot read {path}: it is not JSON ({_first_line(error)})") from error
    if not isinstance(value, dict):
        raise WeightsError(f"cannot read {path}: it is not a JSON object")
    return value


@contextlib.contextmanager
def _told_of(folder: Path, view: Path) -> Iterator[None]:
    """Errors of the libraries become WeightsErrors that name the part's own folder."""
    try:
        yield
    except Exception as error:  # from_pretrained raises whatever its file formats raise
        told = _first_line(error).replace(str(view), str(folder))
        raise WeightsError(f"cannot load {folder}: {told}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _download(repo: str, subfolder: str) -> Path:
    """A hub repository's folder, fetched or from the cache (HF_HOME)."""
    from huggingface_hub import snapshot_download

    try:
        root = snapshot_download(repo, allow_patterns=[f"{subfolder}/*" if subfolder else "*"])
    except Exception as error:  # the hub client raises many kinds, offline ones included
        raise WeightsError(f"cannot fetch {repo}: {_first_line(error)}") from error
    return Path(root) / subfolder
