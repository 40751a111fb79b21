"""What the branches of many requests' steps come to.

A step that leaves the unconditional branch out goes by the conditional one alone, or adds the last
guidance difference to it again: guided minus conditional, of the last step that ran both. They are
the two readings of skip-CFG (SynerDiff).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baton.common.diffusion.calls import Part
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.samplers import columns


@dataclass(frozen=True)
class Guided:
    """By step, over all parts: predictions [steps, C, H, W], and the difference held after it."""

    predicted: Tensor
    differences: Sequence[Tensor | None]


def guided(out: Tensor, parts: Sequence[Part], denoiser: Denoiser) -> Guided:
    """Of a call's rows ``out`` [rows, C, H, W], which are the parts' one after the other.

    Raises RuntimeError for a step that reuses a difference where none is held.
    """
    row, scales = 0, list[tuple[float]]()
    positive, negative, both = list[int](), list[int](), list[int]()
    for run, work in parts:
        scale = run.segment.guidance.scale
        for of in work.guidance:
            if of == "both":
                both.append(len(positive))
                negative.append(row + 1)
                scales.append((scale,))
            positive.append(row)
            row += 2 if of == "both" else 1
    found, own = gathered(out, positive), tuple[Tensor, ...]()
    if both:
        leading = found if len(both) == len(positive) else gathered(found, both)
        led = denoiser.guide(leading, gathered(out, negative), columns(scales, out)[0])
        own = (led - leading).unbind(0)
        found = led if leading is found else _replaced(found, both, led)
    return _reused(found, parts, own)


def _reused(found: Tensor, parts: Sequence[Part], own: Sequence[Tensor]) -> Guided:
    """With the differences added where they are reused. own: those of the steps that ran both."""
    fresh, held, reused, added = iter(own), list[Tensor | None](), list[int](), list[Tensor]()
    for run, work in parts:
        difference = run.difference
        for of in work.guidance:
            if of == "both":
                difference = next(fresh)
            elif of == "reuse":
                if difference is None:
                    raise RuntimeError(f"step {work.step} holds no difference of guidance")
                reused.append(len(held))
                added.append(difference)
            held.append(difference)
    if reused:
        found = _replaced(found, reused, gathered(found, reused) + torch.stack(added))
    return Guided(found, held)


def gathered(of: Tensor, rows: Sequence[int]) -> Tensor:
    """These rows, ascending: a view where they are evenly spaced, as in most rounds."""
    first, apart = rows[0], rows[1] - rows[0] if len(rows) > 1 else 1
    if rows == list(range(first, first + apart * len(rows), apart)):
        return of[first : rows[-1] + 1 : apart]
    return of[torch.tensor(rows, device=of.device)]


def _replaced(of: Tensor, rows: Sequence[int], by: Tensor) -> Tensor:
    return of.index_copy(0, torch.tensor(rows, device=of.device), by)
