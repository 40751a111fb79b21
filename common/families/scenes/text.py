"""The family's tokenizer: CLIP's BPE, trained until each word of the grammar is one token.

Words outside the vocabulary fall apart into letters, as with any BPE, so every text can be encoded.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, trainers
from transformers import CLIPTokenizer

from baton.common.families.scenes.grammar import vocabulary
from baton.common.families.scenes.worlds import DETAIL, World

#: Length to which prompts are padded and cut, tokens.
MAX_TOKENS = 32
_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def build_tokenizer(world: World = DETAIL) -> CLIPTokenizer:
    """The tokenizer, made anew from a world's grammar.

    Token numbers may differ from one call to the next, so a family keeps the one it was made with.
    """
    bpe = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        end_of_word_suffix=_WORD_END,
        initial_alphabet=[chr(code) for code in range(33, 127)],
        show_progress=False,
    )
    bpe.train_from_iterator(vocabulary(world), trainer)
    trained = json.loads(bpe.to_str())["model"]
    letters = [chr(code) for code in range(33, 127)]
    tokens = dict.fromkeys([*letters, *(x + _WORD_END for x in letters), *trained["vocab"]])
    vocab = {token: index for index, token in enumerate([*tokens, _START, _END])}
    with tempfile.TemporaryDirectory() as scratch:
        vocab_file, merges_file = Path(scratch, "vocab.json"), Path(scratch, "merges.txt")
        vocab_file.write_text(json.dumps(vocab))
        merges = [" ".join(pair) for pair in trained["merges"]]
        merges_file.write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        return CLIPTokenizer(str(vocab_file), str(merges_file), model_max_length=MAX_TOKENS)
