"""The helpers of common/cli.py, which all three command lines use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

import pytest
import typer

from baton.common import errors
from baton.common.cli import INTERRUPTED, exit_code, print_rows


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def command() -> NoReturn:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("bad\ninput"), 2),
        (errors.UnknownName("no such thing"), 2),
        (errors.Unreachable("nobody"), 3),
        (errors.Overloaded("full"), 4),
        (errors.ExecutionFailed("broke"), 5),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: errors.BatonError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(raising(error)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"error: {' '.join(str(error).split())}\n"


def test_an_unexpected_error_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code(raising(ZeroDivisionError()))


def test_an_interrupt_is_130_and_success_0() -> None:
    assert exit_code(raising(KeyboardInterrupt())) == INTERRUPTED
    assert exit_code(raising(typer.Abort())) == INTERRUPTED
    assert exit_code(lambda: None) == 0


@pytest.mark.parametrize("arguments", [["--bogus"], ["--count", "many"], ["extra"]])
def test_wrong_usage_is_one_line_and_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def command(count: int = 1) -> None:
        raise AssertionError(count)

    assert exit_code(lambda: app(arguments, standalone_mode=False)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_rows_are_a_table_or_all_their_fields_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "x" * 200, "names": ("a", "b"), "share": 0.5, "none": None, "more": 1}]
    print_rows(rows, ["id", "names", "share", "none"], as_json=False)
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["id", "names", "share", "none"]
    assert line.split() == ["x" * 200, "a,", "b", "0.500"]
    print_rows(rows, ["id"], as_json=True)
    assert json.loads(capsys.readouterr().out) == [{**rows[0], "names": ["a", "b"]}]


def test_a_cell_is_text_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"id": "[red]x[/red]"}], ["id"], as_json=False)
    assert "[red]x[/red]" in capsys.readouterr().out


def test_without_a_command_the_usage_is_all_that_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = typer.Typer(no_args_is_help=True)
    app.command("one")(lambda: None)
    app.command("two")(lambda: None)
    assert exit_code(lambda: app([], standalone_mode=False)) == 2
    told = capsys.readouterr()
    assert "Usage" in told.out + told.err
    assert "error" not in told.err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_the_terminal_cannot_show_is_told_as_an_escape(encoding: str) -> None:
    code = (
        "import typer; from baton.common.cli import run\n"
        "app = typer.Typer()\n"
        "app.command()(lambda: print('verified \\u2713 \\udcff'))\n"
        "run(app)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (told.returncode, told.stderr) == (0, b"")
    assert told.stdout.strip() == rb"verified \u2713 \udcff"
