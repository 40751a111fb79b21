"""What every store of decisions promises."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from baton.common.arm import Arm
from baton.common.decision import EdgeChoice
from baton.common.explanation import ArmScore, DecisionRecord
from baton.common.outcome import EdgeAttempt, Outcome
from baton.coordinator.store.base import NewDecision, Resolution, Store
from baton.coordinator.store.memory import MemoryStore
from baton.coordinator.store.sqlite import SqliteStore

SMALL, RELAY = Arm.device("small"), Arm.relay("large", "small", 0.4)
FEATURES = ("bias", "words", "objects")
LOST = EdgeAttempt("e1", "10.0.0.1:1", 0, 5, "UNAVAILABLE", "the connection broke")
OUTCOME = Outcome(
    ok=True, arm=SMALL, total_seconds=1.25, bytes_sent=7, quality=0.5, attempts=(LOST,)
)


def decision(
    number: int, request: str = "", owner: str = "", latent_space: str = ""
) -> DecisionRecord:
    return DecisionRecord(
        decision_id=f"d{number}",
        request_id=request or f"r{number}",
        created_unix=1000.0 + number,
        family="scenes",
        preference="quality",
        arm=RELAY,
        propensity=1 / 3,
        explored=True,
        context=(1.0, 0.1, number / 7),
        scores=(ArmScore(Arm.edge("large"), True, 0.1, 0.2), ArmScore(SMALL, False, reason="no")),
        edges=(EdgeChoice("e1", "10.0.0.1:1", "idle"),),
        rejected=(EdgeChoice("e2", "10.0.0.2:1", "full"),),
        reason="the highest bound",
        owner=owner,
        latent_space=latent_space,
        features=FEATURES,
    )


def rewarded(number: int, reward: float = 0.75) -> Resolution:
    return Resolution(f"d{number}", "rewarded", reward, 2000.0, OUTCOME)


class StoreContract(abc.ABC):
    """Subclass it with a `store` fixture."""

    @abc.abstractmethod
    def store(self, tmp_path: Path) -> Iterator[Store] | Store: ...

    def test_a_decision_comes_back_as_it_was(self, store: Store) -> None:
        assert store.write([NewDecision(decision(1))]) == [True]
        assert store.find("d1") == decision(1)

    def test_an_unknown_id_finds_nothing(self, store: Store) -> None:
        assert store.find("d1") is None

    def test_a_request_id_finds_its_newest_decision(self, store: Store) -> None:
        store.write([NewDecision(decision(1, "same")), NewDecision(decision(2, "same"))])
        assert store.find("same") == decision(2, "same")

    def test_a_decision_id_wins_over_a_request_id(self, store: Store) -> None:
        store.write([NewDecision(decision(1)), NewDecision(decision(2, "d1"))])
        assert store.find("d1") == decision(1)

    def test_with_an_owner_only_that_ones_decisions_are_there(self, store: Store) -> None:
        anna, bert = decision(1, "same", "anna"), decision(2, "same", "bert")
        store.write([NewDecision(anna), NewDecision(bert), NewDecision(decision(3))])
        assert store.find("same", "anna") == store.find("d1", "anna") == anna
        assert store.find("same", "bert") == store.find("same") == bert
        assert store.find("d2", "anna") is store.find("d3", "anna") is None

    def test_a_taken_decision_id_changes_nothing(self, store: Store) -> None:
        again = decision(1, "another")
        assert store.write([NewDecision(decision(1)), NewDecision(again)]) == [True, False]
        assert store.find("d1") == decision(1)

    def test_a_reward_is_applied_exactly_once(self, store: Store) -> None:
        store.write([NewDecision(decision(1))])
        assert store.write([rewarded(1, 0.75), rewarded(1, 0.25)]) == [True, False]
        assert store.write([Resolution("d1", "expired", 0.0, 3000.0)]) == [False]
        found = store.find("d1")
        assert found is not None
        assert (found.state, found.reward, found.outcome) == ("rewarded", 0.75, OUTCOME)
        assert [row.reward for row in store.rewards()] == [0.75]

    def test_a_reward_for_nothing_is_not_kept(self, store: Store) -> None:
        assert store.write([rewarded(1)]) == [False]
        store.write([NewDecision(decision(1))])
        assert list(store.rewards()) == []

    def test_a_withdrawn_decision_has_ended_without_a_reward(self, store: Store) -> None:
        store.write([NewDecision(decision(number)) for number in range(2)])
        gone = Resolution("d0", "withdrawn", None, 2000.0, Outcome(ok=False, error="CANCELLED"))
        assert store.write([gone, rewarded(0), gone]) == [True, False, False]
        found = store.find("d0")
        assert found is not None
        assert (found.state, found.reward, found.outcome) == ("withdrawn", None, gone.outcome)
        assert list(store.rewards()) == []
        assert store.pending() == [decision(1)]

    def test_one_batch_may_hold_a_decision_and_its_end(self, store: Store) -> None:
        expired = Resolution("d1", "expired", 0.0, 3000.0)
        assert store.write([NewDecision(decision(1)), expired]) == [True, True]
        found = store.find("d1")
        assert found is not None
        assert (found.state, found.reward, found.outcome) == ("expired", 0.0, None)

    def test_rewards_come_in_the_order_they_were_applied(self, store: Store) -> None:
        store.write([NewDecision(decision(number)) for number in range(3)])
        store.write([rewarded(2, 0.2)])
        store.write([rewarded(0, 0.0), rewarded(1, 0.1)])
        rows = list(store.rewards())
        assert [row.reward for row in rows] == [0.2, 0.0, 0.1]
        assert {(row.family, row.latent_space, row.arm, row.features) for row in rows} == {
            ("scenes", "", RELAY, FEATURES)
        }
        np.testing.assert_array_equal(rows[0].context, decision(2).context)

    def test_a_decisions_latent_space_comes_back_and_the_first_of_its_family_is_known(
        self, store: Store
    ) -> None:
        store.write([NewDecision(decision(1)), rewarded(1)])
        assert store.first_spaces() == {}
        named = [decision(2, latent_space="one"), decision(3, latent_space="two")]
        other = replace(decision(4, latent_space="two"), family="sd15")
        store.write([*map(NewDecision, [*named, other]), rewarded(4), rewarded(3), rewarded(2)])
        assert [store.find("d2"), store.find("d3")] == [
            replace(item, state="rewarded", reward=0.75, outcome=OUTCOME) for item in named
        ]
        assert [row.latent_space for row in store.rewards()] == ["", "two", "two", "one"]
        assert store.first_spaces() == {"scenes": "one", "sd15": "two"}

    def test_each_decision_keeps_the_names_of_its_own_context(self, store: Store) -> None:
        old, bare = replace(decision(1), features=("bias",), context=(1.0,)), decision(2)
        bare = replace(bare, features=())
        store.write([*map(NewDecision, [old, bare, decision(3)]), rewarded(1), rewarded(2)])
        assert [item.features for item in store.recent(3)] == [FEATURES, (), ("bias",)]
        assert [row.features for row in store.rewards()] == [("bias",), ()]

    def test_pending_decisions_are_those_without_a_reward(self, store: Store) -> None:
        store.write([NewDecision(decision(number)) for number in range(3)])
        store.write([rewarded(1)])
        assert store.pending() == [decision(0), decision(2)]

    def test_recent_decisions_come_newest_first(self, store: Store) -> None:
        store.write([NewDecision(decision(number)) for number in range(5)])
        assert [item.decision_id for item in store.recent(2)] == ["d4", "d3"]


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return MemoryStore()


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        opened = SqliteStore(tmp_path / "new" / "folder" / "coordinator.db")
        yield opened
        opened.close()
