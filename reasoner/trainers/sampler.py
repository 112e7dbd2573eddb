"""What a training run draws from: the trained module itself in this process, or servers that get its weights.

On several processes one of them sends the weights, the others wait, and all draw.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from accelerate import PartialState

from reasoner.data.prompting import Prompting
from reasoner.engine.connect import EngineConfig, connect
from reasoner.engine.local import LocalEngine
from reasoner.engine.open import open_engine
from reasoner.engine.remote import RemoteEngine
from reasoner.engine.weights import await_weights
from reasoner.policy.adapters import Adapter, base_of, is_adapter
from reasoner.trainers.loop import Session
from reasoner.trainers.ranks import from_everyone


def open_sampler(
    config: EngineConfig,
    sampler: Any,
    model_path: str,
    prompting: Prompting,
    max_context: int,
    num_slots: int,
    probe_ids: list[int],
    session: Session,
    lora_rank: int = 0,
    alone: bool = False,
    refresh: Callable[[], None] | None = None,
) -> LocalEngine | RemoteEngine:
    """The engine for `sampler`; servers end with the stage. An Adapter goes to servers as such.

    All processes open theirs together, but for one that does so `alone`. `refresh` brings a sampler that is a copy up to
    date, on all processes together.
    """
    is_main = alone or PartialState().is_main_process
    folder = session.out / "engine"
    tokens = (prompting.tokenizer, prompting.eos_ids)
    if config.kind == "local" or is_main:
        engine = open_engine(
            config, sampler, *tokens, max_context, num_slots, folder, probe_ids, session.ledger,
            lambda note: session.progress(0, 0, note), base_of(model_path) if is_adapter(model_path) else model_path,
            lora_rank if isinstance(sampler, Adapter) else 0, session.hosts,
        )  # fmt: skip
        urls = [s.url for s in engine.servers] if isinstance(engine, RemoteEngine) else []
    else:
        engine, urls = None, []
    if config.kind == "local":
        assert isinstance(engine, LocalEngine)
        if refresh is not None:
            engine.install = lambda version: refresh()
        return engine
    urls = urls if alone else from_everyone(urls)[0]
    if engine is None:
        there = config.model_copy(update={"urls": urls, "spawn": 0})
        engine = connect(
            there, *tokens, sampler.config.vocab_size, max_context, "", folder, session.ledger
        )  # fmt: skip
        engine.model = sampler
        engine.sync = partial(await_weights, engine)
    assert isinstance(engine, RemoteEngine)
    session.ending.callback(engine.close)
    if not alone:
        _install_once(engine, refresh)
    return engine


def _install_once(engine: RemoteEngine, refresh: Callable[[], None] | None) -> None:
    """Let the process that has the sender send, and the others wait until the servers have answered."""
    send = engine.install

    def install(version: int) -> None:
        if refresh is not None:
            refresh()
        if send is not None:
            send(version)
        urls = [server.url for server in engine.servers]
        engine.served, urls = from_everyone((engine.served, urls), drawing=True)[0]
        for server, url in zip(engine.servers, urls, strict=True):
            server.url = url  # another one where its machine was lost

    engine.install = install
