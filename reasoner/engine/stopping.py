"""What ends a continuation: stop tokens, and stop strings across token borders, without decoding every token.

A token can complete a string only if its own text begins with the string's end (or holds the string whole), so
one look-up in a table by token says which rows need a look at their text at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from transformers import PreTrainedTokenizerBase

from reasoner.policy.vocabulary import token_bytes
from reasoner.registry import UserError

EOS, STOP, LOOK = 1, 2, 4  # what a token is to a request: its end, its stop, or a reason to look at the text


def tail_tokens(strings: tuple[str, ...]) -> int:
    """How many last tokens hold any of `strings` that the last one completes."""
    return (
        4 * max(map(len, strings)) + 8
    )  # all tokens but special ones have a byte or more, characters four at most


class StopStrings:
    """Tables of the tokens that may complete each set of strings; built once a set."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, vocab_size: int):
        if tokenizer is not None and len(tokenizer) > vocab_size:
            raise UserError(
                f"the tokenizer has {len(tokenizer)} tokens and the model {vocab_size}; expected a tokenizer that"
                " belongs to the model, check both paths"
            )
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self.tables: dict[tuple[str, ...], torch.Tensor] = {}

    @cached_property
    def pieces(self) -> list[bytes]:
        """Each token's bytes, none for ids that the tokenizer does not have."""
        assert self.tokenizer is not None
        known = token_bytes(self.tokenizer)
        return known + [b""] * (self.vocab_size - len(known))

    def check(self, strings: tuple[str, ...]) -> None:
        if strings and self.tokenizer is None:
            raise UserError(f"stop strings {strings!r} need a tokenizer; give the engine one")
        if "" in strings:
            raise UserError(f"got an empty stop string in {strings!r}; expected text")

    def may_complete(self, strings: tuple[str, ...]) -> torch.Tensor:
        """[V] True for tokens that may complete one of `strings`."""
        if strings not in self.tables:
            whole = [s.encode() for s in strings]
            ends = tuple({s[i:] for s in whole for i in range(len(s))})
            self.tables[strings] = torch.tensor(
                [p.startswith(ends) or any(s in p for s in whole) for p in self.pieces]
            )
        return self.tables[strings]

    def found(self, strings: tuple[str, ...], token_ids: Sequence[int]) -> bool:
        """True if one of `strings` stands in the text of the tokens."""
        text = b"".join(self.pieces[i] for i in token_ids)
        return any(s.encode() in text for s in strings)


class StopTable:
    """What each token is to a request, one row of marks for each set of stops that was asked for.

    Shape suffixes: K sets of stops, V vocabulary.
    """

    def __init__(self, eos_ids: Iterable[int], strings: StopStrings, device: torch.device):
        self.strings = strings
        eos_ids = list(eos_ids)
        if not all(0 <= i < strings.vocab_size for i in eos_ids):
            raise UserError(
                f"end-of-text ids {eos_ids} are not all below the model's vocabulary of {strings.vocab_size}; expected"
                " the tokenizer that belongs to the model, check both paths"
            )
        self.marks_KV = torch.zeros(1, strings.vocab_size, dtype=torch.uint8, device=device)
        self.marks_KV[0, eos_ids] = EOS
        self.rows: dict[tuple[frozenset[int], tuple[str, ...]], int] = {(frozenset(), ()): 0}

    def row(self, stop_ids: frozenset[int], stop_strings: tuple[str, ...]) -> int:
        """The row of marks of a request that has these stops beside the end of text."""
        stops = (stop_ids, stop_strings)
        if stops not in self.rows:
            marks_V = self.marks_KV[0].clone()
            marks_V[[i for i in stop_ids if i < len(marks_V)]] |= STOP
            if stop_strings:
                marks_V[self.strings.may_complete(stop_strings).to(marks_V.device)] |= LOOK
            self.rows[stops] = len(self.marks_KV)
            self.marks_KV = torch.cat((self.marks_KV, marks_V[None]))
        return self.rows[stops]
