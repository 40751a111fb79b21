"""The profile that an edge serves with: as it was measured ahead, or else a quick one."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import torch

from baton.common.errors import BatonError
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import use_threads
from baton.edge_server.profiling import Effort, conditions_of, measured
from baton.edge_server.scheduling.profile import Conditions, Profile
from baton.edge_server.scheduling.profile_file import REMEDY, Profiles
from baton.edge_server.settings import AUTO_ROWS, EdgeSettings

_log = logging.getLogger(__name__)


def profile_for(settings: EdgeSettings, family: LoadedFamily) -> Profile | None:
    """One line tells why it is not one that was measured ahead; None: the settings want none."""
    if settings.profile == "off":
        _log.info("rounds are not measured ahead: the setting profile is off")
        return None
    here = conditions_of(family, settings.threads or torch.get_num_threads())
    try:
        found = Profiles(settings.profiles_folder).find(here)
        why = f"there is no profile of {family.name} on this machine; {REMEDY}"
    except BatonError as error:
        found, why = None, str(error)
    if found is None:
        _log.warning("%s; a quick one stands in", why)
        return _quick(settings, family, here)
    if missing := here.members.keys() - found.conditions.members.keys():
        _log.warning("the profile lacks %s; %s", ", ".join(sorted(missing)), REMEDY)
    return found


def with_rows(settings: EdgeSettings, profile: Profile | None) -> EdgeSettings:
    """With a number of rows in place of ``auto``: those of the plateau, where it was measured."""
    if settings.max_rows != "auto":
        return settings
    rows = AUTO_ROWS if profile is None else max(profile.best_rows, 2)
    return settings.model_copy(update={"max_rows": rows})


def _quick(settings: EdgeSettings, family: LoadedFamily, here: Conditions) -> Profile:
    """On a thread of its own where the model may take more than the process's others.

    What OpenMP keeps of its team ends with the thread.
    """
    effort = Effort.quick(settings.rows_limit, settings.activation_mib << 20)
    before = torch.get_num_threads()
    if here.threads == before:
        return measured(family, here, effort)
    with ThreadPoolExecutor(1, initializer=use_threads, initargs=(here.threads,)) as own:
        made = own.submit(measured, family, here, effort).result()
    torch.set_num_threads(before)  # which those take that compute for the first time from now on
    return made
