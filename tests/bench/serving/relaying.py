"""The relay as capacity: what an edge gains where half of its requests are handed off.

A request that ends in a relay at 40% frees its place there and is never decoded here. What that
could give at most is accounted: of a picture's seconds on the edge, the share of its steps that is
left to others, and its decode.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import use_threads
from baton.common.quality.scores import summarise
from baton.common.quality.verifier import Quality, Scorer
from tests.bench.serving.closed import SHARE, bare_pace
from tests.bench.serving.plans import task_of
from tests.bench.serving.replay import pictures, qualities
from tests.bench.serving.systems import MAX_ROWS
from tests.bench.serving.trace import STEPS, Request

_LARGE, _SMALL = "large", "small"
ARM = f"edge/{_LARGE}@{SHARE}>device/{_SMALL}"


@dataclass(frozen=True)
class Costs:
    """Seconds on the edge of one picture of a full batch: prompt, all steps, decode."""

    encode: float
    denoise: float
    decode: float

    def ideal(self, relayed: float = 0.5, share: float = SHARE) -> float:
        """Throughput over that without a relay, where this share of the requests is handed off.

        With steps alone, half of them at 40%: 1 / (0.5 + 0.5 * 0.4) = 1.43.
        """
        whole = self.encode + self.denoise + self.decode
        handed = self.encode + share * self.denoise
        return whole / ((1 - relayed) * whole + relayed * handed)


def costs(family: LoadedFamily, seconds: float, member: str = _LARGE) -> Costs:
    """Measured alone, each for a third of ``seconds``, of a picture of the mean steps."""
    with ThreadPoolExecutor(1, initializer=use_threads, initargs=(1,)) as thread:
        return thread.submit(_costs, family, seconds / 3, member).result()


def _costs(family: LoadedFamily, seconds: float, member: str) -> Costs:
    side = family.spec.default_size
    latent = torch.zeros(family.latent_shape(side))
    rows = bare_pace(family, member, MAX_ROWS // 2, seconds)
    return Costs(
        encode=_mean_seconds(lambda: family.encode_text("two blue houses", member=member), seconds),
        denoise=2 * fmean(STEPS) / rows,
        decode=_mean_seconds(lambda: family.decode(latent), seconds),
    )


def _mean_seconds(call: Callable[[], object], seconds: float) -> float:
    call()
    begun, calls = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds or not calls:
        call()
        calls += 1
    return (time.perf_counter() - begun) / calls


def mix_scores(
    family: LoadedFamily, requests: Sequence[Request], scorer: Scorer, member: str = _LARGE
) -> dict[str, dict[str, Any]]:
    """Scores of whole pictures, and of the mix with every other one finished on a device."""

    def drawn(relayed: Sequence[Request], relay: str, title: str) -> list[Quality]:
        tasks = [task_of(family.spec, member, request, "none", relay) for request in relayed]
        asked = [(task.prompt, task.seed, task.plan) for task in tasks]
        return qualities(pictures(family, asked, title), asked, scorer)

    whole = drawn(requests, "", "whole")
    mix = [*whole[::2], *drawn(requests[1::2], ARM, "relayed")]
    return {
        name: summarise([one.graded for one in of], [one.strict for one in of]).as_dict()
        for name, of in (("whole", whole), ("mix", mix))
    }
