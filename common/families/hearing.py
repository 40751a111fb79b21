"""What of a prompt its tokenizer can pass on, and what is lost, for notes.

A tokenizer whose unknown token is its end token, as CLIP's is, would end the prompt at every letter
that its vocabulary lacks. Such letters are left out instead; all the others mean what they meant.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

from tokenizers import Encoding, Tokenizer
from transformers import CLIPTokenizer

#: Letters and characters that a note quotes.
_QUOTED = 12
_QUOTED_CHARS = 80


@dataclass(frozen=True)
class Heard:
    """text: what is encoded; dropped: letters left out, each once; cut: the end that is too much.

    limit: tokens that the encoder takes.
    """

    text: str = field(repr=False)
    dropped: tuple[str, ...] = field(repr=False)
    cut: str = field(repr=False)
    limit: int

    def notes(self, what: str, quote: bool = True) -> Iterator[str]:
        """A line for each loss; without ``quote``, none of the prompt is in it."""
        if self.dropped:
            named = ", ".join(repr(letter) for letter in self.dropped[:_QUOTED])
            more = f" and {len(self.dropped) - _QUOTED} more" if len(self.dropped) > _QUOTED else ""
            letters = f" ({named}{more})" if quote else ""
            yield f"the {what} has letters that its encoder does not know: left out{letters}"
        if self.cut:
            shown = self.cut if len(self.cut) <= _QUOTED_CHARS else self.cut[:_QUOTED_CHARS] + "..."
            end = f" ({shown!r})" if quote else ""
            yield f"the {what} is longer than {self.limit} tokens: its end{end} is not heard"


class Hearing:
    """A tokenizer as prompts are looked at: never set to pad or cut, so any thread may ask."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self._tokens = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._tokens.no_truncation()
        self._tokens.no_padding()
        self._limit = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        ends = tokenizer.unk_token_id == tokenizer.eos_token_id
        self._ending = (tokenizer.unk_token_id, tokenizer.unk_token) if ends else None

    def heard(self, text: str) -> Heard:
        """What is made of a prompt."""
        dropped: dict[str, None] = {}
        while unknown := list(self._unknown(text)):
            composed = unicodedata.normalize("NFC", text)  # as CLIP reads it: é is one letter
            if composed == text:
                dropped.update(dict.fromkeys(text[start:stop] for start, stop in unknown))
                composed = _without(text, unknown)
            text = composed
        beyond = self._encoded(text).offsets[self._limit :]
        cut = text[beyond[0][0] :] if beyond else ""
        return Heard(text, tuple(dropped), cut, self._limit)

    def _encoded(self, text: str) -> Encoding:
        return self._tokens.encode(text, add_special_tokens=False)

    def _unknown(self, text: str) -> Iterator[tuple[int, int]]:
        """The places of letters that would end the prompt; an end that is spelt out is meant."""
        if self._ending is None:
            return
        number, spelt = self._ending
        encoded = self._encoded(text)
        for token, (start, stop) in zip(encoded.ids, encoded.offsets, strict=True):
            if token == number and text[start:stop] != spelt:
                yield start, stop


def _without(text: str, places: list[tuple[int, int]]) -> str:
    gone = {index for start, stop in places for index in range(start, stop)}
    return "".join(letter for index, letter in enumerate(text) if index not in gone)
