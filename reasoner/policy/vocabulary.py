"""What a tokenizer's tokens are: their bytes, what stands before a text, and which of them end a turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # what half a character decodes to
PROBES = ("So 3 + 4 = 7.", "34", "a b")  # a tokenizer of a narrow language may know one of them only
_REPLY = "qzreplyzq"  # stands for an answer while a chat template is read
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's name of a token of one byte


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level BPE writes bytes as (Radford et al. 2019): printable ones as themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


_LETTERS = _byte_letters()


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """UTF-8 of each token's text where it follows another: at the start some tokenizers strip a space.

    A token that is a part of a character has its own bytes, so that the bytes of a text's tokens join to the text's.
    """
    size = len(tokenizer)
    anchor = next((i for i in range(size) if _decode(tokenizer, [[i]])[0].isalnum()), None)
    if anchor is None:
        return [text.encode() for text in _decode(tokenizer, [[i] for i in range(size)])]
    before = len(_decode(tokenizer, [[anchor]])[0])
    texts = [text[before:] for text in _decode(tokenizer, [[anchor, i] for i in range(size)])]
    names: Any = tokenizer.convert_ids_to_tokens(list(range(size)))
    return [
        _named_bytes(name, text) if UNKNOWN in text else text.encode()
        for name, text in zip(names, texts, strict=True)
    ]


def _named_bytes(name: str, text: str) -> bytes:
    """The bytes of a token that is no whole text, by its name in the vocabulary."""
    one = _BYTE.fullmatch(name)
    if one:
        return bytes([int(one[1], 16)])
    if all(letter in _LETTERS for letter in name):
        return bytes(_LETTERS[letter] for letter in name)
    return text.encode()


def _decode(tokenizer: Any, sequences: list[list[int]]) -> list[str]:
    if tokenizer.is_fast:
        return tokenizer.backend_tokenizer.decode_batch(sequences, skip_special_tokens=False)
    return [tokenizer.decode(s, clean_up_tokenization_spaces=False) for s in sequences]


def reads_back(tokenizer: Any, text: str) -> bool:
    """Whether a text comes back from its tokens, but for blanks and case."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    back = tokenizer.decode(ids, skip_special_tokens=True)
    return "".join(back.split()).lower() == "".join(text.split()).lower()


def opening(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text by itself, as Llama's and Gemma's beginning of text."""
    plain = tokenizer(PROBES[0], add_special_tokens=False).input_ids
    whole = tokenizer(PROBES[0]).input_ids
    at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    return list(whole[:at])


def end_of_turn(tokenizer: Any) -> int | None:
    """The token that closes an answer in the tokenizer's chat template (<|im_end|>, <end_of_turn>, <|eot_id|>, <|end|>).

    None where there is no template, or no token of its own after the answer.
    """
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": _REPLY}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError:
        return None
    after = tokenizer(text.rpartition(_REPLY)[2], add_special_tokens=False).input_ids
    own = tokenizer.added_tokens_decoder
    return next((i for i in after if i in own), None)


def generation_ends(path: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The end-of-text ids of a model's generation_config, or of its config where it has none.

    A config's ids may be nobody's choice but its class's default: of these, only tokens that no text is made of count.
    """
    try:
        return _listed(GenerationConfig.from_pretrained(path).eos_token_id)
    except (OSError, ValueError):
        pass
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError):
        return []
    own = tokenizer.added_tokens_decoder
    return [i for i in _listed(getattr(config.get_text_config(), "eos_token_id", None)) if i in own]


def _listed(ids: int | Sequence[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
