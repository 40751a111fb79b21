"""gRPC does not survive a fork: its threads belong to the process that first used it."""

from __future__ import annotations

import os
from typing import ClassVar

from baton.common.errors import InvalidRequest


class _Threads:
    #: The process that has them; 0 before there are any.
    process: ClassVar[int] = 0


def check_not_forked() -> None:
    """Before gRPC is used. Raises InvalidRequest in a child, where no call would ever end."""
    here = os.getpid()
    _Threads.process = _Threads.process or here
    if _Threads.process != here:
        raise InvalidRequest(
            f"process {here} was forked from {_Threads.process}, which has used gRPC, and no call"
            " would end here: start it by spawn, or fork before the first call"
        )
