"""How a signal ends a program: by an exception that unwinds it, from its first line on.

Without a handler the kernel keeps SIGTERM from process 1 of a container for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator
from types import FrameType
from typing import Any, ClassVar

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_AGAIN_SECONDS = 0.05


class Ending(SystemExit):
    """A signal asks the program to end. The exit code is 128 and the signal's number.

    asked: the last such signal of this process, also if libraries made another error of it; or 0.
    """

    asked: ClassVar[int] = 0

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = Ending.asked = number


def heed_signals() -> None:
    """Let SIGTERM and SIGHUP raise `Ending` in the main thread, unless they are ignored."""
    for number in _ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    sys.unraisablehook = _ending_again


def run_daemon(main: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run`, where an interrupt is heard also while the loop is busy with a model."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)  # asyncio's own waits for the loop
    asyncio.run(main)


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """Within the block SIGTERM and SIGINT only set the event. After it they do what they did."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise Ending(number)


def _ending_again(lost: sys.UnraisableHookArgs) -> None:
    """Where an exception cannot travel, as in the callbacks of an import, one is only told of."""
    if isinstance(lost.exc_value, Ending | KeyboardInterrupt):
        number = getattr(lost.exc_value, "number", signal.SIGINT)
        main = threading.main_thread().ident
        again = threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, [main, number])
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)
