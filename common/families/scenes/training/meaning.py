"""What a prompt means, as classes that the text encoder learns to tell apart.

A denoiser's gradients teach a text encoder which words a prompt holds long before they teach it
which colour belongs to which noun and which noun stands where. So the encoder is also asked
directly: linear heads read every object's icon, colour, size, count and place, and the background,
from states behind the prompt, which have seen all of it (the encoder is causal).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from common.families.scenes.grammar import MAX_COUNT, RELATIONS, ObjectSpec, SceneSpec
from common.families.scenes.icons import BACKGROUNDS, COLORS, ICONS, SIZES
from common.families.scenes.text import MAX_TOKENS

#: Classes of each of an object's five facts; the first class says that the fact is left open.
_OBJECT = (len(ICONS) + 1, len(COLORS) + 1, len(SIZES) + 1, MAX_COUNT + 1, len(RELATIONS) + 1)
_CLASSES: tuple[int, ...] = (*_OBJECT, *_OBJECT, len(BACKGROUNDS) + 1)

#: Positions that are padding in every prompt of the grammar: of the states that hold the objects.
FIRST_OBJECT_AT, SECOND_OBJECT_AT = MAX_TOKENS - 5, MAX_TOKENS - 4
#: Where a meaning holds the icons of both.
ICON_OF = (0, 5)
_READ_AT = {
    FIRST_OBJECT_AT: slice(0, 5),
    SECOND_OBJECT_AT: slice(5, 10),
    MAX_TOKENS - 3: slice(10, 11),
}
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def meaning(spec: SceneSpec) -> list[int]:
    """Eleven class numbers: five per object (the second may be absent), then the background."""
    first, second = (*spec.objects, None)[:2]
    return [
        *_object_classes(first, spec.relation),
        *_object_classes(second, _OPPOSITE.get(spec.relation or "")),
        _index(BACKGROUNDS, spec.background),
    ]


def _object_classes(spec: ObjectSpec | None, place: str | None) -> list[int]:
    if spec is None:
        return [0] * len(_OBJECT)
    return [
        _index(ICONS, spec.icon),
        _index(COLORS, spec.color),
        _index(SIZES, spec.size),
        spec.count,
        _index(RELATIONS, place),
    ]


def _index(names: object, name: str | None) -> int:
    return 0 if name is None else 1 + list(names).index(name)  # type: ignore[call-overload]


class MeaningHeads(nn.Module):
    """Linear classifiers on the states at the padding positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [sum(_CLASSES[facts]) for facts in _READ_AT.values()]
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in sizes)

    def forward(self, states: Tensor, meanings: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and the share of prompts whose facts are all read rightly.

        ``states``: [B, tokens, width]; ``meanings``: int64 [B, 11].
        """
        losses, hits = [], []
        for head, (position, facts) in zip(self.heads, _READ_AT.items(), strict=True):
            logits = head(states[:, position]).split(_CLASSES[facts], dim=1)
            for scores, target in zip(logits, meanings[:, facts].T, strict=True):
                losses.append(nn.functional.cross_entropy(scores, target))
                hits.append(scores.argmax(dim=1) == target)
        return torch.stack(losses).mean(), torch.stack(hits).all(dim=0).float().mean()


def train_meaning(
    text_encoder: CLIPTextModel,
    heads: MeaningHeads,
    tokens: Tensor,
    meanings: Tensor,
    *,
    steps: int = 1000,
    batch: int = 256,
    lr: float = 1e-3,
) -> None:
    """Teach the text encoder what prompts mean, before any denoiser learns from it."""
    parameters = [*text_encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(steps, 2))
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        rows = torch.randint(len(tokens), (batch,), generator=generator)
        loss, right = heads(text_encoder(tokens[rows])[0], meanings[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(f"meaning {step + 1}/{steps} loss {loss:.4f} right {right:.3f}", flush=True)
