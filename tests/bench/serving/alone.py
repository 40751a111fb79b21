"""Pictures drawn alone: what batching is held against, in seconds and in pixels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from baton.common.families.loaded import LoadedFamily
from baton.common.families.local import begin, run_here, use_threads
from tests.bench.serving.plans import task_of
from tests.bench.serving.systems import Picture
from tests.bench.serving.trace import Request


def references(
    family: LoadedFamily, member: str, requests: Sequence[Request]
) -> tuple[list[Picture], list[float]]:
    """One after the other, in full, on a fresh thread as a node's is; and the seconds of each."""
    with ThreadPoolExecutor(1, initializer=use_threads, initargs=(1,)) as thread:
        drawn = [thread.submit(_alone, family, member, request) for request in requests]
        pairs = [one.result() for one in drawn]
    return [picture for picture, _ in pairs], [seconds for _, seconds in pairs]


def _alone(family: LoadedFamily, member: str, request: Request) -> tuple[Picture, float]:
    begun = time.perf_counter()
    task = task_of(family.spec, member, request)
    run = begin(family, task)
    run_here(family, run, task.plan.steps)
    picture = family.decode(run.x)
    return picture, time.perf_counter() - begun
