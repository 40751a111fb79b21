"""Text of other nodes, made one printable line without the prompts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.common.errors import MAX_REASON_CHARS, ExecutionFailed, Overloaded
from baton.common.foreign import cleaned, one_line
from baton.common.request import GenerationRequest

PROMPT = "a red cat and a blue dog"


@given(st.text(max_size=2 * MAX_REASON_CHARS), st.text(max_size=40))
def test_whatever_is_told_comes_out_as_one_short_printable_line(text: str, prompt: str) -> None:
    line = one_line(text, prompt)
    assert line.isprintable()
    assert len(line) <= MAX_REASON_CHARS
    assert one_line(line) == line


@pytest.mark.parametrize(
    "told",
    [
        PROMPT,
        PROMPT.upper(),
        "a red\ncat and\ta  blue dog",
        "a red\x1b[31m cat and a blue dog".replace("\x1b[31m", "\x07"),
    ],
)
def test_a_prompt_is_found_however_it_is_spaced_and_written(told: str) -> None:
    request = GenerationRequest(PROMPT, negative_prompt="no fog")
    assert request.hide(f"cannot draw {told}: No Fog") == "cannot draw (the prompt): (the prompt)"


def test_a_prompt_with_line_breaks_is_found_in_one_line() -> None:
    assert one_line("no: two cats and dogs", " two cats\nand dogs ") == "no: (the prompt)"


def test_a_prompt_that_was_cut_off_is_found_too() -> None:
    prompt = "a very long prompt " * 40
    for start in ("cannot draw ", "cannot even draw "):
        line = one_line(f"{start}{prompt}"[:MAX_REASON_CHARS], prompt)
        assert line == f"{start}(the prompt)"


def test_words_in_which_a_short_prompt_stands_stay() -> None:
    assert one_line("concatenated a cat", "cat") == "concatenated a (the prompt)"


def test_an_error_keeps_what_it_is_and_loses_what_it_quotes() -> None:
    request = GenerationRequest(PROMPT)
    with pytest.raises(Overloaded) as caught, cleaned(request.hide):
        raise Overloaded(f"full of\x1b[2J {PROMPT}", 7.0)
    assert (str(caught.value), caught.value.retry_after) == ("full of [2J (the prompt)", 7.0)
    with pytest.raises(KeyError), cleaned(request.hide):
        raise KeyError(PROMPT)
    with pytest.raises(ExecutionFailed, match=r"^plain$"), cleaned(request.hide):
        raise ExecutionFailed("plain")
