"""Loads a family's parts: of each folder what counts, and no other file that lies there.

The libraries look for files by patterns that differ from version to version. So they are shown a
folder of links to the very files that count (`baton.common.families.part_files`).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerBase

from baton.common.errors import WeightsError
from baton.common.families.manifest import Manifest, Part, file_digest
from baton.common.families.part_files import (
    DIFFUSERS,
    TRANSFORMERS,
    Layout,
    check_there,
    first_line,
    json_object,
    model_files,
    part_folder,
    tokenizer_files,
)

T = TypeVar("T", bound=PreTrainedTokenizerBase)


@dataclass(frozen=True)
class _Library:
    """How it stores a model, and the arguments with which it loads one."""

    layout: Layout
    options: dict[str, Any]


_DIFFUSERS = _Library(DIFFUSERS, {"torch_dtype": torch.float32, "low_cpu_mem_usage": False})
_TRANSFORMERS = _Library(TRANSFORMERS, {"dtype": torch.float32})


class Parts:
    """Loads a family's parts; use it within ``open_parts``."""

    def __init__(self, folder: Path, manifest: Manifest, views: Path) -> None:
        self._folder = folder
        self._digests = manifest.digests
        self._views = views

    def model(self, cls: type[Any], part: Part) -> Any:
        """A model of this class, in float32. Raises WeightsError."""
        folder = part_folder(self._folder, part)
        library = _DIFFUSERS if issubclass(cls, ModelMixin) else _TRANSFORMERS
        view = self._view(folder, model_files(folder, library.layout))
        with _told_of(folder, view):
            module, info = cls.from_pretrained(
                view, use_safetensors=True, output_loading_info=True, **library.options
            )
        if missing := sorted(info["missing_keys"]):
            raise WeightsError(f"{folder} lacks {len(missing)} weights, {missing[0]} among them")
        return module.eval().requires_grad_(False)

    def tokenizer(self, cls: type[T], part: Part) -> T:
        """A tokenizer of this class. Raises WeightsError."""
        folder = part_folder(self._folder, part)
        view = self._view(folder, tokenizer_files(folder))
        with _told_of(folder, view):
            found: T = cls.from_pretrained(view)
            return found

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
            check_there(path)
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


def _check_readable(path: Path) -> None:
    check_there(path)
    if path.suffix == ".json":
        json_object(path)
        return
    try:
        path.open("rb").close()
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                pass
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise WeightsError(f"cannot load {path}: {first_line(error)}") from error


@contextlib.contextmanager
def _told_of(folder: Path, view: Path) -> Iterator[None]:
    """Errors of the libraries become WeightsErrors that name the part's own folder."""
    try:
        yield
    except Exception as error:  # from_pretrained raises whatever its file formats raise
        told = first_line(error).replace(str(view), str(folder))
        raise WeightsError(f"cannot load {folder}: {told}") from error
