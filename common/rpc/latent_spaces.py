"""Latent spaces on the wire, and whether those of two sides are one."""

from __future__ import annotations

from dataclasses import dataclass

from baton.common.errors import Incompatible
from baton.common.latents.space import LatentSpace
from baton.v1 import plan_pb2


@dataclass(frozen=True)
class Latents:
    """What one side's latents are of. fingerprint: of the files, where a space is not known."""

    space: LatentSpace
    fingerprint: str = ""

    def check(self, other: Latents, whose: str, own: str) -> None:
        """Raises Incompatible, naming both, if they are known not to mean the same.

        whose, own: whose latents the other's and these are, as in "the client's".
        """
        if self.space and other.space:
            same, names = self.space.matches(other.space), (other.space.id, self.space.id)
        else:
            same = other.fingerprint in ("", self.fingerprint)
            names = (other.fingerprint[:12], self.fingerprint[:12])
        if not same:
            raise Incompatible(
                f"{whose} latent space is {names[0]}, {own} {names[1]}; both need the same"
                " autoencoder"
            )


def space_to_proto(space: LatentSpace) -> plan_pb2.LatentSpace:
    return plan_pb2.LatentSpace(id=space.id, vector=space.vector)


def space_from_proto(message: plan_pb2.LatentSpace) -> LatentSpace:
    """Raises InvalidRequest for what no encoder makes."""
    return LatentSpace(message.id, tuple(message.vector))
