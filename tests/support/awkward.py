"""A family of another architecture, as unlike the tiny one as the protocol of adapters allows.

Latents have 16 channels, pictures are wider than high; each member has a text encoder of its own,
whose context is as long as the prompt has words, with a pooled vector beside it; members are guided
by one branch alone, and the blocks of one of them are known.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from baton.common.diffusion.between import make_schedule_between
from baton.common.diffusion.blocks import Block, BlockGraph, ModelInputs, Piece
from baton.common.diffusion.conditioning import Conditioning
from baton.common.diffusion.denoiser import Denoiser
from baton.common.diffusion.schedules import Schedule
from baton.common.families.architectures.adapter import Shape, Texts
from baton.common.families.hearing import Heard
from baton.common.families.loaded import LoadedFamily
from baton.common.families.manifest import MANIFEST_NAME
from baton.common.families.spec import FamilySpec, LatentShape, read_spec
from baton.common.latents.space import LatentSpace
from baton.common.limits import SamplerName
from baton.common.size import Size
from tests.support.families import edit_json, write_family

NAME = "awkward"
#: The first one's blocks are known.
MEMBERS = ("large", "small")
CHANNELS, FACTOR, WIDTH = 16, 4, 12
SIZE = Size(24, 16)
_VOCABULARY = 64


class Encoder(nn.Module):
    """By word a row of the context [L, D], and their mean, turned, as the pooled vector [D]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(_VOCABULARY, WIDTH)
        self.pool = nn.Linear(WIDTH, WIDTH)

    def forward(self, text: str) -> dict[str, Tensor]:
        numbers = [zlib.crc32(word.encode()) % _VOCABULARY for word in text.split() or [""]]
        context = self.words(torch.tensor(numbers))
        return {"context": context, "pooled": self.pool(context.mean(dim=0))}


class Model(nn.Module):
    """Convolutions around an attention to the words, all told by pooled vector and time."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.told = nn.Linear(WIDTH + 1, hidden)
        self.into = nn.Conv2d(CHANNELS, hidden, 3, padding=1)
        self.keys = nn.Linear(WIDTH, hidden)
        self.middle = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden * 2, CHANNELS, 3, padding=1)

    def blocks(self) -> BlockGraph:
        """What is told, in, words, middle, and out, which reads the way in as well."""
        return BlockGraph(
            (
                Block("told", "encoder", (), lambda ins, inputs: self._tell(inputs)),
                Block("in", "encoder", (0,), lambda ins, inputs: self._in(ins[0], inputs)),
                Block("words", "encoder", (1,), lambda ins, inputs: self._words(ins[0], inputs)),
                Block("middle", "decoder", (2,), lambda ins, inputs: ins[0] + self.middle(ins[0])),
                Block("out", "decoder", (1, 3), lambda ins, inputs: self._out(*ins)),
            )
        )

    def forward(self, inputs: ModelInputs) -> Tensor:
        skip = self._in(self._tell(inputs), inputs)
        hidden = self._words(skip, inputs)
        return self._out(skip, hidden + self.middle(hidden))

    def _tell(self, inputs: ModelInputs) -> Tensor:
        time = inputs.timesteps.to(inputs.sample.dtype)[:, None]
        return self.told(torch.cat([inputs.conditioning["pooled"], time], dim=1))[:, :, None, None]

    def _in(self, told: Tensor, inputs: ModelInputs) -> Tensor:
        return functional.silu(self.into(inputs.sample) + told)

    def _words(self, hidden: Tensor, inputs: ModelInputs) -> Tensor:
        keys = self.keys(inputs.context)
        places = hidden.flatten(2).transpose(1, 2)
        found = functional.scaled_dot_product_attention(places, keys, keys)
        return hidden + found.transpose(1, 2).unflatten(2, hidden.shape[2:])

    def _out(self, skip: Tensor, hidden: Tensor) -> Tensor:
        return self.out(torch.cat([skip, functional.silu(hidden)], dim=1))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grow, self.paint = nn.Conv2d(CHANNELS, 8, 1), nn.Conv2d(8, 3, 1)

    def enlarge(self, x: Tensor) -> Tensor:
        return functional.interpolate(self.grow(x[None]), scale_factor=FACTOR)[0]

    def colour(self, x: Tensor) -> Tensor:
        return torch.tanh(self.paint(functional.silu(x[None])))[0]


class Member(Denoiser):
    def __init__(self, model: Model, graph: BlockGraph | None) -> None:
        self.model, self.graph = model, graph

    def __call__(self, inputs: ModelInputs) -> Tensor:
        out: Tensor = self.model(inputs)
        return out


class Awkward:
    """An `Adapter`. encoded: by call of an encoder, its member and how many prompts it took."""

    device = torch.device("cpu")
    latent_space = LatentSpace("awkward", tuple(float(value % 7) for value in range(32)))

    def __init__(self, scheduler_config: dict[str, Any], members: Sequence[str] = MEMBERS) -> None:
        self.members = tuple(members)
        self.encoded: list[tuple[str, int]] = []
        self._config = scheduler_config
        hidden = {"large": 8, "small": 6}
        self._models = {member: _made(Model, hidden[member]) for member in members}
        self._encoders = {member: _made(Encoder, seed=len(member)) for member in members}
        self._decoder = _made(Decoder)
        graphs = {"large": self._models["large"].blocks()} if "large" in members else {}
        self._denoisers = {
            member: Member(model, graphs.get(member)) for member, model in self._models.items()
        }

    def heard(self, text: str) -> Heard:
        return Heard(text, (), "", _VOCABULARY)

    def encoder_of(self, member: str) -> Hashable:
        return member

    @torch.inference_mode()
    def encode(self, member: str, texts: Sequence[Texts]) -> list[Conditioning]:
        self.encoded.append((member, len(texts)))
        encoder = self._encoders[member]
        return [Conditioning({"positive": encoder(prompt)}) for prompt, _ in texts]

    def schedule(
        self,
        sampler: SamplerName,
        steps: int,
        shape: Shape,
        begin: float | None = None,
        until: float | None = None,
    ) -> Schedule:
        """The members take shares of the training's timesteps for their time."""
        made = make_schedule_between(sampler, steps, self._config, begin, until)
        return replace(made, timesteps=tuple(t / 1000 for t in made.timesteps))

    def denoiser(self, member: str) -> Member:
        return self._denoisers[member]

    def outline(self, member: str) -> BlockGraph | None:
        if self._denoisers[member].graph is None:
            return None
        with torch.device("meta"):
            return Model(8).blocks()

    def decoder(self) -> Sequence[Piece]:
        return self._decoder.enlarge, self._decoder.colour

    def decoder_outline(self) -> Sequence[Piece]:
        with torch.device("meta"):
            outline = Decoder()
        return outline.enlarge, outline.colour

    def pipeline(self, member: str) -> Any:
        raise NotImplementedError("diffusers has none")


def _made(kind: type[Any], *arguments: Any, seed: int = 0) -> Any:
    """A module with weights of its own generator's seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(*arguments).eval().requires_grad_(False)


def write_awkward(folder: Path) -> Path:
    """A folder that a device can be pointed at; its files stand for models that are made here."""
    write_family(folder, digests=False)

    def change(manifest: dict[str, Any]) -> None:
        sizes = {"default": SIZE.width, "height": SIZE.height, "multiple": FACTOR, "minimum": 8}
        manifest["name"], manifest["sizes"] = NAME, manifest["sizes"] | sizes
        for member in MEMBERS:
            manifest["members"][member]["guidance"] = "none"

    edit_json(folder / MANIFEST_NAME, change)
    return folder


def awkward_spec(folder: Path) -> FamilySpec:
    return read_spec(folder).model_copy(update={"latent": LatentShape(CHANNELS, FACTOR)})


def awkward_family(folder: Path) -> LoadedFamily:
    """The family of such a folder, with both members."""
    spec = awkward_spec(folder)
    return LoadedFamily(spec, Awkward(spec.scheduler_config))


def models_of(family: LoadedFamily) -> Awkward:
    assert isinstance(family.models, Awkward)
    return family.models
