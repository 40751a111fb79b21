"""What a prompt means, as classes that the text encoder learns to tell apart.

A denoiser's gradients teach a text encoder which words a prompt holds long before they teach it
which colour belongs to which noun and which noun stands where. So the encoder is also asked
directly: linear heads read every object's icon, colour, size, surface, count and place, and the
background, from states behind the prompt, which have seen all of it (the encoder is causal).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from baton.common.families.scenes.grammar import MAX_COUNT, RELATIONS, ObjectSpec, SceneSpec
from baton.common.families.scenes.icons import ICONS
from baton.common.families.scenes.text import MAX_TOKENS
from baton.common.families.scenes.training.device import Machine
from baton.common.families.scenes.training.loop import Allowance, Optimisation, TrainState
from baton.common.families.scenes.worlds import World

_OBJECT_FACTS = 6
#: How many classes a meaning has: six facts of each of two objects, and the background.
FACTS = 2 * _OBJECT_FACTS + 1
#: Where a meaning holds the icons of both.
ICON_OF = (0, _OBJECT_FACTS)

#: Positions that are padding in every prompt of the grammar: of the states that hold the objects.
FIRST_OBJECT_AT, SECOND_OBJECT_AT = MAX_TOKENS - 5, MAX_TOKENS - 4
_READ_AT = {
    FIRST_OBJECT_AT: slice(0, _OBJECT_FACTS),
    SECOND_OBJECT_AT: slice(_OBJECT_FACTS, 2 * _OBJECT_FACTS),
    MAX_TOKENS - 3: slice(2 * _OBJECT_FACTS, FACTS),
}
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

OPTIMISATION = Optimisation(lr=1e-3, batch=256, warmup=50)


def class_counts(world: World) -> tuple[int, ...]:
    """Classes of each fact; the first class says that the fact is left open."""
    words = (ICONS, world.colors, world.sizes, world.surfaces, range(MAX_COUNT), RELATIONS)
    of_object = tuple(len(names) + 1 for names in words)
    return (*of_object, *of_object, len(world.backgrounds) + 1)


def meaning(spec: SceneSpec, world: World) -> list[int]:
    """Thirteen class numbers: six per object (the second may be absent), then the background."""
    first, second = (*spec.objects, None)[:2]
    return [
        *_object_classes(first, spec.relation, world),
        *_object_classes(second, _OPPOSITE.get(spec.relation or ""), world),
        _index(world.backgrounds, spec.background),
    ]


def _object_classes(spec: ObjectSpec | None, place: str | None, world: World) -> list[int]:
    if spec is None:
        return [0] * _OBJECT_FACTS
    return [
        _index(ICONS, spec.icon),
        _index(world.colors, spec.color),
        _index(world.sizes, spec.size),
        _index(world.surfaces, spec.surface),
        spec.count,
        _index(RELATIONS, place),
    ]


def _index(names: Iterable[str], name: str | None) -> int:
    return 0 if name is None else 1 + list(names).index(name)


class MeaningHeads(nn.Module):
    """Linear classifiers on the states at the padding positions."""

    def __init__(self, width: int, world: World) -> None:
        super().__init__()
        self.classes = class_counts(world)
        sizes = [sum(self.classes[facts]) for facts in _READ_AT.values()]
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in sizes)

    def forward(self, states: Tensor, meanings: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and the share of prompts whose facts are all read rightly.

        ``states``: [B, tokens, width]; ``meanings``: int64 [B, 13].
        """
        losses, hits = [], []
        for head, (position, facts) in zip(self.heads, _READ_AT.items(), strict=True):
            logits = head(states[:, position]).float().split(self.classes[facts], dim=1)
            for scores, target in zip(logits, meanings[:, facts].T, strict=True):
                losses.append(nn.functional.cross_entropy(scores, target))
                hits.append(scores.argmax(dim=1) == target)
        return torch.stack(losses).mean(), torch.stack(hits).all(dim=0).float().mean()


def train_meaning(
    run_dir: Path,
    modules: tuple[CLIPTextModel, MeaningHeads],
    data: tuple[Tensor, Tensor],
    machine: Machine,
    allowance: Allowance,
    options: Optimisation = OPTIMISATION,
) -> None:
    """Teach the text encoder what prompts mean, before any denoiser learns from it.

    data: token ids [N, tokens] and meanings [N, 13] on the machine's device.
    """
    (text_encoder, heads), (tokens, meanings) = modules, data
    named = {"text_encoder": text_encoder, "meaning": heads}
    state = TrainState.resumed(run_dir / "meaning", named, options, machine)

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        rows = machine.rows(len(tokens), options.batch, machine.generator(step))
        with machine.autocast():
            states = text_encoder(tokens[rows].long())[0]
        value, right = heads(states, meanings[rows].long())
        return value, {"meaning": value, "right": right}

    state.run(loss, allowance)
