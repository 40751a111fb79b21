"""What can be true of steps that ran, in an edge's word as in a picture's record."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from baton.common.errors import InvalidRequest
from baton.common.plan import DEVICE_NODE, MAX_ROWS, MAX_THREADS, ExecutedStep


def check_record(executed: Sequence[ExecutedStep], transfers: Collection[int] = ()) -> None:
    """Raises InvalidRequest for steps, one after the other, that nobody can have run, or run again.

    transfers: the steps at which an envelope rounded the latent.
    """
    for step in executed:
        _check_batch(step)
        if not 1 <= step.threads <= MAX_THREADS:
            raise InvalidRequest(f"step {step.step}: {step.threads} threads")
        if (step.location == "device") != (step.node_id == DEVICE_NODE):
            raise InvalidRequest(f"step {step.step} ran nowhere")
        _ = step.directive
    for index, key in enumerate(executed):
        if not _is_whole(key, executed[index + 1 : index + 1 + key.ahead], transfers):
            raise InvalidRequest(f"step {key.step} cannot have run with {key.ahead} others")


def _check_batch(step: ExecutedStep) -> None:
    own = _branches(step) * (1 + step.ahead)
    rows_before, rows_after = step.row, step.rows - step.row - own
    if min(rows_before, rows_after) < 0 or step.rows > MAX_ROWS:
        raise InvalidRequest(f"step {step.step} cannot have such rows")
    counts = [rows for rows, _ in step.neighbours]
    if counts and (min(counts) < 1 or sum(counts) != step.rows):
        raise InvalidRequest(f"step {step.step} has other neighbours")


def _branches(step: ExecutedStep) -> int:
    return 2 if step.guided else 1


def _is_whole(
    key: ExecutedStep, followers: Sequence[ExecutedStep], transfers: Collection[int]
) -> bool:
    """Whether one call can have evaluated them: rows of one batch, with no transfer in between."""
    for index, step in enumerate(followers, start=1):
        own = replace(step, blocks=key.blocks, prior_noise=key.prior_noise)
        row = key.row + index * _branches(key)
        if own != replace(key, step=key.step + index, row=row, ahead=0) or step.step in transfers:
            return False
    return len(followers) == key.ahead >= 0
