"""A family's manifest: which parts its members share, where they lie, and its defaults. No torch.

A family is members of different size over one latent space: one autoencoder, one noise schedule. A
part is a folder in diffusers' layout, below the manifest's own folder or in a hub repository. What
the parts' own configurations add is in `baton.common.families.spec`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from baton.common.arm import Arm
from baton.common.config import user_path
from baton.common.errors import InvalidRequest, UnknownName, WeightsError
from baton.common.families.grids import LevelGrid
from baton.common.given import text
from baton.common.guidance import NO_BUDGET, check_budget
from baton.common.latents.space import UNKNOWN, LatentSpace
from baton.common.limits import Accel, GuidanceKind
from baton.common.request import Preference
from baton.common.size import Size

MANIFEST_NAME = "family.json"
BUILT_IN = {"scenes": Path(__file__).parent / "scenes" / "weights"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(_Strict):
    """Where a part lies: ``path`` below the manifest's folder, or ``repo`` and ``subfolder``."""

    path: str | None = None
    repo: str | None = None
    subfolder: str = ""

    @model_validator(mode="after")
    def _one_place(self) -> Part:
        if (self.path is None) == (self.repo is None):
            raise ValueError("a part has either a path or a repo")
        return self


class MemberPart(Part):
    """A denoiser.

    levels: the least and the greatest noise ``b / a`` at which it may take a step; None: all.
    """

    guidance: GuidanceKind = "two_branches"
    levels: tuple[float, float] | None = None
    licence: str = ""

    @model_validator(mode="after")
    def _levels_rise(self) -> MemberPart:
        if self.levels is not None and not 0 <= self.levels[0] < self.levels[1]:
            raise ValueError("levels are the least and a greater ratio of noise to signal")
        return self

    def knows(self, level: float) -> bool:
        """Whether it may take a step from this level, ``b / a``."""
        return self.levels is None or self.levels[0] <= level <= self.levels[1]


class Sizes(_Strict):
    """Sides of a picture, pixels. default: its width, and its height unless ``height`` says."""

    default: int
    height: int | None = None
    minimum: int
    maximum: int
    multiple: int


class Propagated(_Strict):
    """How a member's encoder is propagated; see `baton.common.accel.propagation.Propagation`."""

    keys: tuple[int, ...]
    steps: int
    parallel: bool = True
    prior_noise: float = 0.0


class Manifest(_Strict):
    """``family.json``. Members are listed from the largest to the smallest."""

    name: str
    layout: Literal["sd1"] = "sd1"
    description: str = ""
    vae: Part
    text_encoder: Part
    tokenizer: Part
    scheduler: Part
    members: Mapping[str, MemberPart] = Field(min_length=1)
    sizes: Sizes
    default_steps: int = 50
    default_guidance: float = 7.5
    #: How its steps are made cheaper by default: as far as was measured to keep its pictures.
    default_accel: Accel = "none"
    #: What guidance edges may leave out under load by default, as far as was measured to keep its
    #: pictures (`parse_budget`).
    guidance_budget: Annotated[str, AfterValidator(check_budget)] = NO_BUDGET
    #: By member; the key steps of Stable Diffusion where it says nothing.
    propagation: dict[str, Propagated] = Field(default_factory=dict)
    #: Named grids of noise levels, one for each sampler and number of steps, of arms that say their
    #: steps.
    grids: tuple[LevelGrid, ...] = ()
    #: By preference: what is drawn for those who name neither an arm nor its steps.
    arms: Mapping[Preference, str] = Field(default_factory=dict)
    #: Members of a device whose settings name none; left out: the last one.
    device_members: tuple[str, ...] = ()
    #: By name: what scores its pictures, and what makes prompts to measure and to train on.
    scorer: str = ""
    prompts: str = ""
    #: Of the whole family, where a member does not say.
    licence: str = ""
    #: Factor by which a saved picture is enlarged, for pixel art.
    save_scale: int = 1
    #: Copies in another precision or with another decoder have the same; without it no node that
    #: has not loaded the autoencoder can tell, and computed ids may differ by rounding.
    latent_space: LatentSpace = UNKNOWN
    #: blake2b digests of weight files, by path; checked when they are read.
    digests: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _members_known(self) -> Manifest:
        named = dict.fromkeys(self.device_members, "device_members")
        for preference, arm in self.own_arms.items():
            named |= dict.fromkeys(arm.members, f"arms.{preference}")
        for name, where in named.items():
            if name not in self.members:
                raise ValueError(f"{where} names no member of the family: {name!r}")
        return self

    @property
    def own_arms(self) -> dict[Preference, Arm]:
        """`arms`, read. Raises ValueError for a text that is no arm."""
        try:
            return {preference: Arm.parse(text) for preference, text in self.arms.items()}
        except UnknownName as error:
            raise ValueError(str(error)) from error

    @property
    def partial_members(self) -> tuple[str, ...]:
        """Those that take steps at some levels of noise only: none of them draws alone."""
        return tuple(name for name, part in self.members.items() if part.levels is not None)

    @property
    def for_devices(self) -> tuple[str, ...]:
        """Members that a device holds if nobody says."""
        return self.device_members or (list(self.members)[-1],)

    def check_size(self, size: object) -> Size:
        """Raises InvalidRequest for a side that the family cannot draw."""
        limits = self.sizes
        wanted = (
            f"size must be from {limits.minimum} to {limits.maximum} in multiples of"
            f" {limits.multiple}"
        )
        try:
            checked = Size.of(size)
        except InvalidRequest as error:
            raise InvalidRequest(f"{wanted}: {error}") from error
        for side in (checked.width, checked.height):
            if not limits.minimum <= side <= limits.maximum or side % limits.multiple:
                raise InvalidRequest(f"{wanted}, got {side}")
        return checked

    def check_member(self, member: str) -> str:
        """Raises UnknownName, listing the members."""
        member = text("a member", member)
        if member not in self.members:
            raise UnknownName(
                f"family {self.name} has no member {member!r}; it has {', '.join(self.members)}"
            )
        return member


def find_family(name: str) -> Path:
    """The folder of a built-in family, or of the manifest that ``name`` points to.

    Raises UnknownName.
    """
    if isinstance(name, str) and name in BUILT_IN:
        return BUILT_IN[name]
    with contextlib.suppress(OSError, InvalidRequest):  # what no file can be called
        folder = user_path(name)
        folder = folder.parent if folder.name == MANIFEST_NAME else folder
        if (folder / MANIFEST_NAME).is_file():
            return folder
    raise UnknownName(
        f"unknown family {name!r}; built in: {', '.join(BUILT_IN)}, or give a folder"
        f" with a {MANIFEST_NAME}"
    )


def masks_folder(folder: Path, member: str) -> Path:
    """Where the learned block masks of a member lie, in its family's folder."""
    return folder / member / "masks"


def read_manifest(folder: Path) -> Manifest:
    """Raises WeightsError if it is missing or cannot be read."""
    path = folder / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise WeightsError(f"{path} is not a family manifest: {field}: {first['msg']}") from error


def file_digest(path: Path) -> str:
    """blake2b of a file, 32 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def folder_fingerprint(*folders: Path) -> str:
    """One digest over the configuration and weights in some folders, 32 hex digits."""
    return files_fingerprint(*(folder.iterdir() for folder in folders))


def files_fingerprint(*parts: Iterable[Path], digest: Callable[[Path], str] = file_digest) -> str:
    """One digest over the configuration and weights of some parts, 32 hex digits.

    What diffusers writes anew with each version (``_diffusers_version`` and the like) is left out.
    """
    total = hashlib.blake2b(digest_size=16)
    for files in parts:
        for path in sorted(files):
            if path.suffix == ".json":
                total.update(path.name.encode() + _canonical_json(path))
            elif path.suffix in (".safetensors", ".txt"):
                total.update(path.name.encode() + digest(path).encode())
    return total.hexdigest()


def _canonical_json(path: Path) -> bytes:
    values = json.loads(path.read_bytes())
    if isinstance(values, dict):
        values = {key: value for key, value in values.items() if not key.startswith("_")}
    return json.dumps(values, sort_keys=True).encode()
