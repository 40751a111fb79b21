"""What planning costs: ``python -m tests.bench.planner``."""

from __future__ import annotations

import json
import time
from itertools import product
from statistics import median
from typing import Any

from baton.edge_server.scheduling.actions import Bounds
from baton.edge_server.scheduling.planner import Waiting
from baton.edge_server.scheduling.table import PlanTable
from tests.support.latencies import Noisy

#: Of most plans: 16 UNet and 8 VAE tasks, any budget of lean ones.
FULL = Bounds(tasks=16, decodes=8, most_tasks=16, most_decodes=8)
DELTAS = (0.05, 0.08, 0.15)


def planner_rows(repeats: int = 5) -> list[dict[str, Any]]:
    """A row by waiting rule: seconds of a table, and of a plan in its greatest states, at a median.

    Latencies are Table I's, up to a tenth longer at random, which makes the fronts large.
    """
    return [_row(waiting, repeats) for waiting in Waiting]


def _row(waiting: Waiting, repeats: int) -> dict[str, Any]:
    building, planning = [], []
    for seed in range(repeats):
        begun = time.perf_counter()
        table = PlanTable.build(Noisy(seed, noise=0.1), FULL, waiting)
        building.append(time.perf_counter() - begun)
        for lean, delta in product(range(FULL.tasks + 1), DELTAS):
            begun = time.perf_counter()
            table.plan(FULL.tasks, FULL.decodes, lean, delta)
            planning.append(time.perf_counter() - begun)
    return {
        "name": f"planner, {waiting.value}",
        "table_seconds": median(building),
        "plan_seconds": median(planning),
        "plan_seconds_most": max(planning),
    }


if __name__ == "__main__":
    print(json.dumps(planner_rows(), indent=1))
