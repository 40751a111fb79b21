"""The script that writes certificates, keys and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pytest
from cryptography import x509
from pydantic import BaseModel

from baton.common.config import load_settings
from baton.common.rpc.access import AdminSettings
from baton.common.rpc.tls import holder
from baton.common.rpc.tokens import read_tokens
from baton.coordinator.settings import Settings
from baton.device_client.settings import DeviceSettings
from baton.edge_server.checks import check_node
from baton.edge_server.settings import EdgeSettings
from deploy.certificates import main

M = TypeVar("M", bound=BaseModel)


def state(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_writes_what_every_node_needs_and_hides_what_is_secret(tmp_path: Path) -> None:
    assert main([str(tmp_path), "--host", "edge.example.org", "--host", "10.0.0.5"]) == 0
    for name, role in (("coordinator", "coordinator"), ("edge", "edge"), ("device", "device")):
        certificate = (tmp_path / name / "cert.pem").read_bytes()
        assert holder(certificate) == (name, role)
        assert (tmp_path / name / "key.pem").stat().st_mode & 0o777 == 0o600
    server = x509.load_pem_x509_certificate((tmp_path / "edge" / "cert.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["edge.example.org", "localhost"]
    assert "10.0.0.5" in [str(item) for item in names.get_values_for_type(x509.IPAddress)]
    for secret in ("ca.key", "coordinator/ticket.key", "admin/token"):
        assert (tmp_path / secret).stat().st_mode & 0o777 == 0o600
    for path, content in state(tmp_path).items():
        if not path.endswith("/token"):
            assert (tmp_path / "admin" / "token").read_bytes().strip() not in content, path


def test_run_again_it_keeps_what_is_there_and_adds_what_is_new(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    before = state(tmp_path)
    assert main([str(tmp_path)]) == 0
    assert state(tmp_path) == before
    assert main([str(tmp_path), "--device", "anna"]) == 0
    after = state(tmp_path)
    changed = {path for path in before if after[path] != before[path]}
    assert changed == {"coordinator/tokens.toml", "edge/tokens.toml"}
    table = read_tokens(tmp_path / "edge" / "tokens.toml")
    found = table.find((tmp_path / "anna" / "token").read_text().strip())
    assert found is not None
    assert (found.name, found.role) == ("anna", "device")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "x" * 65])
def test_a_name_that_is_no_folder_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "out"), "--device", name]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_place_that_cannot_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


SITE = ["--coordinator", "coordinator.example.org", "--edge", "e1=edge.example.org",
        "--edge", "e2=[2001:db8::5]:7801", "--device", "anna"]  # fmt: skip


def names_in(certificate: Path) -> list[str]:
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def test_what_it_writes_starts_nodes_wherever_the_folders_are_copied_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([str(tmp_path / "keys"), *SITE]) == 0
    copied = (tmp_path / "keys").rename(tmp_path / "elsewhere")
    (copied / "ca.pem").unlink()

    def settings(name: str, model: type[M], section: str) -> M:
        monkeypatch.setenv("BATON_CONFIG", str(copied / name / "config.toml"))
        return load_settings(model, section, {})[0]

    for name, address, port in (
        ("e1", "edge.example.org:7701", 7701),
        ("e2", "[2001:db8::5]:7801", 7801),
    ):
        edge = settings(name, EdgeSettings, "edge")
        assert check_node(edge).guard.authenticates
        assert (edge.node_id, edge.advertise, edge.port) == (name, address, port)
        assert edge.coordinator == "coordinator.example.org:7700"
    assert settings("e2", EdgeSettings, "edge").host == "::"
    assert settings("coordinator", Settings, "coordinator").guard().authenticates
    anna = settings("anna", DeviceSettings, "device")
    assert anna.coordinator == "coordinator.example.org:7700"
    assert anna.access().tls is not None
    assert settings("admin", AdminSettings, "admin").access().tls is not None


def test_a_server_has_a_certificate_for_its_own_addresses_alone(tmp_path: Path) -> None:
    assert main([str(tmp_path), *SITE, "--host", "10.0.0.5"]) == 0
    here = ["10.0.0.5", "localhost", "127.0.0.1", "::1"]
    for name, own in (("coordinator", "coordinator.example.org"), ("e1", "edge.example.org")):
        assert names_in(tmp_path / name / "cert.pem") == [own, *here]
    assert names_in(tmp_path / "e2" / "cert.pem") == ["2001:db8::5", *here]


def test_a_later_edge_joins_the_same_coordinator(tmp_path: Path) -> None:
    assert main([str(tmp_path), *SITE]) == 0
    assert main([str(tmp_path), "--edge", "e3=10.0.0.7"]) == 0
    text = (tmp_path / "e3" / "config.toml").read_text()
    assert 'coordinator = "coordinator.example.org:7700"' in text
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert folders == {"coordinator", "admin", "e1", "e2", "e3", "anna"}


@pytest.mark.parametrize(
    "place", ["", "a b", "h:0", "h:99999", "h:x", "http://h", "[h]:80", "[::1", "h/x", "h\nx"]
)
@pytest.mark.parametrize("flag", ["--coordinator=", "--edge=e="])
def test_a_place_that_is_none_is_refused_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, place: str
) -> None:
    assert main([str(tmp_path), flag + place]) == 2
    assert repr(place) in capsys.readouterr().err


def test_an_edge_that_devices_could_not_find_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--coordinator", "coordinator.example.org"]) == 2
    assert "--edge edge=HOST" in capsys.readouterr().err
