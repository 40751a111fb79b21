from __future__ import annotations

import pytest

from baton.device_client.result import Seconds
from baton.device_client.so_far import SoFar
from baton.device_client.wire import EdgeTimes


@pytest.mark.parametrize(
    ("told", "queue", "edge", "transfer"),
    [
        (EdgeTimes(0.5, 2.0), 0.5, 2.0, 1.5),
        (EdgeTimes(0.5, 1e4), 0.5, 3.5, 0.0),
        (EdgeTimes(1e4, 1e4), 4.0, 0.0, 0.0),
    ],
)
def test_the_parts_of_the_time_are_all_of_it_whatever_an_edge_tells(
    told: EdgeTimes, queue: float, edge: float, transfer: float
) -> None:
    so_far = SoFar(
        times=told, deciding_seconds=1.0, edge_seconds=4.0, device_seconds=2.0, decode_seconds=0.5
    )
    assert so_far.seconds == Seconds(7.0, 1.0, queue, edge, transfer, 1.5, 0.5)
