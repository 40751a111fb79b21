"""Places are looked at before the work as they are written after it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from baton.common.errors import InvalidRequest
from baton.common.files import saving
from baton.common.outputs import check_writable

NOBODY = 65534


@pytest.fixture
def others_folder() -> Iterator[Path]:
    """A folder in which the tests run as an ordinary user, also where root starts them."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
            stack.callback(os.seteuid, 0)
        yield Path(folder)


def written(path: Path) -> bool:
    try:
        with saving(path) as file:
            file.write(b"new")
    except InvalidRequest:
        return False
    return True


def promised(path: Path) -> bool:
    try:
        check_writable(path)
    except InvalidRequest:
        return False
    return True


def test_a_link_is_looked_at_where_it_leads(tmp_path: Path) -> None:
    leads = {
        "nowhere": (tmp_path / "gone" / "deep" / "a.png", True),
        "to a name": (tmp_path / "b.png", True),
        "below a file": (Path("/dev/null/a.png"), False),
        "where nobody may": (Path("/proc/a.png"), False),
        "to a folder": (tmp_path, False),
        "to a link": (tmp_path / "below a file", False),
    }
    for name, (target, good) in leads.items():
        (tmp_path / name).symlink_to(target)
        assert promised(tmp_path / name) == good, name
        assert not (tmp_path / "gone").exists() or name != "nowhere"
        assert written(tmp_path / name) == good, name
        assert (tmp_path / name).is_symlink()


def test_a_file_or_a_folder_that_may_not_be_written_is_refused(others_folder: Path) -> None:
    locked, closed = others_folder / "locked.png", others_folder / "closed"
    locked.write_bytes(b"before")
    locked.chmod(0o444)
    closed.mkdir()
    closed.chmod(0o555)
    (others_folder / "link.png").symlink_to(locked)
    for place in (locked, others_folder / "link.png", closed / "a.png", closed / "b" / "a.png"):
        assert not promised(place)
        assert not written(place)
    assert locked.read_bytes() == b"before"


def test_looking_alters_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"before")
    os.utime(path, (1, 1))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (path, pipe, tmp_path / "new" / "b.png"):
        assert promised(place)
    assert path.stat().st_mtime == 1
    assert {place.name for place in tmp_path.iterdir()} == {"a.png", "pipe"}
