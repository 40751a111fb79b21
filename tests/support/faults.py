"""Families whose model calls fail for one request, and a log of what kinds of calls there were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from baton.common.diffusion.blocks import BlockGraph, ModelInputs, Piece
from baton.common.diffusion.conditioning import Conditioning
from baton.common.diffusion.denoiser import Denoiser
from baton.common.families.architectures.adapter import Texts
from baton.common.families.loaded import LoadedFamily

#: Maps the inputs of a call and what came of it to what is to come of it, or raises.
After = Callable[[ModelInputs, Tensor], Tensor]


@dataclass
class Fault:
    """What befalls the row of a text at a timestep. error: raised; None: the row comes out as NaN.

    times: so often; negative: always.
    """

    context: Tensor
    timestep: float
    error: Exception | None
    times: int = -1

    def __call__(self, inputs: ModelInputs, out: Tensor) -> Tensor:
        texts = (inputs.context == self.context).flatten(1).all(dim=1)
        hit = texts & (inputs.timesteps == self.timestep)
        if not hit.any() or not self.times:
            return out
        self.times -= 1
        if self.error is not None:
            raise self.error
        return torch.where(hit.view(-1, 1, 1, 1), torch.nan, out)


@dataclass
class Calls:
    """Kinds of model calls in their order: (what, how many prompts, rows or latents)."""

    made: list[tuple[str, int]] = field(default_factory=list)

    def between_denoising(self) -> list[list[str]]:
        """What ran between one call that denoises and the next, from the first to the last."""
        kinds = [kind for kind, _ in self.made]
        places = [place for place, kind in enumerate(kinds) if kind == "denoise"]
        return [kinds[one + 1 : two] for one, two in pairwise(places)]


class FaultyFamily(LoadedFamily):
    """The same family, but calls are logged, and what they put out passes through a hook.

    before: sees every call, as it is logged; encoding, decoding: may raise for texts, or latents.
    """

    def __init__(
        self,
        family: LoadedFamily,
        after: After = lambda inputs, out: out,
        encoding: Callable[[Sequence[Texts]], None] = lambda texts: None,
        decoding: Callable[[Tensor], None] = lambda x: None,
        before: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self.__dict__.update(family.__dict__)
        self.calls = Calls()
        self._watched = dict[str, Denoiser]()
        self._after, self._before = after, before
        self.models = _Models(family.models, self, encoding, decoding)

    def denoiser(self, member: str) -> Denoiser:
        if member not in self._watched:
            self._watched[member] = _Denoiser(super().denoiser(member), self._denoised)
        return self._watched[member]

    def log(self, kind: str, count: int) -> None:
        self.calls.made.append((kind, count))
        self._before(kind)

    def _denoised(self, inputs: ModelInputs, call: Callable[[], Tensor]) -> Tensor:
        self.log("denoise", len(inputs.sample))
        return self._after(inputs, call())


class _Denoiser(Denoiser):
    """Block by block, the last one is watched: every row runs it."""

    def __init__(
        self, inner: Denoiser, watch: Callable[[ModelInputs, Callable[[], Tensor]], Tensor]
    ) -> None:
        self._inner, self._watch = inner, watch
        if inner.graph is not None:
            *others, last = inner.graph.blocks
            watched = replace(last, run=lambda ins, i: watch(i, lambda: last.run(ins, i)))
            self.graph = BlockGraph((*others, watched))

    def __call__(self, inputs: ModelInputs) -> Tensor:
        return self._watch(inputs, lambda: self._inner(inputs))


class _Models:
    """An `Adapter` whose decoder has three pieces."""

    def __init__(
        self,
        models: Any,
        family: FaultyFamily,
        encoding: Callable[[Sequence[Texts]], None],
        decoding: Callable[[Tensor], None],
    ) -> None:
        self._models, self._family = models, family
        self._encoding, self._decoding = encoding, decoding

    def __getattr__(self, name: str) -> Any:
        return getattr(self._models, name)

    def encode(self, member: str, texts: Sequence[Texts]) -> list[Conditioning]:
        self._family.log("encode", len(texts))
        self._encoding(texts)
        found: list[Conditioning] = self._models.encode(member, texts)
        return found

    def decoder(self) -> Sequence[Piece]:
        return self._logged, lambda x: self._decoded(self._logged(x)), self._logged

    def _decoded(self, x: Tensor) -> Tensor:
        for piece in self._models.decoder():
            x = piece(x)
        return x

    def _logged(self, x: Tensor) -> Tensor:
        self._family.log("decode", 1)
        self._decoding(x)
        return x
