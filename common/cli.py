"""What the three command lines share: errors as one line and an exit code, rows as a table or JSON.

Exit codes: 0 done, 2 wrong usage or input, 3 not reachable, 4 refused or overloaded, 5 failed while
running, 130 interrupted, 128 + n ended by signal n.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from baton.common.errors import BatonError
from baton.common.interrupts import Ending, heed_signals
from baton.common.streams import keep_writable, take_failure

INTERRUPTED = 128 + signal.SIGINT
PIPE_WIDTH = 1_000


def run(app: typer.Typer) -> NoReturn:
    """Run the app and exit; an error becomes ``error: ...`` on stderr and its exit code.

    Import gRPC only inside the commands: its core reads its log level when it is imported, and adds
    lines of its own to a failed bind or connection unless it is told not to here.
    """
    heed_signals()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    keep_writable()
    if logging.lastResort is not None:  # what is told before, or without, `log_to_stderr`
        logging.lastResort.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    code = exit_code(lambda: app(standalone_mode=False))
    failure = take_failure(sys.stdout)
    if failure is not None and code == 0:
        code = _complain(f"cannot write to stdout: {failure.strerror}", 5)
    sys.stderr.flush()
    if code >= INTERRUPTED:
        os._exit(code)  # all is unwound, and nobody waits for a thread that loads a model
    sys.exit(code)


def exit_code(command: Callable[[], object]) -> int:
    """Do ``command``, tell what went wrong, and return the exit code."""
    try:
        result = command()
    except BatonError as error:
        return _complain(str(error), error.exit_code)
    except Ending as end:
        return 128 + end.number
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        if Ending.asked:
            return 128 + Ending.asked
        # Usage errors: their class is not public, and moved between versions of typer.
        if not hasattr(error, "format_message"):
            raise
        # Without a word, typer has printed the usage, and there is nothing to complain of.
        message = error.format_message()
        return _complain(f"{message} (--help shows the usage)", 2) if message else 2
    return result if isinstance(result, int) else 0


def print_rows(rows: Sequence[Mapping[str, object]], columns: Sequence[str], as_json: bool) -> None:
    """Rows as a table of ``columns``, or with all their fields as a JSON list."""
    if as_json:
        print_json(rows)
        return
    table = Table(*(Column(name, overflow="fold") for name in columns), box=None)
    for row in rows:
        table.add_row(*(escape(_cell(row[column])) for column in columns))
    # A pipe has no width; an id cut off to some default would be of no use to the next program.
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def print_json(value: object) -> None:
    """One JSON document on stdout, for programs: never wrapped or coloured."""
    print(json.dumps(value, indent=2, allow_nan=False))


def log_to_stderr(level: int = logging.INFO) -> None:
    """Log lines with time and level on stderr; stdout stays for results."""
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def _complain(message: str, code: int) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return code


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return "" if value is None else str(value)
