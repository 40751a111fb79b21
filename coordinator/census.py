"""What known edges name, by family: members and latent spaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from baton.common.node import Registration


class Tally:
    """How many edges say each name (of a member, of a latent space), by family."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, family: str, names: Collection[str]) -> None:
        self._counts.setdefault(family, Counter()).update(names)

    def remove(self, family: str, names: Collection[str]) -> None:
        left = self._counts.pop(family, Counter[str]()) - Counter(names)
        if left:
            self._counts[family] = left

    def names(self, family: str) -> frozenset[str]:
        return frozenset(self._counts.get(family, ()))

    def families(self) -> frozenset[str]:
        return frozenset(self._counts)


class Census:
    """Which names the known edges of each family use, whatever state they are in."""

    def __init__(self) -> None:
        self._loaded, self._named, self._spaces = Tally(), Tally(), Tally()

    def add(self, about: Registration) -> None:
        self._loaded.add(about.family, about.members)
        self._named.add(about.family, about.family_members)
        self._spaces.add(about.family, _space(about))

    def remove(self, about: Registration) -> None:
        self._loaded.remove(about.family, about.members)
        self._named.remove(about.family, about.family_members)
        self._spaces.remove(about.family, _space(about))

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


def _space(about: Registration) -> tuple[str, ...]:
    return (about.latent_space,) if about.latent_space else ()
