"""Which families and members there are: those that registered edges or known manifests name.

A device names what it likes. Arms of these alone are stored and learned from; what it is told about
others leaves no trace.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from baton.common.errors import WeightsError
from baton.common.families.manifest import BUILT_IN, read_manifest
from baton.common.plan import Arm
from baton.coordinator.bandit.arms import RELAY_FRACTIONS
from baton.coordinator.bandit.prior import split_key
from baton.coordinator.fleet import Fleet
from baton.coordinator.values import DecideQuery

_log = logging.getLogger(__name__)
#: How the ids of decisions begin that were not kept.
UNKEPT = "unkept-"
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

    def part_of(self, query: DecideQuery) -> DecideQuery:
        """The question without the members that the device alone names."""
        known = self.fleet.named(query.family).union(self.specs.get(query.family, ()))
        return replace(query, members=tuple(name for name in query.members if name in known))

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


def unkept_id(query: DecideQuery) -> str:
    """The same for the same question, so that the tickets of its answers are one leave."""
    return UNKEPT + hashlib.blake2b(repr(query).encode(), digest_size=16).hexdigest()


def is_learned(arm: Arm) -> bool:
    """Whether the bandit may choose it; other cuts are a user's own, each as good as unique."""
    return arm.kind != "relay" or arm.fraction in RELAY_FRACTIONS
