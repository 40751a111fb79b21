"""Prompts with letters that the tokenizer lacks, and prompts that are too long for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from baton.common.families.hearing import Hearing
from baton.common.families.loaded import LoadedFamily
from baton.common.families.scenes.text import MAX_TOKENS
from baton.device_client.journal import JOURNAL_FILE, Journal
from baton.device_client.sdk import Client
from tests.support.conditionings import context

#: A prompt, the same without the letters that no token stands for, and those letters.
SPOILT: list[tuple[str, str, tuple[str, ...]]] = [
    ("a red 猫 cat", "a red  cat", ("猫",)),
    ("a naïve cat", "a nave cat", ("ï",)),
    ("a café cat", "a caf cat", ("é",)),
    ("a cafe\u0301 cat", "a caf cat", ("é",)),
    ("a red cat 🐱🐱🐱", "a red cat ", ("🐱",)),
    ("“a” red\u200b cat…", "a red cat", ("“", "”", "\u200b", "…")),
    ("猫犬", "", ("猫", "犬")),
    ("İstanbul ½ ﬁ", "stanbul  ", ("İ", "½", "ﬁ")),
]

ROOM = MAX_TOKENS - 2  # start and end


@pytest.mark.parametrize(("prompt", "left", "dropped"), SPOILT)
def test_letters_that_would_end_the_prompt_are_left_out(
    family: LoadedFamily, prompt: str, left: str, dropped: tuple[str, ...]
) -> None:
    found = family.heard(prompt)
    assert (found.text, found.dropped, found.cut) == (left, dropped, "")
    (note,) = found.notes("prompt")
    assert all(repr(letter) in note for letter in dropped)
    assert note.isprintable()
    spoilt, plain = family.encode_text(prompt, prompt), family.encode_text(left, left)
    assert torch.equal(context(spoilt), context(plain))
    assert torch.equal(context(spoilt, "negative"), context(plain, "negative"))


@pytest.mark.parametrize(
    "prompt",
    ["", "a red cat", "A RED\u00a0CAT\u2028", "x<|endoftext|> y", "~!@#$%^&*()_+{}|", "a" * 22],
)
def test_what_the_tokenizer_knows_is_heard_whole_and_without_a_note(
    family: LoadedFamily, prompt: str
) -> None:
    found = family.heard(prompt)
    assert (found.text, list(found.notes("prompt"))) == (prompt, [])


def test_the_end_of_a_long_prompt_is_named(family: LoadedFamily) -> None:
    words = " ".join(["cat"] * ROOM)
    assert family.heard(words).cut == ""
    found = family.heard(f"{words} dog and house")
    assert (found.text, found.cut) == (f"{words} dog and house", "dog and house")
    (note,) = found.notes("negative prompt")
    assert f"negative prompt is longer than {ROOM} tokens" in note
    assert "'dog and house'" in note
    whole, cut = family.encode_text(f"{words} dog"), family.encode_text(words)
    assert torch.equal(context(whole), context(cut))
    assert len(next(family.heard("cat " * 1000).notes("prompt"))) < 250


def test_letters_left_out_make_room_for_others(family: LoadedFamily) -> None:
    found = family.heard("猫" * 30 + " cat" * ROOM + " dog")
    assert (found.dropped, found.cut) == (("猫",), "dog")
    assert len(list(found.notes("prompt"))) == 2


def test_many_letters_are_counted(family: LoadedFamily) -> None:
    (note,) = family.heard("".join(map(chr, range(0x4E00, 0x4E64)))).notes("prompt")
    assert "and 88 more" in note
    assert len(note) < 250


def test_an_unknown_token_of_its_own_is_left_to_the_model(family: LoadedFamily) -> None:
    vocabulary = {**family.models.tokenizer.get_vocab(), "<unk>": len(family.models.tokenizer)}
    other = CLIPTokenizer(vocab=vocabulary, merges=[], unk_token="<unk>")
    assert other.unk_token_id != other.eos_token_id
    found = Hearing(other).heard("a 猫")
    assert (found.text, found.dropped) == ("a 猫", ())


@pytest.fixture
def client(family_folder: Path, tmp_path: Path) -> Iterator[Client]:
    with Client(family=str(family_folder), members="small", state_folder=tmp_path) as made:
        yield made


def test_the_picture_is_that_of_the_prompt_without_the_letters_and_says_so(
    client: Client, tmp_path: Path
) -> None:
    options = {"arm": "device", "steps": 2}
    plain = client.generate("a red  cat", negative_prompt="a dog", **options)
    assert plain.notes == ()
    spoilt = client.generate("a red 猫 cat", negative_prompt="a ödog", **options)
    np.testing.assert_array_equal(spoilt.picture, plain.picture)
    assert [("'猫'" in note, "'ö'" in note) for note in spoilt.notes] == [
        (True, False),
        (False, True),
    ]
    assert spoilt.task.prompt == "a red 猫 cat"


def test_the_journal_tells_of_the_loss_without_the_words(client: Client, tmp_path: Path) -> None:
    prompt = "猫 " + "cat " * ROOM + "with a secret"
    made = client.generate(prompt, arm="device", steps=1)
    assert "secret" in " ".join(made.notes)
    entry = Journal(tmp_path / JOURNAL_FILE, 10).find("last")
    assert len(entry.notes) == 2
    assert not any("secret" in note or "猫" in note for note in entry.notes)
