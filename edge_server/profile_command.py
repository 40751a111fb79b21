"""``baton-edge profile``: what is asked for, checked, measured, kept and told."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from baton.common.cli import print_json
from baton.common.families.spec import FamilySpec, read_spec
from baton.common.outputs import check_writable
from baton.common.progress import Bar
from baton.common.quiet import quiet_libraries
from baton.common.size import Size
from baton.edge_server.profile_report import check_plot, describe, plot, tell
from baton.edge_server.scheduling.profile_file import Profiles
from baton.edge_server.settings import EdgeSettings

if TYPE_CHECKING:
    from baton.edge_server.scheduling.profile import Profile


@dataclass(frozen=True)
class ProfileRequest:
    """member: None: all that the settings name; size: None: the family's own."""

    member: str | None = None
    size: str | None = None
    quick: bool = False
    plot: Path | None = None


def make_profile(settings: EdgeSettings, request: ProfileRequest, as_json: bool) -> None:
    """Raises BatonError; for what can never work, before any model code is imported."""
    spec = read_spec(settings.family)
    size = spec.check_size(spec.default_size if request.size is None else request.size)
    targets = [(member, size) for member in _members(spec, settings, request.member)]
    picture = None if request.plot is None else check_plot(request.plot)
    if settings.profiles_folder is not None:
        check_writable(settings.profiles_folder / "profile.json")
    quiet_libraries()
    made = _measured(settings, targets, request.quick, as_json)
    path, whole = Profiles(settings.profiles_folder).save(made)
    if picture is not None:
        plot(whole, picture)
    if as_json:
        print_json({"path": None if path is None else str(path), **describe(whole)})
        return
    tell(whole)
    for name in (path, picture):
        if name is not None:
            print(name)
    if path is None:
        print("note: there is no state folder, so the profile is not kept", file=sys.stderr)


def _members(spec: FamilySpec, settings: EdgeSettings, member: str | None) -> list[str]:
    """Raises UnknownName."""
    chosen = settings.member_list or list(spec.members) if member is None else [member]
    return [spec.check_member(name) for name in chosen]


def _measured(
    settings: EdgeSettings, targets: list[tuple[str, Size]], quick: bool, silent: bool
) -> Profile:
    import torch

    from baton.common.families.loaded import load_family
    from baton.common.families.local import use_threads, warm_up
    from baton.edge_server.profiling import Effort, cells_of, conditions_of, measured

    use_threads(settings.threads)
    family = load_family(settings.family, [member for member, _ in targets])
    warm_up(family)
    made = Effort.quick if quick else Effort.full
    effort = made(settings.rows_limit, settings.activation_mib << 20)
    conditions = conditions_of(family, torch.get_num_threads())
    with Bar("measuring rounds", cells_of(family, effort, targets), silent, True) as bar:
        return measured(family, conditions, effort, targets, bar.advance)
