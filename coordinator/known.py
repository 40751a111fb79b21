"""Which families and members there are: those that registered edges or known manifests name.

A device names what it likes; arms are made, and learned, of nothing else than these.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from common.errors import WeightsError
from common.families.manifest import BUILT_IN, read_manifest
from common.plan import Arm
from coordinator.bandit.arms import RELAY_FRACTIONS
from coordinator.bandit.prior import split_key
from coordinator.fleet import Fleet

_log = logging.getLogger(__name__)
#: Members by family.
Families = Mapping[str, Collection[str]]


def built_in_families() -> Families:
    """Those that come with Baton, as far as their manifests lie on this machine."""
    found = {}
    for folder in BUILT_IN.values():
        try:
            manifest = read_manifest(folder)
        except WeightsError as error:
            _log.warning("%s; its members are known once an edge names them", error)
        else:
            found[manifest.name] = tuple(manifest.members)
    return found


@dataclass(frozen=True)
class Known:
    """specs: families that are known whether an edge serves them or not."""

    specs: Families
    fleet: Fleet

    def members(self, family: str) -> frozenset[str]:
        """Members of a family; none if nobody names it."""
        return self.families().get(family, frozenset())

    def families(self) -> dict[str, frozenset[str]]:
        """Members by family, at this moment."""
        found = {family: frozenset(members) for family, members in self.specs.items()}
        for family, members in self.fleet.families().items():
            found[family] = found.get(family, frozenset()) | members
        return found


def holds_arm(families: Mapping[str, Collection[str]], key: str) -> bool:
    """Whether the arm of that key is made of members that are known."""
    family, arm = split_key(key)
    return set(Arm.parse(arm).members) <= set(families.get(family, ()))


def is_learnt(arm: Arm) -> bool:
    """Whether the bandit may choose it; other cuts are a user's own, each as good as unique."""
    return arm.kind != "relay" or arm.fraction in RELAY_FRACTIONS
