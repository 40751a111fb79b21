"""Which plans the curve compares."""

from __future__ import annotations

from collections import Counter

from baton.common.families.manifest import find_family, read_manifest
from tests.bench.configs import Config, Configs, Grid

MADE = Configs(read_manifest(find_family("scenes")), Grid())


def named(configs: list[Config]) -> dict[str, Config]:
    by_name = {config.name: config for config in configs}
    assert len(by_name) == len(configs)
    return by_name


def test_every_relay_is_cut_at_every_tenth() -> None:
    relays = named(MADE.relays())
    assert Counter(config.kind for config in relays.values()) == {
        "large>small": 9,
        "large>medium": 9,
        "small>large": 9,
        "large>medium>small": 36,
    }
    relay = relays["large>medium>small@0.2,0.7"]
    assert relay.cuts == (10, 35)
    assert [(s.member, s.location) for s in relay.plan.segments] == [
        ("large", "edge"),
        ("medium", "edge"),
        ("small", "device"),
    ]
    back = relays["small>large@0.4"].plan
    assert [(s.member, s.location, s.stop) for s in back.segments] == [
        ("small", "device", 20),
        ("large", "edge", 50),
    ]


def test_all_of_them_are_guided_ddim_of_fifty_steps() -> None:
    for config in [*MADE.alone(), *MADE.relays(), *MADE.foreign()]:
        assert (config.sampler, config.plan.steps) == ("ddim", 50)
        assert all(config.plan.guided_at(step) for step in range(50))
        assert config.plan.segments[0].guidance.scale > 1


def test_the_alternatives_are_every_member_after_a_trial_of_every_sampler() -> None:
    trials = named(MADE.trials())
    assert len(trials) == 3 * 3 * len(Grid().trial)
    fewer = named(MADE.fewer({"large": "ddim", "medium": "dpmpp_2m", "small": "euler"}))
    assert len(fewer) == 3 * len(Grid().fewer)
    config = fewer["medium 15 dpmpp_2m"]
    assert (config.sampler, config.plan.steps) == ("dpmpp_2m", 15)


def test_the_control_is_the_foreign_member_alone_and_after_large() -> None:
    foreign = named(MADE.foreign())
    assert foreign["foreign 50"].members == ("foreign",)
    assert foreign["large>foreign@0.4"].members == ("large", "foreign")
    assert len(foreign) == 10
