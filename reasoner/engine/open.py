"""The engine that a stage's options name, ready to draw: in this process, or on servers that have proven their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from reasoner.engine.asking import ServerGone
from reasoner.engine.check import check_sampler
from reasoner.engine.connect import EngineConfig, connect
from reasoner.engine.local import LocalEngine
from reasoner.engine.remote import RemoteEngine
from reasoner.engine.servers import Host
from reasoner.engine.weights import Sender
from reasoner.ledger import Ledger
from reasoner.policy.adapters import causal_lm
from reasoner.policy.logprobs import LogitHead
from reasoner.policy.models import save
from reasoner.registry import UserError


def open_engine(
    config: EngineConfig,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    eos_ids: Iterable[int],
    max_context: int,
    num_slots: int,
    folder: Path,
    probe_ids: Sequence[int],
    ledger: Ledger | None = None,
    progress: Callable[[str], None] = lambda note: None,
    base: str = "",
    lora_rank: int = 0,
    hosts: Callable[[int], list[Host]] | None = None,
) -> LocalEngine | RemoteEngine:
    """An engine for `model`, a causal LM, a PEFT model or an Adapter.

    Servers that are started, here or on `hosts(number)`, read the weights from `folder`; with `lora_rank` they hold the
    model `base` and get the adapter. Servers that are there are asked first, and get the weights where they have others.
    """
    if config.kind == "local":
        local = LocalEngine(
            model,
            eos_ids,
            num_slots,
            max_context,
            ledger=ledger,
            slot_bytes=config.kv_bytes,
            tokenizer=tokenizer,
        )
        if local.length < max_context:
            raise UserError(
                f"engine.kv_bytes={config.kv_bytes} holds {local.length} tokens of one sequence, and the longest prompt with "
                f"max_tokens has {max_context}; expected {max_context * local.token_bytes} bytes or more"
            )
        check_sampler(local)
        return local
    served = base
    if config.spawn and not lora_rank:
        served = str(folder / "served")
        save(model, tokenizer, folder / "served")
    vocab_size = LogitHead(causal_lm(model)).vocab_size
    engine = connect(
        config, tokenizer, eos_ids, vocab_size, max_context, served, folder, ledger, lora_rank, progress,
        hosts,
    )  # fmt: skip
    engine.model = causal_lm(model)

    def write(to: Path) -> None:
        if lora_rank:
            model.save_pretrained(to)
        else:
            save(model, tokenizer, to)

    sender = Sender(
        engine, model, write, folder / "weights", list(probe_ids), bool(lora_rank), config.tolerance
    )  # fmt: skip
    engine.install, engine.sync = sender.install, sender.restore
    try:
        if lora_rank:
            engine.load_weights(0)
        else:
            _prove_or_send(engine, sender)
    except BaseException:
        engine.close()
        raise
    return engine


def _prove_or_send(engine: RemoteEngine, sender: Sender) -> None:
    try:
        for server in engine.servers:
            sender.prove(server)
    except ServerGone:
        raise
    except UserError as other:
        try:
            engine.load_weights(0)
        except UserError as problem:
            raise UserError(f"{other}; or let it take these: {problem}") from problem
