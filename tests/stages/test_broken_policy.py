"""A policy that cannot draw ends a run with one line and an exit code, from the command line down."""

import math
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small_models import save_small_qwen
from transformers import AutoModelForCausalLM

from reasoner.cli import main


def write_config(model: Path, out: Path, **options) -> Path:
    stage = {
        "kind": "rollout",
        "model": str(model),
        "max_tokens": 8,
        "tree": {"num_roots": 2},
        "num_problems": 4,
    }
    sets = {"train": [{"name": "arithmetic", "size": 4, "families": {"chain_sum": {"max_terms": 3}}}]}
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({"out": str(out), "problems": sets, "stages": [stage | options]}))
    return path


def nan_weights(folder: Path) -> str:
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    model.save_pretrained(folder)
    return "continuations of prompts broke off"


def no_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").unlink()
    return "is tokenizer.json missing from the folder?"


def short_context(folder: Path) -> str:
    return "but the model has only 1024 positions"


def other_vocabulary(folder: Path) -> str:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(200)
    model.save_pretrained(folder)
    return "expected a tokenizer that belongs to the model"


@pytest.mark.parametrize("damage", [nan_weights, no_tokenizer, short_context, other_vocabulary])
def test_one_line_and_exit_code_2(damage, tmp_path, monkeypatch, capsys):
    folder = save_small_qwen(tmp_path / "model", ["1 + 2 = 3\n"] * 9, 300)
    expected = damage(folder)
    options = {"max_tokens": 2000} if damage is short_context else {}
    monkeypatch.setattr(
        sys, "argv", ["reasoner", "run", str(write_config(folder, tmp_path / "run", **options))]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "Traceback" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("reasoner: ")]
    assert expected in line
