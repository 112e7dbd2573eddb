"""Small models that tests build and save; nothing is downloaded."""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from reasoner.policy.models import save, train_tokenizer


def save_small_qwen(folder: Path, texts: list[str], vocab_size: int = 600) -> Path:
    """A random model of Qwen2.5-0.5B's architecture (grouped queries, tied embeddings), small, with a Qwen2Tokenizer."""
    tokenizer = train_tokenizer(texts, vocab_size)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2", vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    save(AutoModelForCausalLM.from_config(config), tokenizer, folder)
    return folder


def first_rows(path: Path, count: int) -> list[dict]:
    """The first rows of a gzipped JSON-lines file."""
    import gzip

    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for _, line in zip(range(count), lines, strict=False)]
