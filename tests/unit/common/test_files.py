"""A file is whole, or as it was before."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from baton.common.accel.heatmap import heat_map
from baton.common.accel.masks import BlockMask, MaskKey, load_mask, save_mask
from baton.common.errors import InvalidRequest
from baton.common.files import create, replacing, saving
from baton.common.rpc.ticket_keys import kept_private_key
from baton.device_client.offline_tickets import OfflineTickets
from baton.device_client.png import save_png
from deploy.certificates import main as make_certificates
from tests.bench import report
from tests.support.limits import no_file_above

LARGE = 100_000


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_was_there_stays_until_the_new_content_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with replacing(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert names(tmp_path) == {"file"}


def _half(file: BinaryIO, error: BaseException) -> None:
    file.write(b"half")
    raise error


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("there", [True, False])
def test_what_ends_the_writing_changes_nothing(
    tmp_path: Path, error: type[BaseException], there: bool
) -> None:
    path = tmp_path / "file"
    if there:
        path.write_bytes(b"before")
    with pytest.raises(error), replacing(path) as file:
        _half(file, error())
    assert names(tmp_path) == ({"file"} if there else set())
    assert not there or path.read_bytes() == b"before"


@pytest.mark.parametrize("there", [True, False])
def test_a_limit_that_is_met_at_the_end_changes_nothing(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "file"
    if there:
        path.write_bytes(b"before")
    with pytest.raises(OSError, match="large"), no_file_above(10), replacing(path) as file:
        file.write(b"x" * 100)  # in the buffer until the file is closed
    assert names(tmp_path) == ({"file"} if there else set())
    assert not there or path.read_bytes() == b"before"


def test_a_new_file_has_the_usual_permissions_and_one_that_is_replaced_its_own(
    tmp_path: Path,
) -> None:
    usual, path = tmp_path / "usual", tmp_path / "file"
    usual.touch()
    for mode in (stat.S_IMODE(usual.stat().st_mode), 0o640):
        with replacing(path) as file:
            file.write(b"x")
        assert stat.S_IMODE(path.stat().st_mode) == mode
        path.chmod(0o640)
    with replacing(path, mode=0o600):
        pass
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path, target = tmp_path / "link", tmp_path / "folder" / "target"
    path.symlink_to(target)
    for content in (b"new", b"newer"):
        with replacing(path) as file:
            file.write(content)
        assert path.is_symlink()
        assert target.read_bytes() == content
    assert names(tmp_path / "folder") == {"target"}


def test_a_pipe_is_written_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    with replacing(path) as file:
        file.write(b"told")
    reader.join()
    assert read == [b"told"]
    assert names(tmp_path) == {"pipe"}
    assert path.is_fifo()


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    with replacing(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(InvalidRequest, match=r"folder: Is a directory"),
        saving(tmp_path / "folder"),
    ):
        pytest.fail("it could not be written")
    assert names(tmp_path) == {"folder"}


def test_a_file_that_is_there_is_not_created_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create(path, b"first", 0o600)
    with pytest.raises(FileExistsError):
        create(path, b"second", 0o600)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"first", 0o600)
    assert names(tmp_path) == {"key"}


def _picture(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    save_png(Image.fromarray(noise), path, None)


def _mask(path: Path) -> None:
    key = MaskKey("tiny", "large", "0" * 32, "ddim", 2, "1" * 32)
    blocks = tuple(f"block-{number}" for number in range(900))
    save_mask(BlockMask(key, blocks, (1, 1)), path)


def _plot(path: Path) -> None:
    heat_map(path, np.ones((9, 9)), ["row"] * 9, "title")


def _report(path: Path) -> None:
    report.write(path.stem, [{"value": "x" * LARGE}], {}, {}, path.parent)


WRITERS: dict[str, Callable[[Path], object]] = {
    "picture.png": _picture,
    "mask.json": _mask,
    "plot.png": _plot,
    "report.json": _report,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_earlier_file_and_says_which_it_was(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    before = path.read_bytes()
    assert len(before) > 6_000
    assert name != "mask.json" or load_mask(path).blocks[-1] == "block-899"
    path.write_bytes(before[:5_000])
    with pytest.raises(InvalidRequest, match=f"cannot write .*{name}"), no_file_above(5_500):
        WRITERS[name](path)
    assert path.read_bytes() == before[:5_000]
    assert names(tmp_path) == {name}


def test_tickets_that_cannot_be_kept_leave_those_that_were(tmp_path: Path) -> None:
    tickets = OfflineTickets(tmp_path)
    tickets.keep("a.b", ["127.0.0.1:1"])
    before = (tmp_path / "offline-tickets.json").read_bytes()
    with no_file_above(len(before)):
        tickets.keep("c.d", ["127.0.0.1:2"])
    assert (tmp_path / "offline-tickets.json").read_bytes() == before
    assert names(tmp_path) == {"offline-tickets.json"}


def test_a_ticket_key_is_kept_whole_or_not(tmp_path: Path) -> None:
    path = tmp_path / "ticket.key"
    with pytest.raises(InvalidRequest, match=r"ticket\.key"), no_file_above(20):
        kept_private_key(path)
    assert names(tmp_path) == set()
    key = kept_private_key(path).private_bytes_raw()
    assert kept_private_key(path).private_bytes_raw() == key


def test_secrets_that_could_not_be_written_are_made_by_the_next_run(tmp_path: Path) -> None:
    out = tmp_path / "secrets"
    sizes = (100, 200, 230, 400, 600)
    for size in sizes:
        with no_file_above(size):
            assert make_certificates([str(out)]) == 2
    assert make_certificates([str(out)]) == 0
    made = [path for path in out.rglob("*") if path.is_file()]
    assert not [path for path in made if path.suffix == ".part" or not path.stat().st_size]
    clean = tmp_path / "clean"
    assert make_certificates([str(clean)]) == 0
    for path in made:
        whole = (clean / path.relative_to(out)).read_bytes()
        assert path.read_bytes().count(b"\n") == whole.count(b"\n")
