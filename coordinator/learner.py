"""What the bandit is taught: under which key a decision counts, and what a store has kept."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from baton.common.arm import Arm
from baton.common.explanation import DecisionRecord
from baton.common.query import DecideQuery
from baton.coordinator.bandit.context import FEATURES
from baton.coordinator.bandit.linucb import ArmModel, FloatArray, LinUCB, Score
from baton.coordinator.known import Known, is_general
from baton.coordinator.store.base import RewardRow, Store
from baton.coordinator.values import ArmKey, ArmStats


@dataclass(frozen=True, slots=True)
class Restored:
    """What a store taught. rewards: how many.

    others: how many decisions are of another context and teach nothing, by its entries' names.
    """

    rewards: int
    others: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def complaint(self) -> str:
        """Which decisions teach nothing, in one line; empty if all do."""
        kinds = [
            f"{count} of {', '.join(names) or 'entries without names'}"
            for names, count in self.others.items()
        ]
        return (
            f"decisions of another context than this version's, which teach nothing:"
            f" {'; '.join(kinds)}"
            if kinds
            else ""
        )


class Learner:
    """A bandit whose arms are those of what is known."""

    def __init__(self, bandit: LinUCB[ArmKey], known: Known) -> None:
        self._bandit = bandit
        self._known = known

    def replay(self, store: Store) -> tuple[Restored, list[DecisionRecord]]:
        """Learn from every reward; also gives all decisions that are pending."""
        self._known.first_spaces.update(store.first_spaces())
        others: Counter[tuple[str, ...]] = Counter()
        count = self._bandit.replay(self._lessons(store.rewards(), others))
        pending = store.pending()
        others.update(item.features for item in pending if item.features != FEATURES)
        return Restored(count, others), pending

    def score(self, query: DecideQuery, arm: Arm, context: FloatArray) -> Score:
        """Of the arm at ``context`` [d]."""
        return self._bandit.score(self._known.key(query.family, query.latent_space, arm), context)

    def begin(self, record: DecisionRecord, context: FloatArray) -> ArmKey | None:
        """The arm is pulled, at ``context`` [d]. None: nothing is to be learned from it."""
        self._note_space(record.family, record.latent_space)
        if record.features != FEATURES or not (record.own_arm or is_general(record.arm)):
            return None
        key = self._roomy_key(record.family, record.latent_space, record.arm)
        if key:
            self._bandit.begin(key, context)
        return key

    def withdraw(self, key: ArmKey, context: FloatArray) -> None:
        """A pull that was begun never happened."""
        self._bandit.withdraw(self._known.renamed(key), context)

    def resolve(self, key: ArmKey, context: FloatArray, reward: float) -> None:
        """The reward of a pull that was begun."""
        self._bandit.resolve(self._known.renamed(key), context, reward)

    def stats(self) -> list[ArmStats]:
        """Every arm that was pulled, by family and name."""
        return [
            ArmStats(
                family=key.family,
                arm=key.arm,
                pulls=model.rewards + model.pending,
                rewards=model.rewards,
                mean_reward=model.reward_sum / model.rewards if model.rewards else 0.0,
                pending=model.pending,
                latent_space=key.latent_space,
            )
            for key, model in sorted(self._bandit.models().items(), key=_by_name)
            if model.rewards + model.pending
        ]

    def _lessons(
        self, rows: Iterator[RewardRow], others: Counter[tuple[str, ...]]
    ) -> Iterator[tuple[ArmKey, FloatArray, float]]:
        """What the rows teach; those of another context are counted."""
        general = functools.cache(is_general)
        for row in rows:
            if row.features != FEATURES:
                others[row.features] += 1
            elif (row.own_arm or general(row.arm)) and (
                key := self._roomy_key(row.family, row.latent_space, row.arm)
            ):
                yield key, row.context, row.reward

    def _roomy_key(self, family: str, latent_space: str, arm: Arm) -> ArmKey | None:
        """The key under which the arm learns; None if there is no room for it.

        If the room is used up, arms that nobody names any more give way.
        """
        key = self._known.key(family, latent_space, arm)
        if not self._bandit.has_room(key):
            self._bandit.keep(self._known.holder())
        return key if self._bandit.has_room(key) else None

    def _note_space(self, family: str, latent_space: str) -> None:
        """The first that a family names takes over what was learned while it named none."""
        if latent_space and family not in self._known.first_spaces:
            self._known.first_spaces[family] = latent_space
            self._bandit.rename(self._known.renamed)


def _by_name(item: tuple[ArmKey, ArmModel]) -> tuple[str, str, str]:
    key, _ = item
    return key.family, str(key.arm), key.latent_space
