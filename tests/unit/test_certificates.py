"""The script that writes certificates, keys and tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from common.rpc.tls import holder
from common.rpc.tokens import read_tokens
from deploy.certificates import main


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
