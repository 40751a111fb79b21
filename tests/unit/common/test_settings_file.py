"""Where settings come from: a file that is named must be there; the default one need not."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from baton.common.config import config_file, default_state_folder, load_settings
from baton.common.errors import InvalidRequest
from baton.coordinator.settings import IN_MEMORY
from baton.coordinator.settings import Settings as CoordinatorSettings
from baton.device_client.settings import DeviceSettings
from baton.edge_server.settings import EdgeSettings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, and nothing else in the environment that settings heed."""
    for name in os.environ:
        if name.startswith(("BATON_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def members() -> str | None:
    return load_settings(DeviceSettings, "device", {})[0].members


def default_file(home: Path) -> Path:
    path = home / ".config" / "baton" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("named", ["missing.toml", "~/missing.toml", "file/x.toml", ".", "loop"])
def test_a_file_that_is_named_must_be_readable(
    named: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").touch()
    (home / "loop").symlink_to("loop")
    default_file(home).write_text('[device]\nmembers = "default"\n')
    for name in (named, str(home / named.removeprefix("~/"))):
        monkeypatch.setenv("BATON_CONFIG", name)
        with pytest.raises(InvalidRequest, match=f"{home}.*BATON_CONFIG"):
            load_settings(DeviceSettings, "device", {})


def test_a_file_may_be_named_from_here_or_from_home(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "own.toml").write_text('[device]\nmembers = "own"\n')
    for name in ("own.toml", "./own.toml", "~/own.toml", str(home / "own.toml")):
        monkeypatch.setenv("BATON_CONFIG", name)
        assert members() == "own"
    monkeypatch.setenv("BATON_CONFIG", os.devnull)
    assert members() == DeviceSettings().members


def test_the_default_file_may_be_absent_and_must_be_readable_if_it_is_there(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert members() == DeviceSettings().members
    monkeypatch.setenv("BATON_CONFIG", "")
    path = default_file(home)
    assert members() == DeviceSettings().members
    path.symlink_to("nowhere.toml")
    with pytest.raises(InvalidRequest, match=str(path)):
        members()
    path.unlink()
    path.mkdir()
    with pytest.raises(InvalidRequest, match=str(path)):
        members()
    path.rmdir()
    path.write_text('[device]\nmembers = "default"\n')
    assert members() == "default"


@pytest.mark.parametrize("name", ["", "relative", "/nonexistent", "/dev/null"])
def test_without_a_home_state_lives_in_memory_and_a_warning_says_so(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", name)
    assert config_file() is None
    assert members() == DeviceSettings().members
    assert "in memory" in caplog.text
    assert DeviceSettings().state_folder is EdgeSettings().state_folder is None
    assert CoordinatorSettings().db == IN_MEMORY
    caplog.clear()
    assert DeviceSettings(state_folder=home).state_folder == home
    assert CoordinatorSettings(db=home / "c.db").db == home / "c.db"
    assert EdgeSettings(state_folder="/x").state_folder == Path("/x")
    assert caplog.text == ""
    assert list(home.iterdir()) == []


def test_folders_that_are_named_stand_for_a_home(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    assert default_state_folder("x") == home / "state" / "baton"
    assert config_file() == home / "config" / "baton" / "config.toml"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BATON_DEVICE_EGDES", "BATON_DEVICE_EDGES"),
        ("BATON_DEVCE_MEMBERS", "BATON_DEVICE_MEMBERS"),
        ("BATON_MEMBERS", "BATON_DEVICE_MEMBERS"),
        ("BATON_CONFIGFILE", "BATON_CONFIG"),
        ("baton_device_codec", "BATON_DEVICE_CODEC"),
    ],
)
def test_a_misspelt_variable_is_told_with_the_nearest_name(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, "7")
    load_settings(DeviceSettings, "device", {})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert name in record.getMessage()
    assert record.getMessage().endswith(f"did you mean {meant}?")


def test_of_known_variables_and_of_those_of_other_nodes_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("EDGE_PORT", "COORDINATOR_DB", "EDGE", "COORDINATOR", "SECRETS", "USER"):
        monkeypatch.setenv(f"BATON_{name}", "1")
    monkeypatch.setenv("BATON_DEVICE_MEMBERS", "large")
    assert members() == "large"
    assert caplog.text == ""
