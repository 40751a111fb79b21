"""Where results go: looked at before the work, so that no result is lost at its end."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path

from common.config import user_path
from common.errors import InvalidRequest
from common.files import check_replaceable, followed, is_special


def check_writable(path: Path) -> Path:
    """The path, with ``~`` resolved, if `saving` can write there; leaves nothing behind.

    Folders that are not there can be made later. Raises InvalidRequest.
    """
    path = user_path(path)
    with _writing(path):
        if is_special(path):
            return path
        target = followed(path)
        if target.exists():
            check_replaceable(target)
        folder = next(parent for parent in target.parents if os.path.lexists(parent))
        with tempfile.TemporaryFile(dir=folder):
            pass
    return path


def check_suffix(path: Path, suffix: str) -> Path:
    """Raises InvalidRequest for the name of another kind of file; none at all will do."""
    if path.suffix.lower() not in ("", suffix):
        raise InvalidRequest(f"{path} would be a {suffix} file; end its name so, or in nothing")
    return path


def file_or_folder(out: Path, suffix: str) -> tuple[Path, str | None]:
    """The folder to write to, and the file's name if ``out`` is one, known by its suffix.

    Raises InvalidRequest for another suffix, unless there is such a folder.
    """
    out = user_path(out)
    if os.path.isdir(out) or not out.suffix:  # Path.is_dir raises for names that are too long
        return out, None
    return check_suffix(out, suffix).parent, out.name


def claim(path: Path) -> Path:
    """Take a name that nobody has: the path's, or else ``name-2``, ``name-3`` and so on.

    It is there as an empty file afterwards, so that no other process takes it, too. Raises
    InvalidRequest.
    """
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for candidate in chain([path], numbered):
            with contextlib.suppress(FileExistsError):
                candidate.open("xb").close()
                return candidate
    raise AssertionError("numbers do not end")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror or error}") from error
