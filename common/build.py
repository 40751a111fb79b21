"""The software, the processor and the weights on which the last bits of a picture depend."""

from __future__ import annotations

import contextlib
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from baton.common.errors import InvalidRequest

_MAX_CHARS = 256
_MAX_MEMBERS = 16
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Build:
    """Versions, and what the model libraries choose their kernels by."""

    baton: str
    torch: str
    diffusers: str
    transformers: str
    numpy: str
    processor: str

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_line(value, f"the build's {name}")

    def differences(self, here: Build, place: str) -> list[str]:
        """What is not the same ``here``, a phrase each; place: of this build, as in "on e1"."""
        own = vars(here)
        return [
            f"{name} {there} {place}, {own[name]} here"
            for name, there in vars(self).items()
            if there != own[name]
        ]


@dataclass(frozen=True)
class NodeBuild:
    """What a node draws with. members: fingerprint of each member that it used or will use."""

    build: Build
    members: Mapping[str, str]

    def __post_init__(self) -> None:
        if len(self.members) > _MAX_MEMBERS:
            raise InvalidRequest(f"{len(self.members)} members; a plan has {_MAX_MEMBERS} at most")
        for member, fingerprint in self.members.items():
            check_line(member, "a member's name")
            if not _FINGERPRINT.fullmatch(fingerprint):
                raise InvalidRequest("a member's fingerprint is 32 hex digits")

    def agrees(self, other: NodeBuild) -> bool:
        """Whether both may be one node's: the same build, and no member with two fingerprints."""
        shared = self.members.keys() & other.members.keys()
        return self.build == other.build and all(
            self.members[member] == other.members[member] for member in shared
        )


def check_line(value: str, what: str) -> str:
    """A short text that may be told on a terminal. Raises InvalidRequest."""
    if not (0 < len(value) <= _MAX_CHARS and value.isprintable()):
        raise InvalidRequest(f"{what} is not a line of 1 to {_MAX_CHARS} printable characters")
    return value


@cache
def this_build() -> Build:
    """The build of this process."""
    return Build(
        baton=package_version("baton-diffusion"),
        torch=package_version("torch"),
        diffusers=package_version("diffusers"),
        transformers=package_version("transformers"),
        numpy=package_version("numpy"),
        processor=_processor(),
    )


def package_version(package: str) -> str:
    """Of an installed distribution, or ``unknown``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def processor_name() -> str:
    """The processor's model, or what the system tells of it."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _processor() -> str:
    """Architecture, the instructions that torch makes use of, and the model."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    words = [platform.machine(), capability, *processor_name().split()]
    return " ".join(words)[:_MAX_CHARS]
