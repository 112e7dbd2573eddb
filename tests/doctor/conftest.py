"""A config without any fault, for faults to be planted into, and its model."""

from pathlib import Path

import pytest
import torch
from small_models import always
from transformers import AutoConfig, AutoModelForCausalLM

from reasoner.policy.models import save, train_tokenizer
from tests.doctor.faults import AMPLE, CHAT, TEST, TRAIN, Plant


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model that answers 5 whatever it is asked, with a chat template."""
    folder = tmp_path_factory.mktemp("doctor") / "model"
    texts = [r["prompt"] + "=\n" + r["solution"] for r in (*TRAIN, *TEST)] * 9
    tokenizer = train_tokenizer(texts, 330)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2", vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    last = tokenizer("1+4=\n", add_special_tokens=False).input_ids[-1]
    answer = tokenizer("#### 5", add_special_tokens=False).input_ids
    assert len({last, *answer, tokenizer.eos_token_id}) == len(answer) + 2
    lm = always(AutoModelForCausalLM.from_config(config), last, *answer, tokenizer.eos_token_id)
    with torch.no_grad():
        lm.lm_head.weight.mul_(4)
    save(lm, tokenizer, folder)
    return folder


@pytest.fixture
def plant(model, tmp_path) -> Plant:
    config = {
        "out": str(tmp_path / "run"),
        "prompt": {"template": "{prompt}=\n"},
        "problems": {
            "train": [{"name": "jsonl", "path": str(tmp_path / "train.jsonl")}],
            "test": [{"name": "jsonl", "path": str(tmp_path / "test.jsonl")}],
        },
        "stages": [
            {"kind": "sft", "model": str(model), "problems": ["train"], "max_steps": 2, "batch_size": 4},
            {"kind": "ppo", "model": str(model), "problems_per_round": 8, "max_tokens": 24, "tokens_per_batch": 256},
        ],
    }  # fmt: skip
    return Plant(tmp_path, config, list(TRAIN), list(TEST), model, AMPLE)
