"""Replays: the executed plan of a picture, run again here to the same pixels.

A row's last bits depend on how many rows its batch has, which of them it is, and on the number of
threads; none on what the other rows hold. So every step runs again in a batch of the recorded
number of rows, in its own place among copies of itself, by the recorded number of threads; and
wherever the latent changed hands it goes through the codec once more.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from baton.common.build import this_build
from baton.common.config import user_path
from baton.common.diffusion.calls import RecordedBatch
from baton.common.diffusion.executor import step_alone
from baton.common.diffusion.run import Run
from baton.common.errors import Incompatible, executing
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.local import begin, encode, needs_encoding
from baton.common.latents import Codec, LatentState, decode_state, encode_state
from baton.common.limits import DEVICE_NODE
from baton.common.record import ExecutedStep, plan_that_ran
from baton.common.request import Task
from baton.device_client.checks import family_to_replay
from baton.device_client.events import Stepped
from baton.device_client.png import SavedPicture, read_png, save_png
from baton.device_client.provenance import Provenance

Verdict = Literal["identical", "within tolerance", "different"]
Picture = npt.NDArray[np.uint8]
OnStep = Callable[[Stepped], None]

#: What another build may change: levels of 255 at any pixel, and the share of pixels changed. Other
#: kernels on one processor changed one level in 0.2% of the pixels at most; larger pictures and a
#: codec that rounds the other way leave less to spare.
TOLERANCE_LEVELS = 4
TOLERANCE_SHARE = 0.02


@dataclass(frozen=True)
class Difference:
    """levels: the largest of any pixel, of 255; share: of the pixels that differ; psnr: in dB."""

    levels: int
    share: float
    psnr: float

    @classmethod
    def between(cls, one: Picture, other: Picture) -> Difference:
        """Of two pictures of one shape, uint8 [H, W, 3]."""
        error = np.abs(one.astype(np.int16) - other)
        mean_square = float(np.square(error, dtype=np.float64).mean())
        psnr = 10 * math.log10(255**2 / mean_square) if mean_square else math.inf
        return cls(int(error.max()), float(error.any(axis=2).mean()), psnr)


@dataclass(frozen=True, eq=False)
class Replay:
    """A picture drawn again, beside the one in the file.

    picture: uint8 [H, W, 3]; reasons: why it need not be the same to the last bit, a phrase each.
    """

    path: Path
    provenance: Provenance
    picture: Picture
    scale: int
    difference: Difference
    reasons: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Without a reason only the identical picture will do."""
        if self.difference.levels == 0:
            return "identical"
        small = (
            self.difference.levels <= TOLERANCE_LEVELS and self.difference.share <= TOLERANCE_SHARE
        )
        return "within tolerance" if small and self.reasons else "different"

    def save(self, path: str | Path) -> Path:
        """Write the replayed picture with the plan that was replayed. Raises InvalidRequest."""
        return save_png(Image.fromarray(_enlarged(self.picture, self.scale)), path, self.provenance)


def replay(
    path: str | Path,
    family: LoadedFamily | str | None = None,
    on_step: OnStep | None = None,
) -> Replay:
    """Draw the picture of a PNG again, and compare.

    family: loaded, or its name or folder; None takes the built-in one that the file names. Sets
    the number of threads of this process while it runs, so let nothing else draw here meanwhile.
    Raises InvalidRequest for a file without a sound plan, Incompatible if versions or weights are
    not those of the plan, WeightsError if they cannot be loaded.
    """
    path = user_path(path)
    return replay_saved(path, read_png(path), family, on_step)


def replay_saved(
    path: Path,
    saved: SavedPicture,
    family: LoadedFamily | str | None = None,
    on_step: OnStep | None = None,
) -> Replay:
    """`replay` of a picture that was read from ``path`` before."""
    provenance = saved.provenance
    if not isinstance(family, LoadedFamily):
        family = load_family(family_to_replay(provenance, family), provenance.members_run)
    picture = replay_provenance(family, provenance, on_step)
    difference = Difference.between(_enlarged(picture, saved.scale), saved.pixels)
    reasons = tuple(_reasons(provenance))
    return Replay(path, provenance, picture, saved.scale, difference, reasons)


def replay_provenance(
    family: LoadedFamily,
    provenance: Provenance,
    on_step: OnStep | None = None,
) -> Picture:
    """What ``provenance`` says, drawn again: uint8 [H, W, 3].

    Raises Incompatible if the family's weights are not those that drew it.
    """
    check_weights(family, provenance)
    executed = provenance.executed
    plan = plan_that_ran(provenance.task.plan, executed)
    task, cuts = replace(provenance.task, plan=plan), [*provenance.transfers, plan.steps]
    with _threads_restored(), executing("the model"):
        run = _stretch(family, task, None, executed[: cuts[0]], on_step)
        for start, stop in pairwise(cuts):
            state = _carried(run, family, Codec(provenance.codec))
            run = _stretch(family, task, state, executed[start:stop], on_step)
        return family.decode(run.x)


def check_weights(family: LoadedFamily, provenance: Provenance) -> None:
    """Raises Incompatible, naming both sides, unless the family is the one that drew it."""
    plan = provenance.task.plan
    if plan.family != family.name:
        raise Incompatible(
            f"the picture was drawn by family {plan.family!r}, this is {family.name!r}"
        )
    _check_fingerprint("the latent space", provenance.fingerprint, family.fingerprint)
    for node_id, member in provenance.places:
        if member not in family.members:
            raise Incompatible(f"member {member!r} drew a part of it, and is not here")
        there, here = provenance.nodes[node_id].members[member], family.member_fingerprints[member]
        _check_fingerprint(f"member {member!r} {_place(node_id)}", there, here)


def _check_fingerprint(what: str, there: str, here: str) -> None:
    if there != here:
        raise Incompatible(
            f"the fingerprint of {what} was {there[:12]}, here it is {here[:12]}; a replay needs"
            " the same weights"
        )


@contextlib.contextmanager
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _stretch(
    family: LoadedFamily,
    task: Task,
    state: LatentState | None,
    records: Sequence[ExecutedStep],
    on_step: OnStep | None,
) -> Run:
    """What one process did between taking the latent over and passing it on."""
    if records:
        torch.set_num_threads(records[0].threads)
    run = begin(family, task, state, plan=task.plan.closed())
    run.recorded = True
    stop = run.step + len(records)
    while run.step < stop:
        record = records[run.step - run.first]
        torch.set_num_threads(record.threads)
        if needs_encoding(family, run):
            encode(family, [run])
        recorded = RecordedBatch(record.rows, record.row, record.ahead, record.neighbours)
        for ran in step_alone(run, family.denoiser(record.member), recorded):
            if on_step is not None:
                done = Stepped(ran.step + 1, run.plan.steps, record.location, record.member)
                on_step(done)
    return run


def _carried(run: Run, family: LoadedFamily, codec: Codec) -> LatentState:
    """The state as it arrives after a journey in an envelope."""
    envelope = encode_state(run.state(), "replay", family.fingerprint, codec)
    return decode_state(envelope, family.fingerprint).state


def _reasons(provenance: Provenance) -> Iterator[str]:
    for node_id, node in provenance.nodes.items():
        yield from node.build.differences(this_build(), _place(node_id))


def _place(node_id: str) -> str:
    return "on the device" if node_id == DEVICE_NODE else f"on edge {node_id}"


def _enlarged(picture: Picture, scale: int) -> Picture:
    """Every pixel as a square of ``scale`` times ``scale``."""
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)
