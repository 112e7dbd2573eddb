"""What a training run draws from: the trained module itself in this process, or servers that get its weights.

On several processes one of them sends the weights, the others wait, and all draw.
"""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from reasoner.data.prompting import Prompting
from reasoner.engine.connect import EngineConfig, connect
from reasoner.engine.local import LocalEngine
from reasoner.engine.open import open_engine
from reasoner.engine.remote import RemoteEngine
from reasoner.policy.adapters import Adapter, base_of, is_adapter
from reasoner.trainers.loop import Session


def open_sampler(
    config: EngineConfig,
    sampler: Any,
    model_path: str,
    prompting: Prompting,
    max_context: int,
    num_slots: int,
    probe_ids: list[int],
    session: Session,
    accelerator: Accelerator,
    lora_rank: int = 0,
) -> LocalEngine | RemoteEngine:
    """The engine for `sampler`; servers end with the stage. An Adapter goes to servers as such."""
    sampler = sampler.to(accelerator.device)
    folder = session.out / "engine"
    tokens = (prompting.tokenizer, prompting.eos_ids)
    if config.kind == "local" or accelerator.is_main_process:
        engine = open_engine(
            config, sampler, *tokens, max_context, num_slots, folder, probe_ids, session.ledger,
            lambda note: session.progress(0, 0, note), base_of(model_path) if is_adapter(model_path) else model_path,
            lora_rank if isinstance(sampler, Adapter) else 0,
        )  # fmt: skip
        urls = [s.url for s in engine.servers] if isinstance(engine, RemoteEngine) else []
    else:
        engine, urls = None, []
    if config.kind == "local":
        assert engine is not None
        return engine
    told = [urls, engine.served if isinstance(engine, RemoteEngine) else ""]
    if accelerator.num_processes > 1:
        broadcast_object_list(told)
    if engine is None:
        there = config.model_copy(update={"urls": told[0], "spawn": 0})
        engine = connect(
            there, *tokens, sampler.config.vocab_size, max_context, "", folder, session.ledger
        )  # fmt: skip
        engine.model = sampler
    assert isinstance(engine, RemoteEngine)
    session.ending.callback(engine.close)
    _install_once(engine, accelerator)
    return engine


def _install_once(engine: RemoteEngine, accelerator: Accelerator) -> None:
    """Let the process that has the sender send, and the others wait until the servers have answered."""
    send = engine.install

    def install(version: int) -> None:
        if send is not None:
            send(version)
        told = [engine.served]
        if accelerator.num_processes > 1:
            broadcast_object_list(told)
        engine.served = told[0]

    engine.install = install
