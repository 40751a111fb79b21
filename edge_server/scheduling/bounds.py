"""What follows from measured latencies: where batches saturate, and into how many parts to cut."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

#: What counts as equally fast, of a rate or of a call's seconds (SynerDiff, offline profiler).
CLOSE = 0.05
#: Of the UNet's loss in Eq. 1, against the decode's; the paper does not tell its own.
WEIGHT = 0.5

#: By ascending x, y.
Points = Sequence[tuple[float, float]]


def on_line(points: Points, x: float) -> float | None:
    """Linear between the points; None outside of them."""
    if not points or not points[0][0] <= x <= points[-1][0]:
        return None
    index = bisect_left(points, (x,))
    x1, y1 = points[index]
    if x1 == x:
        return y1
    x0, y0 = points[index - 1]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def saturation(rates: Points) -> int:
    """The least rows at which the rate is as good as the best (``B_max``)."""
    best = max(rate for _, rate in rates)
    return int(next(rows for rows, rate in rates if rate >= (1 - CLOSE) * best))


def chunk_cost(
    unet: Sequence[float],
    vae: Sequence[float],
    alone: tuple[float, float],
    weight: float = WEIGHT,
    serial: bool = False,
) -> float:
    """Eq. 1 of SynerDiff: what cutting a decode into ``g`` chunks costs, relative to running alone.

    unet, vae: seconds of each of the g rounds' UNet call and chunk; alone: of one UNet call, and of
    the whole decode. A chunk waits for the call beside it, but in the last round. serial: of one
    thread, where either lane stands still while the other runs.
    """
    unet_alone, vae_alone = alone
    chunks = len(vae)
    pairs = list(zip(unet, vae, strict=True))
    rounds = [u + v if serial else max(u, v) for u, v in pairs]
    calls = sum(rounds) if serial else sum(unet)
    decoded = sum(rounds[:-1]) + vae[-1]
    lost = (calls - chunks * unet_alone) / (chunks * unet_alone)
    return weight * lost + (1 - weight) * (decoded - vae_alone) / vae_alone
