"""Standard streams that outlive their readers: a write that fails ends no command and no daemon."""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import sys
from typing import TextIO

_log = logging.getLogger(__name__)
_MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}


class _Outlet(io.RawIOBase):
    """Writes to a descriptor until that fails, and takes in silence what comes later.

    failure: the reason, unless the reader has gone, who needs none.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._lost = False
        self.name = name
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: bytes) -> int:  # type: ignore[override] # bytes are all that comes
        rest = memoryview(data)
        while rest and not self._lost:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._lost = True
                self.failure = None if error.errno == errno.EPIPE else error
        return len(data)


def keep_writable() -> None:
    """Make the standard streams ones that can always be written to, in any encoding.

    One that whoever started the program had closed leads nowhere: its number goes to no file that
    is opened later, and nothing meant for stderr lands on stdout. What the encoding lacks is told
    as an escape.
    """
    for name, mode in _MODES.items():
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            number = os.open(os.devnull, os.O_RDWR)  # the free one, as long as nothing took it
            setattr(sys, name, os.fdopen(number, mode, errors="replace"))
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _outlasting(stream))


def take_failure(stream: TextIO) -> OSError | None:
    """Write what waits; why something could not be written, told once.

    None also where the reader has gone.
    """
    stream.flush()
    outlet = getattr(stream, "buffer", None)
    if not isinstance(outlet, _Outlet):
        return None
    failure, outlet.failure = outlet.failure, None
    return failure


def announce(line: str) -> None:
    """A daemon's one line on stdout; it serves on if nobody can read that."""
    print(line)
    if failure := take_failure(sys.stdout):
        _log.warning("%s; nobody hears it on stdout: %s", line, failure.strerror)


def _outlasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        _Outlet(stream.fileno(), stream.name),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
