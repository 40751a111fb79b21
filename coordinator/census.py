"""What known edges name, by family: members, latent spaces, and its own arms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

from baton.common.arm import Arm
from baton.common.node import Registration
from baton.common.request import Preference

N = TypeVar("N", bound=Hashable)


class Tally(Generic[N]):
    """How many edges say each name (of a member, of a latent space, an arm), by family."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[N]] = {}

    def add(self, family: str, names: Collection[N]) -> None:
        self._counts.setdefault(family, Counter()).update(names)

    def remove(self, family: str, names: Collection[N]) -> None:
        left = self._counts.pop(family, Counter[N]()) - Counter(names)
        if left:
            self._counts[family] = left

    def names(self, family: str) -> frozenset[N]:
        return frozenset(self._counts.get(family, ()))

    def families(self) -> frozenset[str]:
        return frozenset(self._counts)


class Census:
    """Which names the known edges of each family use, whatever state they are in."""

    def __init__(self) -> None:
        self._loaded, self._named, self._spaces = Tally[str](), Tally[str](), Tally[str]()
        self._partial = Tally[str]()
        self._arms = Tally[tuple[Preference, Arm]]()

    def add(self, about: Registration) -> None:
        self._loaded.add(about.family, about.members)
        self._named.add(about.family, about.family_members)
        self._spaces.add(about.family, _space(about))
        self._arms.add(about.family, _arms(about))
        self._partial.add(about.family, about.partial_members)

    def remove(self, about: Registration) -> None:
        self._loaded.remove(about.family, about.members)
        self._named.remove(about.family, about.family_members)
        self._spaces.remove(about.family, _space(about))
        self._arms.remove(about.family, _arms(about))
        self._partial.remove(about.family, about.partial_members)

    def members(self, family: str) -> tuple[str, ...]:
        """Members that any known edge of the family holds, sorted."""
        return tuple(sorted(self._loaded.names(family)))

    def named(self, family: str) -> frozenset[str]:
        """Members of the family as far as known edges name them, loaded or not."""
        return self._loaded.names(family) | self._named.names(family)

    def families(self) -> dict[str, frozenset[str]]:
        """All that `named` knows, by family."""
        return {family: self.named(family) for family in self._loaded.families()}

    def spaces(self, family: str) -> frozenset[str]:
        """Ids of the latent spaces that known edges of the family name."""
        return self._spaces.names(family)

    def arms(self, family: str) -> frozenset[tuple[Preference, Arm]]:
        """What known edges of the family draw for a preference, each with that preference."""
        return self._arms.names(family)

    def partial(self, family: str) -> frozenset[str]:
        """Members of the family that some known edge says to be for some levels of noise only."""
        return self._partial.names(family)


def _arms(about: Registration) -> list[tuple[Preference, Arm]]:
    return list(about.arms.items())


def _space(about: Registration) -> tuple[str, ...]:
    return (about.latent_space,) if about.latent_space else ()
