"""Tickets for a time without a coordinator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from baton.common.arm import Arm
from baton.common.decision import Decision, EdgeChoice
from baton.device_client.offline_tickets import MAX_KEPT, OfflineTickets
from tests.support.security import a_ticket, new_signer

SIGNER = new_signer()
NOW = 1_000_000


def ticket(number: int = 0, expires: int = NOW + 60, space: str = "f") -> str:
    """The same text for the same number, at whatever second it is asked for."""
    times = {"not_before": NOW, "expires": expires}
    return SIGNER.sign(a_ticket(id=str(number), fingerprint=space, **times))


def kept(folder: Path) -> OfflineTickets:
    return OfflineTickets(folder, clock=lambda: NOW)


def relay(edges: Sequence[str]) -> Decision:
    choices = tuple(EdgeChoice(address, address) for address in edges)
    return Decision("d", Arm.edge("large"), choices)


def alone(edges: Sequence[str]) -> Decision:
    return Decision("d", Arm.device("small"), ())


def test_a_kept_ticket_goes_along_once_and_brings_its_edges(tmp_path: Path) -> None:
    tickets = kept(tmp_path)
    tickets.keep(ticket(), ["a:1", "b:1"])
    decision = tickets.apply(relay, [], "tiny", "f")
    assert decision.ticket == ticket()
    assert [edge.address for edge in decision.edges] == ["a:1", "b:1"]
    assert tickets.apply(relay, [], "tiny", "f").ticket == ""


def test_the_newest_fitting_one_is_taken(tmp_path: Path) -> None:
    tickets = kept(tmp_path)
    tickets.keep(ticket(1), ["a:1"])
    tickets.keep(ticket(2), ["b:1"])
    tickets.keep(ticket(3, space="other"), ["b:1"])
    tickets.keep(ticket(4, expires=NOW), ["b:1"])
    assert tickets.apply(relay, ["a:1"], "tiny", "f").ticket == ticket(1)
    assert tickets.apply(relay, ["c:1"], "tiny", "f").ticket == ""
    assert tickets.apply(relay, ["c:1", "b:1"], "tiny", "f").ticket == ticket(2)


def test_a_decision_without_edges_uses_no_ticket(tmp_path: Path) -> None:
    tickets = kept(tmp_path)
    tickets.keep(ticket(), ["a:1"])
    assert tickets.apply(alone, [], "tiny", "f").ticket == ""
    assert tickets.apply(relay, [], "tiny", "f").ticket == ticket()


def test_the_next_process_finds_them_in_a_file_of_its_owner(tmp_path: Path) -> None:
    kept(tmp_path / "new").keep(ticket(), ["a:1"])
    (file,) = (tmp_path / "new").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert kept(tmp_path / "new").apply(relay, [], "tiny", "f").ticket == ticket()
    assert kept(tmp_path / "new").apply(relay, [], "tiny", "f").ticket == ""


def test_a_ticket_fits_its_family_and_where_it_names_them_its_files(tmp_path: Path) -> None:
    for space, family, fingerprint, fits in (
        ("f", "tiny", "f", True),
        ("f", "tiny", "g", False),
        ("", "tiny", "g", True),
        ("", "other", "g", False),
    ):
        tickets = kept(tmp_path / f"{space}-{family}-{fingerprint}")
        tickets.keep(ticket(space=space), ["a:1"])
        assert bool(tickets.apply(relay, ["a:1"], family, fingerprint).ticket) is fits


def test_only_the_newest_few_are_kept(tmp_path: Path) -> None:
    tickets = kept(tmp_path)
    for number in range(MAX_KEPT + 2):
        tickets.keep(ticket(number), ["a:1"])
    found = [kept(tmp_path).apply(relay, [], "tiny", "f").ticket for _ in range(MAX_KEPT + 1)]
    newest = [ticket(number) for number in reversed(range(2, MAX_KEPT + 2))]
    assert found == [*newest, ""]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"{}", b'[{"ticket": 3}]', b"\xff"])
def test_a_damaged_file_costs_its_tickets_only(tmp_path: Path, content: bytes) -> None:
    kept(tmp_path).keep(ticket(), ["a:1"])
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    tickets = kept(tmp_path)
    assert tickets.apply(relay, ["a:1"], "tiny", "f").ticket == ""
    tickets.keep(ticket(), ["a:1"])
    assert kept(tmp_path).apply(relay, [], "tiny", "f").ticket == ticket()


def test_a_ticket_that_is_none_is_never_used(tmp_path: Path) -> None:
    tickets = kept(tmp_path)
    tickets.keep("nonsense", ["a:1"])
    tickets.keep("", ["a:1"])
    assert tickets.apply(relay, ["a:1"], "tiny", "f").ticket == ""


def test_a_folder_that_cannot_be_written_leaves_the_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tickets = kept(tmp_path / "file" / "below")
    tickets.keep(ticket(), ["a:1"])
    assert tickets.apply(relay, [], "tiny", "f").ticket == ticket()
