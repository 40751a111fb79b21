"""Strict settings: flag > environment > file > default, each value with its origin.

The file is ``$BATON_CONFIG``, which must be there, or ``baton/config.toml`` in the user's
configuration folder (XDG), which need not. It has one table per node, ``[device]``, ``[edge]``,
``[coordinator]``, and ``[admin]`` for the operator's commands. Unknown keys are errors. Files that
it names lie beside it, unless their paths are absolute: a folder of settings, certificates and keys
works wherever it is copied.
"""

from __future__ import annotations

import difflib
import logging
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar, get_args

from platformdirs import user_config_path, user_state_path
from pydantic import AfterValidator, BaseModel, ValidationError

from baton.common.errors import InvalidRequest

M = TypeVar("M", bound=BaseModel)
_log = logging.getLogger(__name__)
_TABLES = {"admin", "coordinator", "device", "edge"}
#: Beside those of settings: the file, the nodes that commands ask, and what compose.yaml takes.
_NAMES = {
    *("BATON_CONFIG", "BATON_COORDINATOR", "BATON_EDGE"),
    *("BATON_PICTURES", "BATON_SECRETS", "BATON_USER"),
}


def user_path(path: str | Path) -> Path:
    """The path with a leading ``~`` as the shell reads it.

    Raises InvalidRequest for what no file can be called, and for a home folder of no user.
    """
    try:
        found = Path(path).expanduser()
    except TypeError as error:
        raise InvalidRequest(f"a file's name is a text, got {type(path).__name__}") from error
    except RuntimeError as error:
        raise InvalidRequest(f"{path} lies in the home folder of nobody known here") from error
    try:
        nameable = b"\0" not in os.fsencode(found)
    except UnicodeEncodeError:
        nameable = False
    if not nameable:
        raise InvalidRequest(f"{str(path)[:256]!r} is no name that a file can have")
    return found


#: A path in a setting, where no shell has read the ``~``.
UserPath = Annotated[Path, AfterValidator(user_path)]


def config_file() -> Path | None:
    """Where the settings file is looked for; None: nowhere, for a user without a home folder."""
    if named := os.environ.get("BATON_CONFIG"):
        return user_path(named).absolute()
    if _is_named("XDG_CONFIG_HOME") or _home() is not None:
        return user_config_path("baton") / "config.toml"
    return None


def default_state_folder(setting: str) -> Path | None:
    """Where a node keeps its state by default; None: in memory, as a warning then tells.

    setting: that names another place.
    """
    if _is_named("XDG_STATE_HOME"):
        return user_state_path("baton")
    if _home() is not None and _can_be_made(folder := user_state_path("baton")):
        return folder
    _log.warning(
        "there is no home folder to keep state in: it lives in memory and ends with this process;"
        " name a place with %s",
        setting,
    )
    return None


def _is_named(variable: str) -> bool:
    """Whether it holds a folder; others than absolute ones are to be ignored, says XDG."""
    return os.path.isabs(os.environ.get(variable, ""))


def _home() -> Path | None:
    """The user's home folder, if there is one: daemons and containers often have none."""
    if os.environ.get("HOME") == "":
        return None
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() and os.path.isdir(home) else None


def _can_be_made(folder: Path) -> bool:
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return there == folder or os.access(there, os.W_OK | os.X_OK)


def load_settings(
    model: type[M], section: str, overrides: Mapping[str, object]
) -> tuple[M, dict[str, str]]:
    """Settings of one node and, per field, where the value came from.

    ``overrides`` are the flags; None means not given. The environment's names are
    ``BATON_<SECTION>_<FIELD>``; of other names a warning tells. Raises InvalidRequest, naming field
    and origin.
    """
    _warn_of_unknown_names(model, section)
    values: dict[str, object] = {}
    origins = dict.fromkeys(model.model_fields, "default")
    for source, found in (
        (str(config_file()), _from_file(model, section)),
        ("environment", _from_environment(model, section)),
        ("flag", {key: value for key, value in overrides.items() if value is not None}),
    ):
        values.update(found)
        origins.update(dict.fromkeys(found, source))
    return checked(model, values, origins), origins


def checked(model: type[M], values: Mapping[str, object], origins: Mapping[str, str]) -> M:
    """The settings. Raises InvalidRequest, naming the field and its origin."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or model.__name__
        origin = origins.get(field, "flag")
        raise InvalidRequest(f"setting {field!r} (from {origin}): {first['msg']}") from error


def _from_file(model: type[BaseModel], section: str) -> dict[str, object]:
    path = config_file()
    text = None if path is None else _read(path)
    if path is None or text is None:
        return {}
    try:
        tables = tomllib.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"cannot read settings from {path}: {error}") from error
    if unknown := sorted(tables.keys() - _TABLES):
        raise InvalidRequest(f"{path}: unknown table or key {unknown[0]!r}")
    table = tables.get(section, {})
    if not isinstance(table, dict):
        raise InvalidRequest(f"{path}: [{section}] is not a table")
    return {key: _beside(path, model, key, value) for key, value in table.items()}


def _beside(path: Path, model: type[BaseModel], key: str, value: object) -> object:
    """The value of a settings file; a path is meant from the file's folder."""
    field = model.model_fields.get(key)
    if not (field and _takes_path(field.annotation) and isinstance(value, str)):
        return value
    return value if value.startswith("~") else path.absolute().parent / value


def _takes_path(annotation: object) -> bool:
    return annotation is Path or any(_takes_path(part) for part in get_args(annotation))


def _read(path: Path) -> str | None:
    """None for a file that nobody named and that is not there."""
    named = bool(os.environ.get("BATON_CONFIG"))
    try:
        if not named and not _is_there(path):
            return None
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        by = "BATON_CONFIG names it" if named else "BATON_CONFIG can name another"
        raise InvalidRequest(f"cannot read settings from {path}: {why}; {by}") from error


def _is_there(path: Path) -> bool:
    """Whether the name is taken, be it by a link that leads nowhere. Raises OSError."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _variables(model: type[BaseModel], section: str) -> dict[str, str]:
    """Each field's name in the environment."""
    return {field: f"BATON_{section.upper()}_{field.upper()}" for field in model.model_fields}


def _from_environment(model: type[BaseModel], section: str) -> dict[str, object]:
    names = _variables(model, section)
    return {field: os.environ[name] for field, name in names.items() if name in os.environ}


def _warn_of_unknown_names(model: type[BaseModel], section: str) -> None:
    """The names of other nodes' settings are left to them."""
    known = _NAMES | set(_variables(model, section).values())
    others = tuple(f"BATON_{table.upper()}_" for table in _TABLES - {section})
    for name in sorted(os.environ):
        if not name.upper().startswith("BATON_") or name in known or name.startswith(others):
            continue
        nearest = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.0)[0]
        _log.warning("%s in the environment is no setting; did you mean %s?", name, nearest)
