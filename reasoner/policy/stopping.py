"""Stop strings in the text of sampled tokens, across token borders, without decoding every token of every row.

A token can complete a string only if its own text begins with the string's end (or holds the string whole), so
one look-up in a table by token says which rows need a look at their text at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from reasoner.registry import UserError

UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # what half a character decodes to


class StopStrings:
    """Tables of the tokens that may complete each set of strings; built once a set."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, vocab_size: int):
        if tokenizer is not None and len(tokenizer) > vocab_size:
            raise UserError(
                f"the tokenizer has {len(tokenizer)} tokens and the model {vocab_size}; expected a tokenizer that"
                " belongs to the model, check both paths"
            )
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self.pieces: list[str] | None = None
        self.tables: dict[tuple[str, ...], torch.Tensor] = {}

    def check(self, strings: tuple[str, ...]) -> None:
        if strings and self.tokenizer is None:
            raise UserError(f"stop strings {strings!r} need a tokenizer; give the engine one")
        if "" in strings:
            raise UserError(f"got an empty stop string in {strings!r}; expected text")

    def may_complete(self, strings: tuple[str, ...]) -> torch.Tensor:
        """[V] True for tokens that may complete one of `strings`."""
        if strings not in self.tables:
            if self.pieces is None:
                self.pieces = self._pieces()
            ends = tuple({s[i:] for s in strings for i in range(len(s))})
            self.tables[strings] = torch.tensor(
                [UNKNOWN in p or p.startswith(ends) or any(s in p for s in strings) for p in self.pieces]
            )
        return self.tables[strings]

    def found(self, strings: tuple[str, ...], token_ids: Sequence[int]) -> bool:
        """True if one of `strings` stands in the text of the tokens."""
        text = self._decode(token_ids)
        return any(s in text for s in strings)

    def _decode(self, token_ids: Sequence[int]) -> str:
        assert self.tokenizer is not None
        return self.tokenizer.decode(  # type: ignore[return-value]
            list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _pieces(self) -> list[str]:
        """Each token's text where it follows another: at the start some tokenizers strip a space."""
        assert self.tokenizer is not None
        anchor = next(i for i in range(self.vocab_size) if self._decode([i]).isalnum())
        before = len(self._decode([anchor]))
        known = len(self.tokenizer)
        texts = [self._decode([anchor, i])[before:] if i < known else "" for i in range(self.vocab_size)]
        return texts
