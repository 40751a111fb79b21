"""Where a round's call and the chunks of decoders beside it run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

import torch

from baton.common.families.local import use_threads
from baton.edge_server.scheduling.planner import Waiting

T = TypeVar("T")
U = TypeVar("U")


class Lanes(Protocol):
    """Runs a round, both parts of it. waiting: how long either keeps the other."""

    @property
    def waiting(self) -> Waiting: ...

    def beside(self, denoise: Callable[[], T], decode: Callable[[], U]) -> tuple[T, U]: ...

    def close(self) -> None: ...


def lanes_for(device: torch.device, second: bool, threads: int | None) -> Lanes:
    """Those of a model on a device. second: a thread for decoders, where the device has no streams.

    threads: of its operations; None: as many as torch takes by default.
    """
    if device.type == "cuda":
        return TwoStreams(device)
    return TwoThreads(threads) if second else OneLane()


class OneLane:
    """One after the other on the model thread: the chunks wait for the call."""

    waiting = Waiting.SERIAL

    def beside(self, denoise: Callable[[], T], decode: Callable[[], U]) -> tuple[T, U]:
        return denoise(), decode()

    def close(self) -> None:
        """Nothing is kept."""


class TwoThreads:
    """The chunks have a thread, and cores, of their own; ``threads``: for their operations."""

    waiting = Waiting.BARRIER

    def __init__(self, threads: int | None = 1) -> None:
        self._pool = ThreadPoolExecutor(
            1, "baton-decoder", initializer=use_threads, initargs=(threads or 0,)
        )

    def beside(self, denoise: Callable[[], T], decode: Callable[[], U]) -> tuple[T, U]:
        decoding = self._pool.submit(decode)
        try:
            return denoise(), decoding.result()
        finally:  # whatever becomes of the call, the chunks write to nobody's request after it
            wait([decoding])

    def close(self) -> None:
        self._pool.shutdown()


class TwoStreams:
    """The chunks are queued on a CUDA stream of their own before the call is made on the other.

    What they read and write stays with them until the stream has come so far.
    """

    waiting = Waiting.BARRIER

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
