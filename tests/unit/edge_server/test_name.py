"""Every running edge has an id and a secret of its own, and finds them again."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from baton.edge_server.name import Name, Wanted, own_name
from baton.edge_server.settings import EdgeSettings

HOLDER = """
import sys
from pathlib import Path
from baton.edge_server.name import Wanted, own_name
with own_name(Path(sys.argv[1]), Wanted("first", False, 0)) as name:
    print(name.node_id, name.secret, flush=True)
    sys.stdin.read()
"""


def named(node_id: str, port: int = 0) -> Wanted:
    """What an edge asks for that was not told its id."""
    return Wanted(node_id, False, port)


def once(folder: Path, wanted: Wanted) -> Name:
    with own_name(folder, wanted) as name:
        return name


def test_an_edge_that_starts_again_is_the_same(tmp_path: Path) -> None:
    first = once(tmp_path / "deep" / "edges", named("first"))
    assert first.node_id == "first"
    assert once(tmp_path / "deep" / "edges", named("second", 7701)) == first


def test_edges_that_run_at_once_are_different_ones(tmp_path: Path) -> None:
    with own_name(tmp_path, named("a")) as a, own_name(tmp_path, named("b")) as b:
        assert (a.node_id, b.node_id) == ("a", "b")
        assert a.secret != b.secret
    with own_name(tmp_path, named("c")) as c, own_name(tmp_path, named("d")) as d:
        assert {c, d} == {a, b}


def test_each_of_several_finds_its_own_by_its_port_whatever_the_order(tmp_path: Path) -> None:
    ports = (7701, 7702, 7703)
    with ExitStack() as stack:
        names = {
            port: stack.enter_context(own_name(tmp_path, named(f"e{port}", port))) for port in ports
        }
    with ExitStack() as stack:
        for port in reversed(ports):
            assert stack.enter_context(own_name(tmp_path, named("x", port))) == names[port]


def test_a_killed_process_leaves_its_name_to_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        node_id, secret = process.stdout.readline().split()
        assert once(tmp_path, named("second")).node_id == "second"
        process.kill()
        process.wait()
        found = {once(tmp_path, named("third")) for _ in range(2)}
        with own_name(tmp_path, named("x")) as one, own_name(tmp_path, named("y")) as other:
            assert Name(node_id, secret) in (one, other)
            assert found <= {one, other}


def test_a_chosen_id_keeps_its_secret_and_lends_it_to_nobody(tmp_path: Path) -> None:
    chosen = Wanted("mine", True, 0)
    first = once(tmp_path, chosen)
    assert once(tmp_path, named("any")).node_id == "any"
    assert once(tmp_path, Wanted("other", True, 0)).node_id == "other"
    with own_name(tmp_path, chosen) as again, own_name(tmp_path, chosen) as double:
        assert again == first
        assert double.node_id == "mine"
        assert double.secret != first.secret


def test_only_its_owner_reads_a_secret(tmp_path: Path) -> None:
    name = once(tmp_path, named("a"))
    (path,) = tmp_path.glob("*.json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert name.secret in path.read_text()
    assert name.secret not in repr(name)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"node_id": 1}', b"\xff" * 100])
def test_a_damaged_file_is_passed_over(tmp_path: Path, damage: bytes) -> None:
    once(tmp_path, named("a"))
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(damage)
    assert once(tmp_path, named("b")).node_id == "b"


def test_without_a_folder_the_name_lasts_as_long_as_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    names = {once(tmp_path / "file" / "edges", named("a")).secret for _ in range(2)}
    assert len(names) == 2
    assert "cannot keep this edge's name" in caplog.text


def test_ids_are_unique_unless_one_is_chosen() -> None:
    one, other = EdgeSettings().wanted_name, EdgeSettings().wanted_name
    assert one.node_id != other.node_id
    assert not one.chosen
    assert EdgeSettings(node_id="mine", port=1).wanted_name == Wanted("mine", True, 1)
