"""A policy from its folder, ready to write, with the reward models that judge for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasoner.config import validate
from reasoner.data.prompting import PromptConfig, load_prompting
from reasoner.engine.local import LocalEngine
from reasoner.evals.tools import Solver
from reasoner.ledger import Ledger
from reasoner.policy.adapters import load_merged
from reasoner.policy.machine import own_device
from reasoner.policy.models import load_tokenizer
from reasoner.scoring.reward_models import load_orm, load_reward_model


def load(
    model: str | Path,
    prm: str | Path | None = None,
    orm: str | Path | None = None,
    *,
    prompt: Mapping[str, Any] | PromptConfig | None = None,
    max_context: int = 2048,
    num_slots: int = 64,
) -> Solver:
    """A policy that can write, with the reward models that judge for it.

    model: a folder, adapters too, or a name on the hub; prm may be a published one. prompt: keys of the YAML's
    `prompt`; without it the model's chat template is used where it has one. max_context: tokens of prompt and answer.
    """
    if prompt is None:
        prompt = {"chat": bool(load_tokenizer(str(model)).chat_template)}
    if not isinstance(prompt, PromptConfig):
        prompt = validate(PromptConfig, dict(prompt), "prompt")
    prompting = load_prompting(str(model), prompt)
    lm = load_merged(str(model)).to(own_device())
    room = min(max_context, getattr(lm.config, "max_position_embeddings", max_context))
    ledger = Ledger()
    engine = LocalEngine(lm, prompting.eos_ids, num_slots, room, ledger=ledger, tokenizer=prompting.tokenizer)
    return Solver(
        Path(model).name,
        engine,
        prompting,
        ledger,
        load_reward_model(str(prm), prompting.decode) if prm else None,
        load_orm(str(orm)) if orm else None,
    )
