"""A paused request: its latent, and how it travels."""

from baton.common.latents.envelope import Codec, decode_state, encode_state, largest_envelope
from baton.common.latents.state import HistoryEntry, LatentState, NoiseLevel

__all__ = [
    "Codec",
    "HistoryEntry",
    "LatentState",
    "NoiseLevel",
    "decode_state",
    "encode_state",
    "largest_envelope",
]
