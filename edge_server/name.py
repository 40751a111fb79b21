"""An edge's id and the secret that proves it, kept from one run to the next.

Every running process holds a file of its own in the state folder, locked for as long as it runs: a
second process on the host makes its own, and one that starts again finds a free one there.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

_log = logging.getLogger(__name__)
_SECRET_BYTES = 32
_MAX_BYTES = 4_096


@dataclass(frozen=True)
class Name:
    """secret: shown to the coordinator alone, which lets nobody else have the id meanwhile."""

    node_id: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Wanted:
    """The id of a new file; chosen: the operator's own, so that no file of another id will do.

    port: as in the settings; a file that was last used with it is taken first.
    """

    node_id: str
    chosen: bool
    port: int


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    node_id: str
    secret: str
    chosen: bool

    def fits(self, wanted: Wanted) -> bool:
        same = not wanted.chosen or self.node_id == wanted.node_id
        return self.chosen == wanted.chosen and same


@contextlib.contextmanager
def own_name(folder: Path | None, wanted: Wanted) -> Iterator[Name]:
    """The name of this process, its alone within the block.

    Without a folder it lasts as long as the process does; where one cannot be used, too, and a
    warning says so.
    """
    if folder is None:
        yield _new(wanted)
        return
    try:
        file, kept = _take(folder, wanted)
    except OSError as error:
        _log.warning(
            "cannot keep this edge's name in %s: %s; until its lease has ended, an edge that starts"
            " again is another one",
            folder,
            error.strerror,
        )
        yield _new(wanted)
        return
    with file:  # closed, it is free
        yield Name(kept.node_id, kept.secret)


def _new(wanted: Wanted) -> Name:
    return Name(wanted.node_id, secrets.token_hex(_SECRET_BYTES))


def _take(folder: Path, wanted: Wanted) -> tuple[IO[bytes], _Kept]:
    """A locked file and what it holds. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # held by each for as long as it looks around
        mine = f"{wanted.port}-"
        found = sorted(folder.glob("*.json"), key=lambda path: not path.name.startswith(mine))
        for path in found:
            if held := _lock(path, wanted):
                path.rename(folder / f"{mine}{path.name.rpartition('-')[2]}")
                return held
        return _make(folder, wanted)


def _lock(path: Path, wanted: Wanted) -> tuple[IO[bytes], _Kept] | None:
    """The file, if it is free and fits."""
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError, ValidationError):
        file = stack.enter_context(path.open("rb"))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kept = _Kept.model_validate_json(file.read(_MAX_BYTES))
        if kept.fits(wanted):
            stack.pop_all()
            return file, kept
    return None


def _make(folder: Path, wanted: Wanted) -> tuple[IO[bytes], _Kept]:
    """A new file, locked before it is to be found. Its owner alone reads it."""
    kept = _Kept(
        node_id=wanted.node_id, secret=secrets.token_hex(_SECRET_BYTES), chosen=wanted.chosen
    )
    aside = folder / "new"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(descriptor, "wb"))
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(kept.model_dump_json().encode())
        file.flush()
        os.fsync(descriptor)
        aside.rename(folder / f"{wanted.port}-{secrets.token_hex(4)}.json")
        stack.pop_all()
    return file, kept
