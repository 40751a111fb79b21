"""Profiles on disk: a JSON file each, named after the conditions under which it was measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from baton.common.errors import Incompatible, InvalidRequest
from baton.common.files import saving
from baton.edge_server.scheduling.profile import VERSION, Conditions, Profile

#: What to do about a missing profile, or one of no use.
REMEDY = "measure with `baton-edge profile`"
_MAX_BYTES = 4 << 20
_MAX_FILES = 64


@dataclass(frozen=True)
class Profiles:
    """Those in a folder; None keeps nothing and finds nothing."""

    folder: Path | None

    def path(self, conditions: Conditions) -> Path | None:
        """Where a profile of these conditions lies, whatever the members that it holds."""
        if self.folder is None:
            return None
        told = conditions.model_copy(update={"members": {}}).model_dump_json()
        digest = hashlib.blake2b(told.encode(), digest_size=8).hexdigest()
        return self.folder / f"{digest}.json"

    def find(self, here: Conditions) -> Profile | None:
        """The one measured under these conditions; None if nothing was measured of the family.

        Raises InvalidRequest for a damaged file or one of another version, Incompatible, saying
        what differs, where the family was measured under other conditions alone.
        """
        path = self.path(here)
        if path is not None and path.exists():
            return _fitting(read_profile(path), here)
        others = [found for found in self._others() if found.conditions.family == here.family]
        if not others:
            return None
        return _fitting(max(others, key=lambda other: other.measured), here)

    def save(self, profile: Profile) -> tuple[Path | None, Profile]:
        """Where it lies now, and with what was measured there before of other members and sizes.

        Raises InvalidRequest if it cannot be written.
        """
        path = self.path(profile.conditions)
        if path is None:
            return None, profile
        whole = _with_older(profile, path)
        with saving(path) as file:
            file.write(whole.model_dump_json(indent=1).encode() + b"\n")
        return path, whole

    def _others(self) -> list[Profile]:
        """Those that can be read."""
        if self.folder is None or not self.folder.is_dir():
            return []
        found = []
        for path in sorted(self.folder.glob("*.json"))[:_MAX_FILES]:
            try:
                found.append(read_profile(path))
            except InvalidRequest:
                continue
        return found


def read_profile(path: Path) -> Profile:
    """Raises InvalidRequest for a file that cannot be read, is damaged or of another version."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise InvalidRequest(f"profile {path} is of more than {_MAX_BYTES} bytes; {REMEDY}")
        return Profile.model_validate_json(data)
    except OSError as error:
        raise InvalidRequest(f"cannot read profile {path}: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        if where == "version":
            raise InvalidRequest(f"profile {path} is not of version {VERSION}; {REMEDY}") from error
        why = f"{where}: {first['msg']}" if where else first["msg"]
        raise InvalidRequest(f"profile {path} is damaged ({why}); {REMEDY}") from error


def _fitting(found: Profile, here: Conditions) -> Profile:
    """Raises Incompatible for a stale one."""
    if differences := found.conditions.differences(here):
        raise Incompatible(f"the profile is stale ({'; '.join(differences)}); {REMEDY}")
    return found


def _with_older(profile: Profile, path: Path) -> Profile:
    try:
        older = _fitting(read_profile(path), profile.conditions) if path.exists() else None
    except (InvalidRequest, Incompatible):
        older = None
    return profile if older is None else older.merged(profile)
