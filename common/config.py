"""Strict settings: flag > environment > file > default, each value with its origin.

The file is ``$BATON_CONFIG`` or ``baton/config.toml`` in the user's configuration folder (XDG),
with one table per node, ``[device]``, ``[edge]``, ``[coordinator]``, and ``[admin]`` for the
operator's commands. Unknown keys are errors. Files that it names lie beside it, unless their paths
are absolute: a folder of settings, certificates and keys works wherever it is copied.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar, get_args

from platformdirs import user_config_path
from pydantic import AfterValidator, BaseModel, ValidationError

from common.errors import InvalidRequest

M = TypeVar("M", bound=BaseModel)
_TABLES = {"admin", "coordinator", "device", "edge"}


def user_path(path: Path) -> Path:
    """The path with a leading ``~`` as the shell reads it. Raises InvalidRequest for no user's."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InvalidRequest(f"{path} lies in the home folder of nobody known here") from error


#: A path in a setting, where no shell has read the ``~``.
UserPath = Annotated[Path, AfterValidator(user_path)]


def config_file() -> Path:
    """Where the settings file is looked for."""
    named = os.environ.get("BATON_CONFIG")
    return user_path(Path(named)) if named else user_config_path("baton") / "config.toml"


def load_settings(
    model: type[M], section: str, overrides: Mapping[str, object]
) -> tuple[M, dict[str, str]]:
    """Settings of one node and, per field, where the value came from.

    ``overrides`` are the flags; None means not given. The environment's names are
    ``BATON_<SECTION>_<FIELD>``. Raises InvalidRequest, naming field and origin.
    """
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
    if not path.exists():
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
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


def _from_environment(model: type[BaseModel], section: str) -> dict[str, object]:
    prefix = f"BATON_{section.upper()}_"
    names = {field: prefix + field.upper() for field in model.model_fields}
    return {field: os.environ[name] for field, name in names.items() if name in os.environ}
