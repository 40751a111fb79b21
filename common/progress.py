"""The bar that a command line shows on a terminal while its work takes long."""

from __future__ import annotations

import sys
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


class Bar:
    """Shows on stderr what runs and how much of it is done; nothing where that is no terminal.

    what: the work in a few words; total: None while it is not known; remaining: whether to tell how
    long it still takes.
    """

    def __init__(
        self, what: str, total: int | None = None, quiet: bool = False, remaining: bool = False
    ) -> None:
        columns: list[ProgressColumn] = [
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
        ]
        columns += [TimeRemainingColumn()] if remaining else []
        console = Console(stderr=True, quiet=quiet or not sys.stderr.isatty())
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task(what, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(
        self, what: str | None = None, done: int | None = None, total: int | None = None
    ) -> None:
        """What is left out stays as it was."""
        self._progress.update(self._task, description=what, completed=done, total=total)

    def advance(self, by: int = 1) -> None:
        """So many more are done."""
        self._progress.advance(self._task, by)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(text, style="dim", highlight=False, markup=False)
