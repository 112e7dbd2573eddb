"""The engine protocol: who asks for tokens names a prefix and a place; who answers hides batching and prefix sharing."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

STOP_REASONS = {
    "eos": "an end-of-text token",
    "stop": "a stop token or a stop string",
    "length": "max_tokens, or the end of the context",
    "context": "the prefix fills the context: nothing drawn",
    "empty": "the prefix holds no token: nothing drawn",
    "vocabulary": "the prefix holds a token that the model does not have: nothing drawn",
    "memory": "the budget for keys and values holds no more tokens of one sequence",
    "nan": "the logits were not numbers: no token was drawn from them",
    "cancelled": "the caller's wish",
}
BASE = "base"  # as an adapter: the frozen base under all of them


@dataclass(frozen=True)
class Sampling:
    """How a next token is drawn; temperature 0 is greedy, top_k 0, top_p 1 and min_p 0 leave all tokens in."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 <= self.top_p <= 1 or not 0 <= self.min_p <= 1:
            raise ValueError(
                f"got {self}; expected a temperature and top_k of at least 0, top_p and min_p between 0 and 1"
            )


@dataclass(frozen=True)
class Request:
    """Continue `prefix_ids` by at most `max_tokens`.

    `place` seeds this continuation's noise (see `place_key`): the same place draws the same tokens
    whatever else is in the batch. Beside the end-of-text token, one of `stop_ids` ends the continuation, or
    the token that completes one of `stop_strings` in its text, across token borders as well: a step delimiter
    is one of these. `adapter` names the LoRA adapter that runs; "" is the model as it stands, BASE none. Requests of
    one `tree` share prefixes: an engine of several servers keeps them on one.
    """

    id: Hashable
    prefix_ids: Sequence[int]
    max_tokens: int
    place: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    adapter: str = ""
    tree: Hashable = None


@dataclass(frozen=True)
class Completion:
    """What an engine returns: the new tokens with their log-probabilities, and why it stopped.

    `logprobs` are under the sampling distribution, `logprobs_full` under the softmax at temperature 1,
    `entropy` in nats. `stop_reason` is one of STOP_REASONS.
    """

    id: Hashable
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    logprobs_full: tuple[float, ...]
    entropy: tuple[float, ...]
    stop_reason: str
    weights_version: int
    adapter: str = ""


class Engine(Protocol):
    """Streams completions; `sample` waits for all of them, in the order of the requests."""

    weights_version: int
    max_context: int

    def submit(self, requests: Iterable[Request]) -> None: ...
    def poll(self) -> list[Completion]: ...
    def cancel(self, ids: Iterable[Hashable]) -> None: ...
    def sample(self, requests: Sequence[Request]) -> list[Completion]: ...
    def score(self, sequences: Sequence[Sequence[int]], adapter: str = "") -> list[list[float]]: ...
    def load_weights(self, version: int, state: dict | None = None) -> None: ...


def refusal(request: Request, max_context: int, vocab_size: int) -> str:
    """Why no engine of this context and vocabulary could draw for a request, a stop reason; empty where one could."""
    ids = request.prefix_ids
    if not ids:
        return "empty"
    if len(ids) >= max_context:
        return "context"
    if min(ids) < 0 or max(ids) >= vocab_size:
        return "vocabulary"
    return "" if request.max_tokens > 0 else "length"


def place_key(seed: int, round: int, problem_id: str, path: Sequence[tuple[int, int]]) -> int:
    """A 64-bit key for one continuation's noise: a hash of its place in the run, not of when it is drawn.

    `path` holds (offset, ordinal among the continuations of that state) from the root to the continuation.
    """
    packed = struct.pack(f"<qq{2 * len(path)}q", seed, round, *(x for pair in path for x in pair))
    digest = hashlib.blake2b(packed + problem_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
