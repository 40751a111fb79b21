"""What a family is without its models: the manifest, and what its parts' configurations say.

Tickets, wire checks, a device's decisions and one that lets edges draw need nothing else. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from baton.common.accel.propagation import Propagation
from baton.common.diffusion.scheduler_config import Prediction, check_scheduler, own_sampler
from baton.common.errors import Incompatible, UnknownName, WeightsError
from baton.common.families.architectures import ARCHITECTURES
from baton.common.families.manifest import (
    MANIFEST_NAME,
    Manifest,
    Part,
    file_digest,
    files_fingerprint,
    find_family,
    read_manifest,
)
from baton.common.families.part_files import (
    DIFFUSERS,
    SCHEDULER,
    TRANSFORMERS,
    check_there,
    json_object,
    model_config,
    model_files,
    part_folder,
    tokenizer_files,
)
from baton.common.families.registry import check_registered
from baton.common.limits import GuidanceKind, SamplerName
from baton.common.plan import Grid
from baton.common.size import Size

M = TypeVar("M", bound=BaseModel)
_Positive = Annotated[int, Field(gt=0)]


class LatentShape(NamedTuple):
    """factor: pixels along a picture's side for one of its latent's."""

    channels: int
    factor: int


class FamilySpec(Manifest):
    """A manifest with what its parts' configurations add.

    members: from the largest to the smallest, of one architecture (`ARCHITECTURES`).
    scheduler_config: as `check_scheduler` returns it.
    """

    folder: Path
    architecture: str
    scheduler_config: dict[str, Any]
    latent: LatentShape

    @property
    def prediction(self) -> Prediction:
        """What its members predict."""
        kind: Prediction = self.scheduler_config.get("prediction_type", "epsilon")
        return kind

    @property
    def default_sampler(self) -> SamplerName:
        """The family's own if it is one of Baton's, else ddim; `sampler_note` says so."""
        return own_sampler(self.scheduler_config) or "ddim"

    @property
    def sampler_note(self) -> str:
        """Empty if the default sampler is the family's own."""
        if own_sampler(self.scheduler_config):
            return ""
        own = str(self.scheduler_config["_class_name"])
        return f"the own sampler of {self.name}, {own}, is not one of Baton's: drawn with ddim"

    def propagation_of(self, member: str) -> Propagation:
        """As the family has it for a member, or the paper's."""
        told = self.propagation.get(member)
        return Propagation(**told.model_dump()) if told else Propagation()

    @property
    def default_size(self) -> Size:
        width, height = self.sizes.default, self.sizes.height
        return Size(width, width if height is None else height)

    def latent_shape(self, size: object) -> tuple[int, int, int]:
        """[C, H, W] of the latent of a picture of a size. Raises InvalidRequest for a bad one."""
        (channels, factor), checked = self.latent, self.check_size(size)
        return channels, checked.height // factor, checked.width // factor

    @property
    def own_guidance(self) -> dict[str, GuidanceKind]:
        """By member, for those that take guidance otherwise than by two branches."""
        members = self.members.items()
        return {name: of.guidance for name, of in members if of.guidance != "two_branches"}

    @cached_property
    def named_grids(self) -> Mapping[tuple[SamplerName, int], Grid]:
        """Those that the family names, by sampler and number of steps."""
        return {
            (grid.sampler, grid.steps): Grid(
                grid.sampler, 0, grid.steps, name=grid.name, digest=grid.digest
            )
            for grid in self.grids
        }

    @cached_property
    def fingerprint(self) -> str:
        """Of autoencoder and noise schedule, for replays. Raises WeightsError without the files."""
        vae, scheduler = part_folder(self.folder, self.vae), self._scheduler_file
        return self._fingerprint(model_files(vae, DIFFUSERS), [scheduler])

    def member_fingerprint(self, member: str) -> str:
        """Of a denoiser with the text encoder. Raises UnknownName, WeightsError."""
        unet = part_folder(self.folder, self.members[self.check_member(member)])
        text = part_folder(self.folder, self.text_encoder)
        tokenizer = part_folder(self.folder, self.tokenizer)
        return self._fingerprint(
            model_files(unet, DIFFUSERS),
            model_files(text, TRANSFORMERS),
            tokenizer_files(tokenizer),
        )

    @property
    def _scheduler_file(self) -> Path:
        return part_folder(self.folder, self.scheduler) / SCHEDULER

    def _fingerprint(self, *parts: Iterable[Path]) -> str:
        known = {self.folder / name: digest for name, digest in self.digests.items()}

        def digest(path: Path) -> str:
            if path in known:
                return known[path]
            check_there(path)
            return file_digest(path)

        return files_fingerprint(*parts, digest=digest)


def read_spec(name: str | Path = "scenes") -> FamilySpec:
    """The spec of a built-in family, or of one in a folder with a manifest.

    Raises UnknownName, and WeightsError for a manifest or a configuration that cannot be used.
    """
    folder = find_family(str(name))
    manifest = read_manifest(folder)
    try:
        check_registered(manifest.scorer, manifest.prompts)
    except UnknownName as error:
        raise WeightsError(f"{folder / MANIFEST_NAME}: {error}") from error
    architecture = _architecture(folder, manifest)
    vae = _configured(_Autoencoder, part_folder(folder, manifest.vae))
    known = {
        "folder": folder,
        "architecture": architecture,
        "scheduler_config": _scheduler(folder, manifest.scheduler),
        "latent": LatentShape(vae.latent_channels, 2 ** (len(vae.block_out_channels) - 1)),
    }
    return FamilySpec.model_validate({**dict(manifest), **known})


def _known_denoiser(name: str) -> str:
    if name not in ARCHITECTURES:
        raise ValueError(f"Input should be {' or '.join(map(repr, ARCHITECTURES))}")
    return name


class _Configuration(BaseModel):
    model_config = ConfigDict(strict=True)


class _Autoencoder(_Configuration):
    class_name: Literal["AutoencoderKL"] = Field(alias="_class_name")
    latent_channels: _Positive
    block_out_channels: list[_Positive] = Field(min_length=1)


class _Denoiser(_Configuration):
    class_name: Annotated[str, AfterValidator(_known_denoiser)] = Field(alias="_class_name")


def _architecture(folder: Path, manifest: Manifest) -> str:
    """The one that all members have. Raises WeightsError."""
    found = {
        member: _configured(_Denoiser, part_folder(folder, part)).class_name
        for member, part in manifest.members.items()
    }
    first = next(iter(found.values()))
    for member, name in found.items():
        if name != first:
            raise WeightsError(f"member {member} is a {name}, the others are of kind {first}")
    return first


def _scheduler(folder: Path, part: Part) -> dict[str, Any]:
    path = part_folder(folder, part) / SCHEDULER
    try:
        return check_scheduler(json_object(path))
    except Incompatible as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: {error}") from error


def _configured(kind: type[M], folder: Path) -> M:
    """Raises WeightsError, naming the option, for a model that is not known."""
    try:
        return kind.model_validate(model_config(folder))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option, value = first["loc"][0], ascii(first["input"])[:60]
        told = "is missing" if first["type"] == "missing" else f"{value} is not supported"
        raise WeightsError(f"cannot load {folder}: {option} {told}: {first['msg']}") from error
