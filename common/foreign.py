"""Text that another node tells, made fit to be told here: once, where it enters.

What comes as the name of something (a node, a member, an address) is checked, and refused, instead.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from baton.common.errors import MAX_REASON_CHARS, BatonError

_HIDDEN = "(the prompt)"
_FEWEST = 8  # characters of a prompt's beginning that tell anything of it

#: Makes a foreign text one line, without what it must not hold.
Clean = Callable[[str], str]


def one_line(text: str, *prompts: str) -> str:
    """At most 500 printable characters; what cannot be printed becomes a space, as runs of it do.

    ``prompts``, in whatever case, are left out: a node that knows them may have put them in.
    """
    line = _printable(text)
    for prompt in filter(None, map(_printable, prompts)):
        line = re.sub(rf"(?<!\w){re.escape(prompt)}(?!\w)", _HIDDEN, line, flags=re.I)
        if len(text) >= MAX_REASON_CHARS:
            line = _without_beginning(line, prompt)
    return line[:MAX_REASON_CHARS].rstrip()


@contextlib.contextmanager
def cleaned(clean: Clean) -> Iterator[None]:
    """What is raised within may quote the other side: its text passes through ``clean``."""
    try:
        yield
    except BatonError as error:
        error.args = (clean(str(error)),)
        raise


def _printable(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _without_beginning(line: str, prompt: str) -> str:
    """A reason that its sender cut off may end within the prompt."""
    lower, wanted = line.lower(), prompt.lower()
    for size in range(min(len(wanted), len(lower)), _FEWEST - 1, -1):
        if lower.endswith(wanted[:size]):
            return line[: len(line) - size] + _HIDDEN
    return line
