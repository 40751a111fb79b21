"""Learning curves of a training run, from the logs beside its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from baton.common.files import saving

_QUANTITIES = {
    "loss": "denoising loss",
    "layout": "layout, cross-entropy",
    "grounding": "attention to the right object, logistic loss",
}


def draw_curves(run_dir: Path, members: tuple[str, ...], out: Path) -> bool:
    """Plot every logged quantity against the samples seen, a line per member.

    False, and no file, if the folder has no logs.
    """
    logs = {member: _read(run_dir / f"{member}.jsonl") for member in members}
    if not any(logs.values()):
        return False
    figure, axes = plt.subplots(1, len(_QUANTITIES), figsize=(12, 3.4), layout="constrained")
    for axis, (name, label) in zip(axes, _QUANTITIES.items(), strict=True):
        for member, rows in logs.items():
            points = [(row["samples"], row[name]) for row in rows if name in row]
            axis.plot(*zip(*points, strict=True) if points else ([], []), label=member)
        axis.set(xlabel="samples", title=label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    with saving(out) as file:
        figure.savefig(file, dpi=110)
    plt.close(figure)
    return True


def _read(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
