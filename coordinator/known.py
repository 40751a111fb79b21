"""Which families, members and latent spaces there are: those that edges or known manifests name.

A device names what it likes. Arms of these alone are stored and learned from; what it is told about
others leaves no trace.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from baton.common.arm import Arm
from baton.common.errors import WeightsError
from baton.common.families.manifest import BUILT_IN, read_manifest
from baton.common.query import DecideQuery
from baton.common.request import Preference
from baton.coordinator.bandit.arms import choices
from baton.coordinator.census import Census
from baton.coordinator.values import ArmKey

_log = logging.getLogger(__name__)
#: How the ids of decisions begin that were not kept.
UNKEPT = "unkept-"
#: By preference.
Arms = Mapping[Preference, Arm]


@dataclass(frozen=True, slots=True)
class Family:
    """What is known of one without an edge: its members, and its own arms.

    partial: those members that take steps at some levels of noise only.
    """

    members: Collection[str]
    arms: Arms = field(default_factory=dict)
    partial: Collection[str] = ()


Families = Mapping[str, Family]
_UNKNOWN = Family(())


def built_in_families() -> Families:
    """Those that come with Baton, as far as their manifests lie on this machine."""
    found = {}
    for folder in BUILT_IN.values():
        try:
            manifest = read_manifest(folder)
        except WeightsError as error:
            _log.warning("%s; its members are known once an edge names them", error)
        else:
            found[manifest.name] = Family(
                tuple(manifest.members), manifest.own_arms, manifest.partial_members
            )
    return found


@dataclass(frozen=True)
class Known:
    """specs: families that are known whether an edge serves them or not.

    first_spaces: by family, the latent space that the first decision named which named any. What
    names none, as all that was learned before spaces had ids, counts for it.
    """

    specs: Families
    census: Census
    first_spaces: dict[str, str] = field(default_factory=dict)

    def part_of(self, query: DecideQuery) -> DecideQuery:
        """The question without the members and the latent space that the device alone names."""
        known = self.census.named(query.family).union(self._spec(query.family).members)
        members = tuple(name for name in query.members if name in known)
        space = query.latent_space if query.latent_space in self._spaces(query.family) else ""
        return replace(query, members=members, latent_space=space)

    def partial(self, query: DecideQuery) -> frozenset[str]:
        """Members that are said to take steps at some levels of noise only."""
        told = self.census.partial(query.family)
        return told.union(self._spec(query.family).partial, query.partial_members)

    def own_arms(self, family: str) -> dict[Arm, frozenset[Preference]]:
        """The family's own, in the order of their texts, with the preferences that they are for."""
        told = self.census.arms(family) | set(self._spec(family).arms.items())
        arms = sorted({arm for _, arm in told}, key=str)
        return {arm: frozenset(p for p, other in told if other == arm) for arm in arms}

    def preferences(self, key: ArmKey) -> frozenset[Preference]:
        """Those for which the key's family has its arm; none of another arm."""
        return self.own_arms(key.family).get(key.arm, frozenset())

    def key(self, family: str, latent_space: str, arm: Arm) -> ArmKey:
        """Under which the arm is learned, as things stand."""
        first = self.first_spaces.get(family, "")
        return ArmKey(family, first and (latent_space or first), arm)

    def renamed(self, key: ArmKey) -> ArmKey:
        """A key that was made when things stood otherwise."""
        return self.key(key.family, key.latent_space, key.arm)

    def holder(self) -> Callable[[ArmKey], bool]:
        """Whether an arm is of a member and a latent space that are known, at this moment."""
        members = {family: frozenset(spec.members) for family, spec in self.specs.items()}
        for family, names in self.census.families().items():
            members[family] = members.get(family, frozenset()) | names
        spaces = {family: self._spaces(family) for family in members}

        def holds(key: ArmKey) -> bool:
            known = members.get(key.family, frozenset())
            return known.issuperset(key.arm.members) and key.latent_space in spaces[key.family]

        return holds

    def _spec(self, family: str) -> Family:
        return self.specs.get(family, _UNKNOWN)

    def _spaces(self, family: str) -> frozenset[str]:
        return self.census.spaces(family) | {"", self.first_spaces.get(family, "")}


def unkept_id(query: DecideQuery) -> str:
    """The same for the same question, so that the tickets of its answers are one leave."""
    return UNKEPT + hashlib.blake2b(repr(query).encode(), digest_size=16).hexdigest()


def is_general(arm: Arm) -> bool:
    """Whether the bandit makes it of any family's members.

    Beside these it learns of the family's own; others are a user's, each as good as unique.
    """
    return len(arm.stretches) <= 2 and arm in choices(arm.members, arm.members)
