"""The numbers of a round, and what they are where nothing is known."""

from __future__ import annotations

from typing import NamedTuple


class Action(NamedTuple):
    """A round (SynerDiff, Sec. III-D).

    u: requests that take a step; v: chunks of those being decoded, of one request each; s: of the
    u, those that leave guidance out.
    """

    u: int
    v: int
    s: int


def greedy(unet: int, vae: int, lean: int) -> tuple[Action, ...]:
    """One round of all there is."""
    return (Action(unet, vae, lean),)
