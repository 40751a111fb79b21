"""Settings of certificates and tokens: what is read, and what is refused in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from baton.common.errors import InvalidRequest
from baton.common.rpc.access import (
    OPEN,
    UNGUARDED,
    Access,
    AdminSettings,
    Guard,
    ServerAccess,
    ending_soon,
)
from baton.common.rpc.channel import open_channel
from baton.common.rpc.serving import check_exposure
from baton.common.rpc.tls import holder
from baton.common.rpc.tokens import Identity, read_tokens
from tests.support.certificates import Issuer
from tests.support.security import Credentials

TOKEN = "t0ken-" + "x" * 40
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def client(**fields: object) -> Access:
    return AdminSettings.model_validate(fields).access()


def test_without_settings_all_is_open_and_plain() -> None:
    assert client() == OPEN
    assert ServerAccess().guard() == UNGUARDED
    assert not UNGUARDED.authenticates


def test_a_certificate_names_its_holder_and_the_role(credentials: Credentials) -> None:
    certificate = (credentials.folder / "anna" / "cert.pem").read_bytes()
    assert holder(certificate) == ("anna", "device")


@pytest.mark.parametrize("setting", ["tls_cert", "tls_key", "tls_client_ca"])
def test_a_file_that_cannot_be_used_is_named(
    credentials: Credentials, tmp_path: Path, setting: str
) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    for path in (tmp_path / "absent.pem", tmp_path, broken):
        fields = credentials.server("coordinator", mutual=True) | {setting: path}
        text = refusal(ServerAccess.model_validate(fields).guard)
        assert setting in text
        assert str(path) in text


def test_a_key_must_be_that_of_its_certificate(credentials: Credentials) -> None:
    other = credentials.folder / "anna" / "key.pem"
    fields = credentials.server("coordinator") | {"tls_key": other}
    assert "is not the key of" in refusal(ServerAccess.model_validate(fields).guard)


@pytest.mark.parametrize("missing", ["tls_cert", "tls_key"])
def test_half_a_pair_is_refused(credentials: Credentials, missing: str) -> None:
    fields = {key: value for key, value in credentials.pair("edge").items() if key != missing}
    assert "together" in refusal(ServerAccess.model_validate(fields).guard)
    assert "together" in refusal(lambda: client(tls_ca=credentials.ca, **fields))


def test_asking_for_certificates_needs_an_own_one(credentials: Credentials) -> None:
    text = refusal(ServerAccess(tls_client_ca=credentials.ca).guard)
    assert "tls_cert" in text


def test_a_caller_with_a_certificate_never_falls_back_to_plain(credentials: Credentials) -> None:
    assert "tls_ca" in refusal(lambda: client(**credentials.pair("anna")))


def test_a_token_comes_from_a_file_or_the_settings_not_both(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert client(token_file=path).token == client(token=TOKEN).token == TOKEN
    assert "both" in refusal(lambda: client(token_file=path, token=TOKEN))


@pytest.mark.parametrize("token", ["short", "x" * 600, "with space " + "x" * 40, "ü" * 40])
def test_a_token_that_is_weak_or_cannot_travel_is_refused_unseen(token: str) -> None:
    assert token not in refusal(lambda: client(token=token))


def test_an_empty_or_absent_token_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    refusal(lambda: client(token_file=tmp_path / "empty"))
    assert "absent" in refusal(lambda: client(token_file=tmp_path / "absent"))


def test_a_token_is_never_shown() -> None:
    settings = AdminSettings.model_validate({"token": TOKEN})
    shown = f"{settings!r} {settings} {settings.model_dump_json()} {settings.access()!r}"
    assert TOKEN not in shown


def test_tokens_are_found_by_their_hashes(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'"sha256:{DIGEST}" = {{ name = "anna", role = "device" }}\n')
    table = read_tokens(path)
    assert table.find(TOKEN) == Identity("anna", "device")
    for other in ("", TOKEN[:-1], TOKEN + "x", DIGEST, "\udcff"):
        assert table.find(other) is None
    assert DIGEST not in repr(table)


def test_an_empty_table_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text("")
    guard = ServerAccess(tokens=path).guard()
    assert guard.authenticates
    assert guard.tokens is not None
    assert guard.tokens.find(TOKEN) is None


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        f'"{TOKEN}" = {{ name = "anna", role = "device" }}',
        f'"sha256:{DIGEST[:-1]}" = {{ name = "anna", role = "device" }}',
        f'"sha256:{DIGEST}" = "anna"',
        f'"sha256:{DIGEST}" = {{ name = "anna" }}',
        f'"sha256:{DIGEST}" = {{ name = "anna", role = "device", more = 1 }}',
        f'"sha256:{DIGEST}" = {{ name = "anna", role = "king" }}',
        f'"sha256:{DIGEST}" = {{ name = "anna", role = "anonymous" }}',
        f'"sha256:{DIGEST}" = {{ name = "", role = "device" }}',
        f'"sha256:{DIGEST}" = {{ name = "a b", role = "device" }}',
        f'"sha256:{DIGEST}" = {{ name = "a", role = "device" }}\n'
        f'"sha256:{"0" * 64}" = {{ name = "a", role = "admin" }}',
    ],
)
def test_a_table_that_is_not_clear_is_refused_and_shows_no_token(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    told = refusal(lambda: read_tokens(path))
    assert str(path) in told
    assert TOKEN not in told


async def test_a_token_stays_on_this_machine_unless_it_is_encrypted(
    credentials: Credentials,
) -> None:
    plain = client(token=TOKEN)
    assert "in the clear" in refusal(lambda: open_channel("10.0.0.1:1", plain))
    for address, access in (
        ("127.0.0.1:1", plain),
        ("10.0.0.1:1", client(token=TOKEN, insecure=True)),
        ("10.0.0.1:1", client(token=TOKEN, tls_ca=credentials.ca)),
    ):
        await open_channel(address, access).close()


def test_beyond_this_machine_a_server_asks_who_calls_and_encrypts(
    credentials: Credentials,
) -> None:
    def guard(**kinds: bool) -> Guard:
        return ServerAccess.model_validate(credentials.server("coordinator", **kinds)).guard()

    check_exposure("0.0.0.0", False, guard(mutual=True))
    check_exposure("0.0.0.0", False, guard(tokens=True))
    assert "without authentication" in refusal(lambda: check_exposure("0.0.0.0", False, guard()))
    tokens = ServerAccess(tokens=credentials.folder / "edge" / "tokens.toml").guard()
    assert "in the clear" in refusal(lambda: check_exposure("0.0.0.0", False, tokens))
    check_exposure("127.0.0.1", False, tokens)
    check_exposure("0.0.0.0", True, tokens)


DATES = {"expired on": (-9.0, -1.0), "is not valid before": (1.0, 9.0)}


@pytest.mark.parametrize("words", DATES)
def test_an_own_certificate_that_is_not_good_today_is_refused(tmp_path: Path, words: str) -> None:
    pair = Issuer.new(days=DATES[words]).write(tmp_path)
    ca = {"tls_ca": tmp_path / "ca.pem"}
    ca["tls_ca"].write_bytes(Issuer.new("root", hosts=()).pem)
    for make in (ServerAccess.model_validate(pair).guard, lambda: client(**pair, **ca)):
        told = refusal(make)
        assert f"tls_cert {pair['tls_cert']} {words}" in told


@pytest.mark.parametrize("words", DATES)
@pytest.mark.parametrize("setting", ["tls_ca", "tls_client_ca"])
def test_an_authority_that_is_not_good_today_is_refused_unless_another_is(
    tmp_path: Path, words: str, setting: str
) -> None:
    bad, good = (Issuer.new("root", days=days, hosts=()) for days in (DATES[words], (-1, 99)))
    path, own = tmp_path / "ca.pem", Issuer.new().write(tmp_path)

    def read() -> object:
        if setting == "tls_ca":
            return client(tls_ca=path)
        return ServerAccess.model_validate(own | {setting: path}).guard()

    path.write_bytes(bad.pem)
    assert f"{setting} {path} {words}" in refusal(read)
    path.write_bytes(bad.pem + good.pem)
    read()


@pytest.mark.parametrize("words", DATES)
def test_a_chain_with_an_intermediate_that_is_not_good_today_is_refused(
    tmp_path: Path, words: str
) -> None:
    middle = Issuer.new("middle", days=DATES[words], hosts=())
    files = Issuer.new(signer=middle).write(tmp_path)
    with files["tls_cert"].open("ab") as chain:
        chain.write(middle.pem)
    assert words in refusal(ServerAccess.model_validate(files).guard)


def test_thirty_days_before_an_end_it_is_told(tmp_path: Path) -> None:
    def told(days: float) -> list[str]:
        files = Issuer.new(days=(-1, days)).write(tmp_path)
        return ending_soon(ServerAccess.model_validate(files))

    assert told(30.5) == []
    (line,) = told(29.5)
    assert line.startswith(f"tls_cert {tmp_path}/cert.pem ends in 29 days, on ")


def test_an_authority_that_has_handed_over_is_told(tmp_path: Path) -> None:
    old, new = (Issuer.new("root", days=(-9, days), hosts=()) for days in (-1, 99))
    path = tmp_path / "ca.pem"
    path.write_bytes(old.pem + new.pem)
    (line,) = ending_soon(AdminSettings(tls_ca=path))
    assert line.startswith(f"tls_ca {path} has one that ended on ")
