"""The figures of ``bench/relay.json``, each a comparison within one run.

All scores are graded, of the headline's prompts (of the refined ones where an arm of many steps is
drawn on those alone; ``n`` tells), paired; times are medians over rounds of ratios within a round.

- ``baseline``: of a relay, the `large` of the fewest steps, however spaced, whose mean score is the
  relay's at least. ``relay``: the one that is the most times faster than its baseline, of those
  that equal it (lower end of the interval at -0.025 or above). What either loses against `large`
  at 50 plain steps stands in its row, as ``graded_minus_reference``.
- ``relay_at_equal_steps``: `large` handing over to the finisher at 0.4 of the named 10 steps, and
  ``_50`` of the named 50, against `large` through the same levels: time, and score.
- ``relay_vs_fewer_steps``: time of the baseline over the relay's, in process; ``_grpc``: through
  coordinator, edge and device over loopback, and so on for each further setting.
- ``relay_vs_alternatives``: the same of the fastest of all else that equals the baseline in score.
- ``relay_vs_one_step_less``: against `large` with one step less than the baseline, the relay with
  the highest score that takes no more time.
- ``edge_seconds_saved``: an edge's seconds of a picture of the baseline over the relay's, by the
  edge's own clock.
- ``control_plane_ms``: of the arm that is drawn when nobody names one: the whole time over loopback
  less what edge and device computed. ``platform_overhead_ms``: the same arm's time through the
  product less that in process, within a round.
- ``round_trips``: that a warm picture of that arm waits for; ``wire_round_trips``: that proxies
  count, its report among them, which no picture waits for.
- ``losses``: of the relays against `large` at as many plain steps, and with accelerations on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from baton.common.families.spec import FamilySpec
from tests.bench.arms import RELAYS
from tests.bench.choosing import Option, best_of_each_count, confirmed
from tests.bench.product import Billed
from tests.bench.ratios import EQUAL_MARGIN, paired_ratio
from tests.bench.rows import Measured

Figures = dict[str, Any]

DEFAULT = "default"
LOOPBACK = "loopback"
#: Relays with the run of `large` through the same levels.
EQUAL_STEPS = {
    "relay_at_equal_steps": ("edge/large*4>device/finisher*6", "edge/large*10"),
    "relay_at_equal_steps_50": ("edge/large*20>device/finisher*30", "edge/large*50"),
}
_LOSSES_AT = (10, 20, 50)


@dataclass(frozen=True)
class Chosen:
    """Names of what is compared.

    less: `large` with one step less than the baseline, if that is known. careful: the relay with
    the highest score that takes no more time than it. relay_confirmed: whether the relay's whole
    interval against the baseline is within the margin.
    """

    baseline: str
    less: str | None
    careful: str | None
    relay: str
    relay_confirmed: bool


def choose(refined: Measured, headline: Measured, candidates: Sequence[str]) -> Chosen:
    """candidates: relays by choice on the refined prompts; compared on the headline's."""
    options = {name: headline.option(name) for name in headline.times}
    large = [one for name, one in options.items() if headline.entries[name].kind == "large"]
    relays = [options[name] for name in candidates]
    relay, baseline, holds = confirmed(relays, large)
    less = best_of_each_count(large).get(baseline.steps - 1)
    careful = _careful(refined, less) if less else None
    return Chosen(baseline.name, less.name if less else None, careful, relay.name, holds)


def _careful(refined: Measured, less: Option) -> str | None:
    timed = [name for name in refined.drawings if name in refined.times]
    relays = [name for name in timed if refined.entries[name].kind in RELAYS]
    able = [name for name in relays if refined.seconds(name) <= less.cost]
    return max(able, key=refined.graded, default=None)


def in_process(refined: Measured, headline: Measured, chosen: Chosen) -> Figures:
    figures: Figures = {
        name: _against(measured, *pair)
        for measured in (refined, headline)
        for name, pair in EQUAL_STEPS.items()
        if {*pair} <= {*measured.drawings}
    }
    figures["baseline"] = chosen.baseline
    figures["relay"] = chosen.relay
    figures["relay_confirmed"] = chosen.relay_confirmed
    figures["relay_vs_fewer_steps"] = _against(headline, chosen.relay, chosen.baseline)
    figures["relay_vs_alternatives"] = _alternatives(headline, chosen, chosen.relay)
    if chosen.less is not None and chosen.careful is not None:
        figures["relay_vs_one_step_less"] = _against(headline, chosen.careful, chosen.less)
    figures["losses"] = _losses(refined) | _losses(headline)
    return figures


def _against(headline: Measured, one: str, other: str) -> Figures:
    """How many times less time, and the difference in score."""
    return {
        "name": one,
        "against": other,
        "time_ratio": asdict(headline.speedup(one, other)),
        "graded_minus": asdict(headline.difference(one, other)),
        "sign_flip_p": headline.sign_flip(one, other),
        "n": len(headline.cases),
    }


def _alternatives(headline: Measured, chosen: Chosen, relay: str) -> Figures | None:
    """The fastest of what is no relay and equals the baseline in score."""
    equal = [
        name
        for name in headline.drawings
        if headline.entries[name].kind in ("large", "partly unguided", "accelerated", "smaller")
        and headline.difference(name, chosen.baseline).low >= -EQUAL_MARGIN
    ]
    fastest = min(equal, key=headline.seconds, default=None)
    return None if fastest is None else _against(headline, relay, fastest)


def _losses(headline: Measured) -> Figures:
    """By relay: against `large` at as many plain steps; accelerated ones to the same plain."""
    told: Figures = {}
    for name in headline.drawings:
        entry, steps = headline.entries[name], headline.plans[name].steps
        plain = f"edge/large {steps}"
        of_relay = entry.kind in (*RELAYS, "finisher accelerated")
        if of_relay and steps in _LOSSES_AT and plain in headline.drawings:
            against = {"against": plain, "n": len(headline.cases)}
            told[name] = against | asdict(headline.difference(name, plain))
    return told


def through_product(settings: Mapping[str, Billed], chosen: Chosen) -> Figures:
    loopback = settings[LOOPBACK]
    control = 1000 * median(loopback.values(DEFAULT, "control"))
    extra = [
        1000 * (total - here)
        for total, here in zip(loopback.values(DEFAULT, "total"), loopback.here, strict=True)
    ]
    figures: Figures = {
        "control_plane_ms": control,
        "platform_overhead_ms": median(extra),
        "round_trips": median(loopback.values(DEFAULT, "round_trips")),
    }
    for name, billed in settings.items():
        if billed.wire_trips is not None:
            figures["wire_round_trips"] = billed.wire_trips
        key = "relay_vs_fewer_steps_" + ("grpc" if name == LOOPBACK else name)
        figures[key] = _billed_ratio(billed, chosen.baseline, chosen.relay, "total")
    saved = _billed_ratio(loopback, chosen.baseline, chosen.relay, "edge")
    figures["edge_seconds_saved"] = saved
    return figures


def _billed_ratio(billed: Billed, one: str, other: str, field: str) -> Figures | None:
    """None if the other takes none of it."""
    over = billed.values(other, field)
    return asdict(paired_ratio(billed.values(one, field), over)) if all(over) else None


def default_arm(spec: FamilySpec) -> str:
    """That is drawn when the caller names none."""
    return str(spec.arms["balanced"])
