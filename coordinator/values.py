"""What a coordinator keeps of edges and arms, and tells its operator: values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from baton.common.arm import Arm
from baton.common.node import NodeLoad, Registration

NodeState = Literal["alive", "draining", "lost"]
NODE_STATES: tuple[NodeState, ...] = get_args(NodeState)


@dataclass(frozen=True, slots=True)
class ArmKey:
    """Under which the bandit learns: the same arm of two families or latent spaces is two arms.

    latent_space: its id, which finer changes of a family (precision, spacing, decoder) leave as it
    is; empty: none was ever named.
    """

    family: str
    latent_space: str
    arm: Arm


@dataclass(frozen=True, slots=True)
class NodeView:
    """A registered edge as the operator sees it."""

    registration: Registration
    load: NodeLoad
    state: NodeState
    seconds_since_heartbeat: float


@dataclass(frozen=True, slots=True)
class ArmStats:
    """What is known about one arm of one family and latent space."""

    family: str
    arm: Arm
    pulls: int
    rewards: int
    mean_reward: float
    pending: int
    latent_space: str = ""
