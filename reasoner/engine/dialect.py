"""What differs between kinds of servers, as data and small pure functions: how to ask, how to read, how to command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoner.engine.protocol import Request


@dataclass(frozen=True)
class Call:
    """One HTTP call: method, path below the server's address, JSON body (none for GET)."""

    path: str
    body: dict[str, Any] | None = None
    method: str = "POST"


@dataclass(frozen=True)
class Reply:
    """A server's answer to a request: the new tokens, their log-probabilities, the likeliest tokens at each place.

    `logprobs` are what the server says, raw or processed; `top` is empty where none were asked for. `why` is the
    server's own word for the end.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    why: str
    top: tuple[dict[int, float], ...] = ()


@dataclass(frozen=True)
class Ask:
    """What a call for tokens needs beside the request: the name that the server knows the weights by, and the ends.

    `seed` belongs to the request's place and the length of its prefix: a server starts its noise anew in each call.
    """

    model: str
    seed: int
    stop_ids: Sequence[int]
    num_top: int


@dataclass(frozen=True)
class Dialect:
    """A kind of server.

    `ask(request, ask)` and `read(answer)` are for tokens, `ask_score(token_ids, model)` and `read_score(answer)` for
    the log-probability of each token of a text but the first. The control calls that a server of this kind lacks are
    empty lists. `needs` names paths that training needs, with what switches each on.
    """

    name: str
    ask: Callable[[Request, Ask], Call]
    read: Callable[[dict[str, Any]], Reply]
    ask_score: Callable[[Sequence[int], str], Call]
    read_score: Callable[[dict[str, Any]], list[float]]
    health: Call
    describe: Call  # names of models, and lengths
    read_models: Callable[
        [dict[str, Any]], dict[str, int | None]
    ]  # name -> longest context, where it is told
    tokenize: Callable[[str, str], Call] | None
    pause: list[Call]
    resume: list[Call]
    reset_cache: list[Call]
    reload: Callable[[str], list[Call]]
    load_adapter: Callable[[str, str], list[Call]]
    unload_adapter: Callable[[str], list[Call]]
    command: Callable[..., tuple[list[str], dict[str, str]]]  # arguments and environment of a server to start
    needs: dict[str, str] = field(default_factory=dict)
    aborted: frozenset[str] = frozenset({"abort"})
