"""A store that forgets: for simulations and tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from baton.common.explanation import DecisionRecord
from baton.coordinator.store.base import NewDecision, Resolution, RewardRow, Write


class MemoryStore:
    """Decisions and rewards in dictionaries."""

    def __init__(self) -> None:
        self._decisions: dict[str, DecisionRecord] = {}
        self._resolved: list[str] = []

    def write(self, items: Sequence[Write]) -> list[bool]:
        return [
            self._save(item.record) if isinstance(item, NewDecision) else self._resolve(item)
            for item in items
        ]

    def find(self, key: str, owner: str = "") -> DecisionRecord | None:
        own = [item for item in self._decisions.values() if owner in ("", item.owner)]
        matches = [item for item in own if item.decision_id == key]
        matches = matches or [item for item in own if item.request_id == key]
        return matches[-1] if matches else None

    def recent(self, limit: int) -> list[DecisionRecord]:
        return list(reversed(self._decisions.values()))[:limit]

    def pending(self) -> list[DecisionRecord]:
        return [item for item in self._decisions.values() if item.state == "pending"]

    def rewards(self) -> Iterator[RewardRow]:
        for decision_id in self._resolved:
            item = self._decisions[decision_id]
            if item.reward is not None:
                context = np.array(item.context, dtype=np.float64)
                told = item.family, item.latent_space, item.arm, item.features
                yield RewardRow(*told, context, item.reward, item.own_arm)

    def first_spaces(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for item in self._decisions.values():
            if item.latent_space:
                found.setdefault(item.family, item.latent_space)
        return found

    def close(self) -> None:
        pass

    def _save(self, record: DecisionRecord) -> bool:
        if record.decision_id in self._decisions:
            return False
        self._decisions[record.decision_id] = record
        return True

    def _resolve(self, item: Resolution) -> bool:
        record = self._decisions.get(item.decision_id)
        if record is None or record.state != "pending":
            return False
        self._decisions[item.decision_id] = replace(
            record, state=item.state, reward=item.reward, outcome=item.outcome
        )
        self._resolved.append(item.decision_id)
        return True
