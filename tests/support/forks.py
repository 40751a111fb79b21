"""Work in a forked child of this process, threads and all."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

_SECONDS = 20


def forked(work: Callable[[], object]) -> tuple[str, str]:
    """What came of it: the result as text, or an exception's class, and its message.

    A child that hangs is killed, and nothing came of it.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_SECONDS)
        try:
            told = [str(work()), ""]
        except BaseException as error:
            told = [type(error).__name__, str(error)]
        os.write(writer, json.dumps(told).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        said = file.read()
    os.waitpid(child, 0)
    name, message = json.loads(said or '["hung", ""]')
    return name, message
