"""Masks learned step by step: seeded, resumable, and following what is asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from baton.common.accel.estimators import ESTIMATORS, Estimator, check_estimator, gates
from baton.common.accel.training import MaskTrainer, PartialMask, Settings, relative_error
from baton.common.diffusion.run import Run
from baton.common.errors import UnknownName
from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin
from tests.support.tasks import PROMPTS, plan, task

QUICK = Settings(iterations=3, learning_rate=1.0, refresh_every=0)


def runs(family: LoadedFamily, steps: int = 5, guidance: float = 3.0) -> list[Run]:
    of = plan("device/large", steps, guidance=guidance)
    return [begin(family, task(of, prompt=PROMPTS[seed], seed=seed)) for seed in range(2)]


def trainer(family: LoadedFamily, settings: Settings = QUICK, steps: int = 5) -> MaskTrainer:
    graph = family.blocks("large")
    return MaskTrainer(graph, runs(family, steps), family.profile("large").macs, settings)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_same_seed_learns_the_same_mask(family: LoadedFamily, estimator: Estimator) -> None:
    settings = replace(QUICK, estimator=estimator)
    one, other = trainer(family, settings).train(), trainer(family, settings).train()
    assert (one.run, one.chances) == (other.run, other.chances)
    assert len(one.run) == 5


def test_an_interrupted_training_goes_on_to_the_same_mask(family: LoadedFamily) -> None:
    whole = trainer(family).train()
    begun = PartialMask(whole.run[:3], whole.chances[:3])
    heard: list[int] = []
    again = trainer(family).train(begun, lambda settled: heard.append(len(settled.run)))
    assert (again.run, again.chances) == (whole.run, whole.chances)
    assert heard == [4, 5]


def test_the_first_step_and_what_cannot_be_learned_always_run(family: LoadedFamily) -> None:
    graph = family.blocks("large")
    greedy = replace(QUICK, iterations=8, sparsity=100.0)
    settled = trainer(family, greedy, steps=2).train()
    assert settled.run[0] == graph.all
    always = graph.all & ~graph.constant & ~sum(1 << block for block in graph.learnable)
    assert settled.run[1] == always


def test_every_so_many_steps_everything_is_refreshed(family: LoadedFamily) -> None:
    graph = family.blocks("large")
    greedy = replace(QUICK, sparsity=100.0, refresh_every=2)
    settled = trainer(family, greedy).train()
    everything = graph.all & ~graph.constant
    assert [run == everything for run in settled.run] == [False, False, True, False, True]
    assert settled.run[0] == graph.all


def test_what_costs_nothing_is_not_skipped_for_its_cost(family: LoadedFamily) -> None:
    """Without regularisers only the error counts, and running costs none."""
    careful = replace(QUICK, iterations=8, sparsity=0.0, bimodal=0.0, estimator="interpolate")
    settled = trainer(family, careful).train()
    graph = family.blocks("large")
    assert set(settled.run[1:]) == {graph.all & ~graph.constant}


def test_a_higher_target_presses_harder(family: LoadedFamily) -> None:
    def pressure(target: float) -> float:
        one = trainer(family, replace(QUICK, target_speed=target))
        one.partial = PartialMask([family.blocks("large").all] * 3)
        return one._pressure()

    assert pressure(3.0) > pressure(1.5) > 1.0


def test_training_leaves_the_runs_and_the_model_as_they_were(family: LoadedFamily) -> None:
    given = runs(family)
    before = [run.x.clone() for run in given]
    weights = {
        name: value.clone() for name, value in family.models.unets["large"].named_parameters()
    }
    graph = family.blocks("large")
    MaskTrainer(graph, given, family.profile("large").macs, QUICK).train()
    assert [run.step for run in given] == [0, 0]
    assert all(torch.equal(run.x, x) for run, x in zip(given, before, strict=True))
    for name, value in family.models.unets["large"].named_parameters():
        assert torch.equal(value, weights[name])
        assert value.grad is None


def test_unguided_runs_can_be_trained_on(family: LoadedFamily) -> None:
    graph = family.blocks("large")
    given = runs(family, steps=3, guidance=1.0)
    settled = MaskTrainer(graph, given, family.profile("large").macs, QUICK).train()
    assert len(settled.run) == 3


def test_within_propagation_keys_run_in_full_and_steps_between_them_agree(
    family: LoadedFamily,
) -> None:
    graph = family.blocks("large")
    greedy, costs = replace(QUICK, sparsity=100.0), family.profile("large").macs
    heard: list[int] = []
    whole = MaskTrainer(graph, runs(family, 7), costs, greedy, (0, 3)).train(
        None, lambda settled: heard.append(len(settled.run))
    )
    assert heard == [1, 3, 4, 7]
    everything = graph.all & ~graph.constant
    assert (whole.run[0], whole.run[3]) == (graph.all, everything)
    for group in (whole.run[1:3], whole.run[4:]):
        assert len(set(group)) == 1
        assert not group[0] & graph.encoder
        assert group[0] != everything & ~graph.encoder
    begun = PartialMask(whole.run[:4], whole.chances[:4])
    again = MaskTrainer(graph, runs(family, 7), costs, greedy, (0, 3)).train(begun)
    assert (again.run, again.chances) == (whole.run, whole.chances)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_carries_a_gradient(estimator: Estimator) -> None:
    logits = torch.zeros(4, requires_grad=True)
    drawn = gates(estimator, logits, 6, torch.Generator().manual_seed(1))
    assert drawn.shape == (6, 4)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    drawn.sum().backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()


def test_bernoulli_gates_are_open_or_shut_as_often_as_their_chance_says() -> None:
    logits = torch.tensor([-2.0, 0.0, 2.0])
    drawn = gates("bernoulli", logits, 4000, torch.Generator().manual_seed(2))
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    assert torch.allclose(drawn.mean(0), torch.sigmoid(logits), atol=0.03)


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(UnknownName, match="bernoulli"):
        check_estimator("coin")


def test_the_relative_error_is_that_of_each_row() -> None:
    target = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    out = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert relative_error(out, target) == pytest.approx(0.125)
