"""Prompts that were encoded lately: many pictures are asked for of one prompt."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Hashable

from baton.common.diffusion.conditioning import Conditioning
from baton.common.diffusion.run import Run

Key = tuple[Hashable, bytes]


class Encodings:
    """The most recently used ones, so many and so many bytes at most.

    Texts are kept as keyed digests: nothing here tells a prompt.
    """

    def __init__(self, count: int = 64, size: int = 64 << 20) -> None:
        self._count, self._size = count, size
        self._held: OrderedDict[Key, Conditioning] = OrderedDict()
        self._secret = secrets.token_bytes(32)
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def key(self, encoder: Hashable, run: Run) -> Key:
        """What is equal for runs whose prompts one encoder maps to the same."""
        digest = hashlib.blake2b(key=self._secret, digest_size=16)
        for text in run.texts:
            digest.update(len(text).to_bytes(8) + text.encode("utf-8", "surrogatepass"))
        return encoder, digest.digest()

    def get(self, key: Key) -> Conditioning | None:
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def keep(self, key: Key, conditioning: Conditioning) -> None:
        if key in self._held:
            return
        self._held[key] = conditioning
        self.bytes += conditioning.bytes
        while len(self) > self._count or self.bytes > self._size:
            _, oldest = self._held.popitem(last=False)
            self.bytes -= oldest.bytes
