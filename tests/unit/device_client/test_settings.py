from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from baton.common.config import config_file, load_settings
from baton.common.errors import InvalidRequest
from baton.common.families.manifest import find_family, read_manifest
from baton.common.latents import Codec
from baton.common.rpc.tokens import read_tokens
from baton.coordinator.settings import Settings as CoordinatorSettings
from baton.device_client import AsyncClient
from baton.device_client.settings import DeviceSettings, split_list
from baton.edge_server.settings import EdgeSettings


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file, still empty."""
    path = tmp_path / "config.toml"
    path.touch()
    monkeypatch.setenv("BATON_CONFIG", str(path))
    for field in DeviceSettings.model_fields:
        monkeypatch.delenv(f"BATON_DEVICE_{field.upper()}", raising=False)
    return path


def load(**flags: object) -> tuple[DeviceSettings, dict[str, str]]:
    return load_settings(DeviceSettings, "device", flags)


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(
        '[device]\ncodec = "int8"\nmembers = "a"\nedges = "b:1"\ncheckpoint_every = 3\n'
    )
    monkeypatch.setenv("BATON_DEVICE_MEMBERS", "c")
    monkeypatch.setenv("BATON_DEVICE_EDGES", "d:1")
    monkeypatch.setenv("BATON_DEVICE_CHECKPOINT_EVERY", "4")
    settings, origins = load(edges="e:1", family=None)
    assert (settings.edges, origins["edges"]) == ("e:1", "flag")
    assert (settings.members, origins["members"]) == ("c", "environment")
    assert (settings.checkpoint_every, origins["checkpoint_every"]) == (4, "environment")
    assert (settings.codec, origins["codec"]) == (Codec.INT8, str(file))
    assert (settings.family, origins["family"]) == ("scenes", "default")
    assert set(origins) == set(DeviceSettings.model_fields)


def test_an_empty_file_leaves_everything_to_its_default(file: Path) -> None:
    settings, origins = load()
    assert settings == DeviceSettings()
    assert set(origins.values()) == {"default"}


def test_the_tables_of_other_nodes_are_left_to_them(file: Path) -> None:
    file.write_text('[edge]\nport = 1\n[coordinator]\nport = 2\n[device]\nmembers = "a"\n')
    assert load()[0].members == "a"


@pytest.mark.parametrize(
    "text", ['[device]\ncolour = "red"\n', '[devise]\nmembers = "a"\n', 'members = "a"\n']
)
def test_an_unknown_key_or_table_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=str(file)):
        load()


@pytest.mark.parametrize(
    "text", ["[device", "device = 3\n", "[device]\nmembers = 3\n", "[device]\nthreads = -1\n"]
)
def test_a_file_that_cannot_be_used_is_named(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=str(file)):
        load()


def test_a_file_that_cannot_be_read_is_named(file: Path) -> None:
    file.unlink()
    file.mkdir()
    with pytest.raises(InvalidRequest, match=str(file)):
        load()
    file.rmdir()
    file.write_bytes(b'[device]\nmembers = "\xff"\n')
    with pytest.raises(InvalidRequest, match=str(file)):
        load()


def test_a_bad_value_is_told_with_its_setting_and_origin(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATON_DEVICE_CODEC", "jpeg")
    with pytest.raises(InvalidRequest, match=r"codec.*environment"):
        load()
    with pytest.raises(InvalidRequest, match=r"threads.*flag"):
        load(codec="fp16", threads="many")


def test_the_file_lies_in_the_configuration_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BATON_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_file() == tmp_path / "baton" / "config.toml"


@pytest.mark.parametrize(
    "fields",
    [
        {"colour": "red"},
        {"codec": "jpeg"},
        {"checkpoint_every": -1},
        {"checkpoint_every": 201},
        {"edge_timeout": 0.0},
        {"edge_timeout": float("nan")},
        {"edge_timeout": float("inf")},
        {"coordinator_timeout": float("inf")},
        {"threads": 513},
    ],
)
def test_values_outside_the_limits_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DeviceSettings.model_validate(fields)


@pytest.mark.parametrize("fields", [{"colour": "red"}, {"codec": "jpeg"}, {"threads": -1}])
def test_a_client_refuses_bad_settings_as_bad_input(
    fields: dict[str, object], family_folder: Path
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        AsyncClient(**({"family": str(family_folder)} | fields))
    assert "\n" not in str(caught.value)


def test_settings_never_change() -> None:
    with pytest.raises(ValidationError):
        DeviceSettings().members = "a"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "items"),
    [("", []), (" , ,", []), ("a", ["a"]), (" a ,b,, c ", ["a", "b", "c"]), ("a,a", ["a", "a"])],
)
def test_lists_are_separated_by_commas(text: str, items: list[str]) -> None:
    assert split_list(text) == items
    settings = DeviceSettings(members=text, edges=text)
    assert settings.held(read_manifest(find_family("scenes"))) == items
    assert settings.edge_list == items


def test_a_client_takes_its_edges_as_a_list_too(family_folder: Path) -> None:
    fields = {"family": str(family_folder), "edges": ["a:1", "b:2"]}
    client = AsyncClient(DeviceSettings(members="large"), **fields)
    client.close()
    assert client.settings.edge_list == ["a:1", "b:2"]
    assert client.settings.members == "large"


def test_a_home_folder_in_a_setting_is_the_users(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file.write_text('[device]\nstate_folder = "~/state"\ntls_ca = "~/ca.pem"\n')
    monkeypatch.setenv("BATON_DEVICE_TLS_KEY", "~/key.pem")
    settings, _ = load(tls_cert="~/cert.pem")
    assert settings.state_folder == tmp_path / "state"
    found = [settings.tls_ca, settings.tls_key, settings.tls_cert]
    assert found == [tmp_path / name for name in ("ca.pem", "key.pem", "cert.pem")]
    assert DeviceSettings(token_file="~/token").token_file == tmp_path / "token"
    assert DeviceSettings.model_validate({"state_folder": "a/~b"}).state_folder == Path("a/~b")


def test_a_home_folder_in_the_other_nodes_settings_is_the_users(
    tmp_path: Path, family_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CoordinatorSettings(db="~/c.db").db == tmp_path / "c.db"
    assert CoordinatorSettings(ticket_key="~/k").ticket_key == tmp_path / "k"
    assert EdgeSettings(tls_cert="~/c", tls_client_ca="~/a").tls_cert == tmp_path / "c"
    (tmp_path / "family").symlink_to(family_folder)
    assert find_family("~/family") == tmp_path / "family"
    monkeypatch.setenv("BATON_CONFIG", "~/config.toml")
    assert config_file() == tmp_path / "config.toml"


@pytest.mark.parametrize("name", ["state_folder", "tls_ca", "token_file"])
def test_a_home_folder_of_nobody_is_refused(name: str, file: Path) -> None:
    file.write_text(f'[device]\n{name} = "~nobody-here/x"\n')
    with pytest.raises(InvalidRequest, match="nobody-here"):
        load()


def test_a_settings_file_is_read_as_utf_8_in_any_locale(file: Path) -> None:
    code = (
        "from baton.common.config import load_settings as load\n"
        "from baton.device_client.settings import DeviceSettings\n"
        "print(ascii(load(DeviceSettings, 'device', {})[0].family))"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for start in (b"", b"\xef\xbb\xbf"):  # some editors begin a file so
        file.write_bytes(start + '[device]\nfamily = "/Bücher/猫"\n'.encode())
        told = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **plain},
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.stdout.strip() == ascii("/Bücher/猫"), told.stderr


def test_a_settings_file_in_another_encoding_is_refused(file: Path) -> None:
    file.write_bytes('[device]\nfamily = "/Bücher"\n'.encode("latin-1"))
    with pytest.raises(InvalidRequest, match="cannot read settings"):
        load()


def test_a_token_table_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(
        f'# für Geräte\n"sha256:{"a" * 64}" = {{name = "d", role = "device"}}\n', "utf-8"
    )
    assert read_tokens(path)


@pytest.mark.parametrize("name", ["x" * 300, "{}/loop", "{}"], ids=["long", "loop", "folder"])
def test_a_settings_file_of_no_use_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.setenv("BATON_CONFIG", name.format(tmp_path))
    with pytest.raises(InvalidRequest, match="cannot read settings"):
        load()


@pytest.mark.parametrize("folder", ["a\0b", "\ud800"])
def test_a_folder_that_none_can_be_called_is_refused(folder: str) -> None:
    with pytest.raises(InvalidRequest, match="state_folder"):
        load(state_folder=folder)
