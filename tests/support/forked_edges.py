"""A process that forks edges, so that a test can have many that die: one import, one family load.

Asked on stdin in lines of JSON, ``[SETTINGS, PERMITS, ARRIVALS]``: the settings of an edge, a pipe
from which it takes one byte before every model call, and a file to which it adds one when it comes
to a call. With empty names it runs freely. Answers ``[PID, ADDRESS]``. Nothing of gRPC has begun
before the fork.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import torch
from torch import Tensor

from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.interrupts import heed_signals, stop_signals
from baton.edge_server.daemon import running
from baton.edge_server.settings import EdgeSettings
from tests.support.engines import WatchedFamily


class _Turnstile:
    def __init__(self, permits: str, arrivals: str) -> None:
        self._permits = os.open(permits, os.O_RDWR)
        self._arrivals = os.open(arrivals, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, member: str, x: Tensor) -> None:
        os.write(self._arrivals, b".")
        os.read(self._permits, 1)


def main() -> None:
    torch.set_num_threads(1)
    family = load_family(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    _say("ready")
    for line in sys.stdin:
        if os.fork() == 0:
            heed_signals()
            try:
                _serve(family, *json.loads(line))
            finally:
                os._exit(0)


def _serve(family: LoadedFamily, settings: dict[str, Any], permits: str, arrivals: str) -> None:
    async def until_told() -> None:
        async with running(EdgeSettings.model_validate(settings), watched) as node:
            _say([os.getpid(), node.address])
            with stop_signals() as stopped:
                await stopped.wait()
            await node.drain()

    watched = WatchedFamily(family, _Turnstile(permits, arrivals)) if permits else family
    asyncio.run(until_told())


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
