"""Where results go: looked at before the work, so that no result is lost at its end."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path

from baton.common.config import user_path
from baton.common.errors import InvalidRequest
from baton.common.files import check_replaceable, followed, is_special


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


def make_folder(path: Path) -> None:
    """The one that the file will lie in. Raises InvalidRequest."""
    with _writing(path):
        followed(path).parent.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def claiming(path: Path) -> Iterator[Path]:
    """A name that nobody has: the path's, or else ``name-2``, ``name-3`` and so on.

    It is there as an empty file at once, so that no other process takes it, too, and free again if
    the block raises. Raises InvalidRequest.
    """
    path = _claim(path)
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _claim(path: Path) -> Path:
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    make_folder(path)
    with _writing(path):
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
