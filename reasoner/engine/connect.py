"""Which engine a stage draws from: its options, and the checks before the first request."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from reasoner.config import Config
from reasoner.engine import servers, sglang, vllm
from reasoner.engine.asking import Server
from reasoner.engine.dialect import Ask, Dialect
from reasoner.engine.protocol import Request, Sampling
from reasoner.engine.remote import RemoteEngine
from reasoner.engine.stopping import StopStrings
from reasoner.ledger import Ledger
from reasoner.registry import UserError

DIALECTS: dict[str, Dialect] = {"vllm": vllm.DIALECT, "sglang": sglang.DIALECT}
TEXTS = ("What is 3 + 4?\n\n", "Überprüfe: x² ≤ 2·y, 1,000.50 ", "def f(x):\n    return x  # ок")
EXECUTABLES = {"vllm": "vllm", "sglang": "python"}


class EngineConfig(Config):
    """What draws tokens: the engine in this process, or servers."""

    kind: Literal["local", "vllm", "sglang"] = Field(
        default="local",
        description="local: in this process, and the same draws at each run; vllm, sglang: servers",
    )
    urls: list[str] = Field(
        default=[], description="addresses of servers that are there, as http://127.0.0.1:8000"
    )
    spawn: int = Field(
        default=0,
        ge=0,
        description="or: servers to start, ended with the run; here, or by --ray on a cluster's machines",
    )
    executable: str = Field(
        default="", description="with spawn: the program, as the path of vllm in an environment of its own"
    )
    arguments: list[str] = Field(
        default=[],
        description='with spawn: more arguments of the program, as ["--tensor-parallel-size", "2"]; of those that are given '
        "twice the last counts",
    )
    kv_bytes: int | None = Field(
        default=None,
        ge=1,
        description="local: bytes for keys and values of the sequences under way, of which fewer run at once where it holds no "
        "more; by default num_slots times the context",
    )
    restarts: int = Field(
        default=3,
        ge=0,
        description="with spawn: times, in all, that a server which has died is started again",
    )
    served: str = Field(
        default="policy", description="name that the servers know the model by (--served-model-name)"
    )
    dtype: str = Field(default="auto", description="with spawn: what the servers compute in")
    logprobs: Literal["raw", "processed"] = Field(
        default="raw",
        description="what servers report: raw (of the whole distribution), or processed, needed by a temperature other "
        "than 1, top_k, top_p or min_p (--logprobs-mode processed_logprobs)",
    )
    num_top: int = Field(
        default=0,
        ge=0,
        le=20,
        description="likeliest tokens asked for at each place, to bound the entropy from below",
    )
    in_flight: int = Field(default=64, ge=1, description="requests under way at once, per server")
    timeout: float = Field(default=600.0, gt=0, description="seconds for one request")
    patience: float = Field(
        default=300.0, gt=0, description="seconds that a round waits when no server answers, before it ends"
    )
    tolerance: float = Field(
        default=0.05, gt=0, description="furthest that a server's log-probability may be from the trainer's"
    )

    @model_validator(mode="after")
    def _one_source(self) -> EngineConfig:
        if self.kind == "local" and (self.urls or self.spawn):
            raise ValueError("got urls or spawn with kind local; expected kind vllm or sglang for servers")
        if self.kind != "local" and self.kv_bytes is not None:
            raise ValueError(
                f"got kv_bytes with kind {self.kind}, whose servers have a memory of their own; expected kind local"
            )
        if self.arguments and not self.spawn:
            raise ValueError(
                "got arguments without spawn; expected spawn, or give them to your servers yourself"
            )
        if self.kind != "local" and bool(self.urls) == bool(self.spawn):
            raise ValueError(
                f"got kind {self.kind}; expected either urls of servers or spawn, a number of them"
            )
        return self


def connect(
    config: EngineConfig,
    tokenizer,
    eos_ids: Iterable[int],
    vocab_size: int,
    max_context: int,
    model_path: str,
    folder: Path,
    ledger: Ledger | None = None,
    lora_rank: int = 0,
    progress: Callable[[str], None] = lambda note: None,
    hosts: Callable[[int], list[servers.Host]] | None = None,
) -> RemoteEngine:
    """An engine on checked servers, started first where `spawn` says so; UserError for each thing that does not fit.

    `hosts(number)` are the machines that they are started on, by default this one.
    """
    dialect = _with_arguments(DIALECTS[config.kind], config.arguments)
    urls, fleet = config.urls, None
    if config.spawn:
        fleet = servers.start(
            dialect, model_path, config.spawn, folder / "servers", max_context, config.dtype, config.logprobs,
            lora_rank, config.executable or EXECUTABLES[config.kind], progress=progress, restarts=config.restarts,
            hosts=hosts,
        )  # fmt: skip
        urls = fleet.urls
    engine = RemoteEngine(
        dialect, urls, eos_ids, vocab_size, max_context, StopStrings(tokenizer, vocab_size), config.served,
        config.in_flight, config.timeout, config.patience, config.num_top, config.logprobs == "processed", ledger,
    )  # fmt: skip
    engine.fleet = fleet
    try:
        for server in engine.servers:
            check_server(engine, server, tokenizer, config)
    except BaseException:
        engine.close()
        raise
    return engine


def _with_arguments(dialect: Dialect, more: Sequence[str]) -> Dialect:
    def command(*asked) -> tuple[list[str], dict[str, str]]:
        arguments, environment = dialect.command(*asked)
        return [*arguments, *more], environment

    return replace(dialect, command=command)


def check_server(engine: RemoteEngine, server: Server, tokenizer, config: EngineConfig) -> None:
    """What stands behind an address is a server of this kind, with this tokenizer, room and log-probabilities."""
    dialect = engine.dialect
    told = engine.call(server, dialect.describe, 30.0)
    try:
        models = dialect.read_models(told)
    except (KeyError, TypeError) as problem:
        raise UserError(
            f"{server.url}{dialect.describe.path} answered {str(told)[:200]!r}; expected a {dialect.name} server's "
            "list of models: correct engine.urls or engine.kind"
        ) from problem
    if engine.served not in models:
        raise UserError(
            f"{server.url} serves {', '.join(models) or 'nothing'}; expected {engine.served!r}: start it with "
            f"--served-model-name {engine.served}, or set engine.served"
        )
    room = models[engine.served]
    if room is not None and room < engine.max_context:
        raise UserError(
            f"{server.url} has a context of {room} tokens and the run needs {engine.max_context} (prompt and "
            f"max_tokens); expected at least these: start it with --max-model-len {engine.max_context}, or lower max_tokens "
            "(chat and serve: --max-context)"
        )
    _check_tokens(engine, server, tokenizer)
    _check_logprobs(engine, server, tokenizer, config)


def _check_tokens(engine: RemoteEngine, server: Server, tokenizer) -> None:
    if engine.dialect.tokenize is None:
        return
    for text in TEXTS:
        theirs = engine.call(server, engine.dialect.tokenize(text, engine.served), 30.0).get("tokens")
        ours = tokenizer(text, add_special_tokens=False).input_ids
        if theirs != ours:
            raise UserError(
                f"{server.url} cuts {text!r} into {theirs}, the trainer's tokenizer into {ours}; expected the same: "
                "serve the model that is trained"
            )


def _check_logprobs(engine: RemoteEngine, server: Server, tokenizer, config: EngineConfig) -> None:
    """Log-probabilities are given, and are raw or processed as the config says: told by a draw at a low temperature."""
    prefix = tuple(tokenizer(TEXTS[0], add_special_tokens=False).input_ids)

    def drawn(sampling: Sampling) -> Sequence[float]:
        request = Request("check", prefix, 8, place=1, sampling=sampling)
        call = engine.dialect.ask(request, Ask(engine.served, 1, (), 0))
        return engine.dialect.read(engine.call(server, call)).logprobs

    try:
        # top_k 1 leaves one token, whose processed log-probability is 0 and whose raw one is not
        only = drawn(Sampling(1.0, top_k=1))
    except (KeyError, TypeError, IndexError) as problem:
        raise UserError(
            f"{server.url} gives no log-probabilities; expected one for each token: a {engine.dialect.name} server "
            "that allows logprobs"
        ) from problem
    mode = "processed" if all(math.isclose(p, 0.0, abs_tol=1e-6) for p in only) else "raw"
    if mode != config.logprobs:
        raise UserError(
            f"{server.url} gives {mode} log-probabilities and engine.logprobs is {config.logprobs}; expected the same: "
            f"start it with --logprobs-mode {config.logprobs}_logprobs, or set engine.logprobs={mode}"
        )
