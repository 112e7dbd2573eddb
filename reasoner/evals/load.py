"""A policy from its folder, ready to write, with the reward models that judge for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from reasoner.config import validate
from reasoner.data.prompting import PromptConfig, Prompting, load_prompting
from reasoner.engine.connect import EngineConfig
from reasoner.engine.open import open_engine
from reasoner.engine.remote import RemoteEngine
from reasoner.engine.weights import PROBE
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
    """A policy that can write in this process, with the reward models that judge for it.

    model: a folder, adapters too, or a name on the hub; prm may be a published one. prompt: keys of the YAML's
    `prompt`; without it the model's chat template is used where it has one. max_context: tokens of prompt and answer.
    """
    if prompt is None:
        prompt = {"chat": bool(load_tokenizer(str(model)).chat_template)}
    if not isinstance(prompt, PromptConfig):
        prompt = validate(PromptConfig, dict(prompt), "prompt")
    prompting = load_prompting(str(model), prompt)
    return _solver(EngineConfig(), str(model), prompting, max_context, num_slots, prm, orm, Path())


@contextmanager
def opened(
    config: EngineConfig,
    model: str,
    prompting: Prompting,
    max_context: int,
    num_slots: int = 64,
    prm: str | None = None,
    orm: str | None = None,
    progress: Callable[[str], None] = lambda note: None,
) -> Iterator[Solver]:
    """`load` with the engine that `config` names: servers that were started, and what they read, end with the context.

    After a failure the servers' logs stay, since the error names them.
    """
    folder = Path(mkdtemp(prefix="reasoner-"))
    let_go = [folder]
    try:
        solver = _solver(config, model, prompting, max_context, num_slots, prm, orm, folder, progress)
        try:
            yield solver
        finally:
            if isinstance(solver.engine, RemoteEngine):
                solver.engine.close()
    except Exception:
        if (folder / "servers").is_dir():
            let_go = [folder / "served", folder / "weights"]
        raise
    finally:
        for part in let_go:
            shutil.rmtree(part, ignore_errors=True)


def _solver(
    config: EngineConfig,
    model: str,
    prompting: Prompting,
    max_context: int,
    num_slots: int,
    prm: str | Path | None,
    orm: str | Path | None,
    folder: Path,
    progress: Callable[[str], None] = lambda note: None,
) -> Solver:
    lm = load_merged(model).to(own_device())
    room = min(max_context, getattr(lm.config, "max_position_embeddings", max_context))
    prm_net = load_reward_model(str(prm), prompting.decode) if prm else None
    orm_net = load_orm(str(orm)) if orm else None
    ledger = Ledger()
    engine = open_engine(
        config, lm, prompting.tokenizer, prompting.eos_ids, room, num_slots, folder, prompting.prompt_ids(PROBE),
        ledger, progress, base=model,
    )  # fmt: skip
    return Solver(Path(model).name, engine, prompting, ledger, prm_net, orm_net)
