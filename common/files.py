"""Files that are whole or not there: written aside, then renamed.

Whatever ends the writing (a full disk, a size limit, an interrupt, the death of the process), what
was there before stays as it was.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from baton.common.errors import InvalidRequest


@contextlib.contextmanager
def replacing(path: Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` when the block ends well.

    A link is followed. What is no regular file (a pipe, a terminal) is written as it is. mode:
    permissions; None: those of the file that is replaced, or the usual ones. Raises OSError.
    """
    if is_special(path):
        with path.open("wb") as file:
            yield file
        return
    target = followed(path)
    usual = 0o666 if mode is None else mode
    if target.exists():
        check_replaceable(target)
    aside = target.with_name(f".baton-{secrets.token_hex(8)}.part")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, usual)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            if mode is None and target.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave the new name with nothing in it
        aside.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


@contextlib.contextmanager
def saving(path: Path, make_folder: bool = True) -> Iterator[BinaryIO]:
    """`replacing`, in a folder that is made if it is not there and may be made.

    Raises InvalidRequest, naming the file and the cause.
    """
    try:
        if make_folder:
            followed(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror or error}") from error


def create(path: Path, data: bytes, mode: int) -> None:
    """Write a new file. Raises FileExistsError if it is there, which it is only whole; OSError."""
    aside = path.with_name(f".baton-{secrets.token_hex(8)}.part")
    with replacing(aside, mode) as file:
        file.write(data)
    try:
        os.link(aside, path)
    finally:
        aside.unlink()


def followed(path: Path) -> Path:
    """The place that a link, or a link to a link, leads to; absolute."""
    return Path(os.path.realpath(path))


def is_special(path: Path) -> bool:
    """Whether it is there and neither a file nor a folder. Raises OSError."""
    return path.exists() and not path.is_file() and not path.is_dir()


def check_replaceable(target: Path) -> None:
    """A rename would ask neither about the file's own permissions nor about a folder's content.

    Raises OSError.
    """
    with target.open("ab"):
        pass
