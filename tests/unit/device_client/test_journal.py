from __future__ import annotations

import logging
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from baton.common.decision import EdgeChoice
from baton.common.errors import ExecutionFailed, InvalidRequest, UnknownName
from baton.common.outcome import EdgeAttempt
from baton.device_client.journal import LAST, Entry, Journal, Settled, Stretch
from baton.device_client.result import Seconds, Traffic
from tests.support.limits import no_file_above

FULL = Entry(
    request_id="r1",
    created_unix=1.5,
    ending="picture",
    family="scenes",
    preference="speed",
    seed=7,
    sampler="ddim",
    steps=5,
    guidance=4.0,
    size="32x32",
    decision=Settled("d1", "edge/a@0.4>device/b", "why", (EdgeChoice("e", "h:1", "idle"),), "c:1"),
    planned=(Stretch(0, 2, "a", "edge"), Stretch(2, 5, "b", "device")),
    attempts=(EdgeAttempt("e", "h:1", 0, 2, "UNAVAILABLE", "gone"),),
    executed=(Stretch(0, 2, "a", "edge", "e"), Stretch(2, 5, "b", "device", "device")),
    seconds=Seconds(3.0, 1.0, 2.0),
    traffic=Traffic(1, 2),
    quality=0.5,
    verified=False,
    notes=("a note",),
)


def entry(request_id: str) -> Entry:
    return Entry(request_id, 1.0, "failed", "scenes", "balanced", 1, "ddim", error="INTERNAL")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "journal.db"


@pytest.fixture
def journal(path: Path) -> Journal:
    return Journal(path, 500)


def test_an_entry_comes_back_as_it_was(journal: Journal) -> None:
    journal.add(FULL)
    assert journal.find("r1") == FULL
    journal.add(entry("r2"))
    assert journal.find("r2") == entry("r2")


def test_last_is_the_newest(journal: Journal) -> None:
    for number in range(3):
        journal.add(entry(f"r{number}"))
    assert journal.find(LAST).request_id == "r2"


def test_the_beginning_of_an_id_is_enough_if_no_other_begins_so(journal: Journal) -> None:
    for name in ("abc", "abd", "ab"):
        journal.add(entry(name))
    assert journal.find("abc").request_id == "abc"
    assert journal.find("ab").request_id == "ab"
    with pytest.raises(InvalidRequest, match="3 requests begin with a: ab, abd, abc"):
        journal.find("a")


@pytest.mark.parametrize("key", ["zz", "", "ABC", "%", "a_c", "abcd"])
def test_an_unknown_id_says_what_is_known(journal: Journal, key: str) -> None:
    with pytest.raises(UnknownName, match="empty"):
        journal.find(key)
    journal.add(entry("abc"))
    with pytest.raises(UnknownName, match="`last` is abc, the newest of 1"):
        journal.find(key)


def test_looking_makes_no_file(journal: Journal, path: Path) -> None:
    with pytest.raises(UnknownName):
        journal.find(LAST)
    assert not path.parent.exists()


def test_only_the_newest_are_kept(path: Path) -> None:
    journal = Journal(path, 3)
    for number in range(10):
        journal.add(entry(f"r{number}"))
    assert journal.find("r7").request_id == "r7"
    with pytest.raises(UnknownName, match="newest of 3"):
        journal.find("r6")


def test_the_file_stays_small(path: Path) -> None:
    journal = Journal(path, 5)
    sizes = []
    for number in range(60):
        journal.add(replace(FULL, request_id=f"r{number}", notes=("x" * 2000,)))
        sizes.append(path.stat().st_size)
    assert max(sizes) == max(sizes[:20])


async def test_a_journal_of_no_requests_writes_nothing(path: Path) -> None:
    await Journal(path, 0).write(FULL)
    assert not path.parent.exists()


def test_only_its_owner_reads_it(journal: Journal, path: Path) -> None:
    journal.add(FULL)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_an_entry_that_json_cannot_hold_costs_a_warning(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    await journal.write(replace(FULL, message="\udcff"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING


async def test_a_journal_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"no database" * 1000)
    locked = tmp_path / "locked.db"
    Journal(locked, 5).add(FULL)
    with sqlite3.connect(locked) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        for place in (tmp_path / "file" / "journal.db", tmp_path, damaged, locked):
            caplog.clear()
            await Journal(place, 5).write(FULL)
            (record,) = caplog.records
            assert record.levelno == logging.WARNING
            assert str(place) in record.getMessage()
    holder.close()


async def test_a_full_disk_loses_no_entry_and_leaves_a_journal_that_can_be_read(
    journal: Journal, path: Path
) -> None:
    for size in (0, 100, 5_000):
        with no_file_above(size):
            await journal.write(FULL)
        with pytest.raises(UnknownName, match="is empty"):
            journal.find(LAST)
    journal.add(FULL)
    with no_file_above(16_000):
        for number in range(100):
            await journal.write(entry(f"n{number}"))
    kept = int(journal.find(LAST).request_id.removeprefix("n"))
    assert 0 < kept < 99
    assert journal.find(FULL.request_id) == FULL
    assert journal.find(f"n{kept}") == entry(f"n{kept}")
    await journal.write(entry("after"))
    assert journal.find(LAST) == entry("after")


def test_a_damaged_journal_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ExecutionFailed, match=r"journal\.db cannot be read.*delete it"):
        Journal(path, 5).find(LAST)


def test_an_entry_of_another_version_is_told_as_one(journal: Journal, path: Path) -> None:
    journal.add(FULL)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE requests SET entry = '{}'")
    connection.close()
    with pytest.raises(ExecutionFailed, match="another version"):
        journal.find(LAST)


def test_threads_that_write_at_once_lose_nothing(journal: Journal) -> None:
    names = [f"t{number:03}" for number in range(60)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda name: journal.add(entry(name)), names))
    for name in names:
        assert journal.find(name).request_id == name


_WRITER = """
import sys
from pathlib import Path
from tests.unit.device_client.test_journal import entry
from baton.device_client.journal import Journal

journal = Journal(Path(sys.argv[1]), 500)
for number in range(10_000):
    journal.add(entry(f"{sys.argv[2]}-{number:05}"))
    print(f"{sys.argv[2]}-{number:05}", flush=True)
"""


def test_what_processes_wrote_before_they_were_killed_is_there(
    journal: Journal, path: Path
) -> None:
    """Whatever the kill interrupts is rolled back by whoever opens the file next."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), name], stdout=subprocess.PIPE, text=True
        )
        for name in ("a", "b", "c")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline()
    for writer in writers:
        writer.kill()
    for writer in writers:
        told = writer.communicate()[0].split()
        if told:
            assert journal.find(told[-1]).request_id == told[-1]
    journal.add(entry("afterwards"))
    assert journal.find(LAST).request_id == "afterwards"
