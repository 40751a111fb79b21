"""Where a round's call and the chunks of decoders beside it run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch

from baton.common.families.local import use_threads

T = TypeVar("T")
U = TypeVar("U")


class Lanes(Protocol):
    """Runs a round; neither part raises, and both are done when it returns."""

    def beside(self, denoise: Callable[[], T], decode: Callable[[], U]) -> tuple[T, U]: ...

    def close(self) -> None: ...


class OneLane:
    """One after the other on the model thread: the chunks wait for the call."""

    def beside(self, denoise: Callable[[], T], decode: Callable[[], U]) -> tuple[T, U]:
        return denoise(), decode()

    def close(self) -> None:
        """Nothing is kept."""


class TwoThreads:
    """The chunks have a thread, and cores, of their own; ``threads``: for their operations."""

    def __init__(self, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(
            1, "baton-decoder", initializer=use_threads, initargs=(threads,)
        )

    def beside(self, denoise: Callable[[], T], decode: Callable[[], U]) -> tuple[T, U]:
        decoding = self._pool.submit(decode)
        try:
            return denoise(), decoding.result()
        finally:
            decoding.exception()

    def close(self) -> None:
        self._pool.shutdown()


class TwoStreams:
    """The chunks are queued on a CUDA stream of their own before the call is made on the other.

    What they read and write stays with them until the stream has come so far.
    """

    def __init__(self, device: torch.device) -> None:
        self._decoder = torch.cuda.Stream(device)

    def beside(self, denoise: Callable[[], T], decode: Callable[[], U]) -> tuple[T, U]:
        current = torch.cuda.current_stream(self._decoder.device)
        self._decoder.wait_stream(current)
        with torch.cuda.stream(self._decoder):
            decoded = decode()
        ran = denoise()
        current.wait_stream(self._decoder)
        return ran, decoded

    def close(self) -> None:
        self._decoder.synchronize()
