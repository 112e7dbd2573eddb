"""A server's reply as a completion: cut by our own rule, with its numbers where they are right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from reasoner.engine.dialect import Reply
from reasoner.engine.protocol import Completion, Request
from reasoner.engine.stopping import StopStrings
from reasoner.registry import UserError


def completion_of(
    request: Request,
    reply: Reply,
    full: Sequence[float] | None,
    eos_ids: frozenset[int],
    strings: StopStrings,
    version: int,
    max_context: int,
) -> Completion:
    """The completion of a request.

    `full` are log-probabilities under the full softmax where the server's own are processed; None where the server's
    are the full ones, which at temperature 1 are those of sampling too, and greedy tokens are certain.
    """
    _check(request, reply)
    count, reason = _end(request, reply, eos_ids, strings, max_context)
    said = reply.logprobs[:count]
    whole = tuple(full[:count]) if full is not None else said
    sampled = (0.0,) * count if request.sampling.temperature == 0 else said
    entropy = tuple(entropy_floor(place) for place in reply.top[:count])
    if any(math.isnan(p) for p in said):
        count, reason = next(i for i, p in enumerate(said) if math.isnan(p)), "nan"
    made = Completion(
        request.id, reply.token_ids[:count], sampled[:count], whole[:count], entropy[:count], reason, version
    )
    return replace(made, adapter=request.adapter)


def _check(request: Request, reply: Reply) -> None:
    if len(reply.logprobs) != len(reply.token_ids):
        raise UserError(
            f"a server gave {len(reply.token_ids)} tokens and {len(reply.logprobs)} log-probabilities; expected one "
            "for each: it must allow logprobs"
        )
    if len(reply.token_ids) > request.max_tokens:
        raise UserError(
            f"a server gave {len(reply.token_ids)} tokens where {request.max_tokens} were asked for; expected at most "
            "these: another program must not stand between"
        )


def _end(
    request: Request, reply: Reply, eos_ids: frozenset[int], strings: StopStrings, max_context: int
) -> tuple[int, str]:
    """How many of the tokens count, and why they end there: the first end by our rule, in the local engine's order."""
    ids = reply.token_ids
    by_token = next((i for i, t in enumerate(ids) if t in eos_ids or t in request.stop_ids), len(ids))
    if request.stop_strings:
        count = first_with(request.stop_strings, ids[: by_token + 1], strings)
        if count is not None and (count <= by_token or by_token == len(ids)):
            return count, "stop"
    if by_token < len(ids):
        return by_token + 1, "eos" if ids[by_token] in eos_ids else "stop"
    if len(ids) >= request.max_tokens or len(request.prefix_ids) + len(ids) >= max_context:
        return len(ids), "length"
    raise UserError(
        f"a server ended a completion after {len(ids)} of {request.max_tokens} tokens ({reply.why!r}) without any of "
        "the ends that were asked for; expected a context as long as the trainer's: raise its --max-model-len"
    )


def first_with(stops: tuple[str, ...], ids: Sequence[int], strings: StopStrings) -> int | None:
    """The least number of leading tokens whose text holds one of `stops`; None where none does. By bisection."""
    if not strings.found(stops, ids):
        return None
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if strings.found(stops, ids[:middle]) else (middle + 1, high)
    return low


def entropy_floor(top: dict[int, float]) -> float:
    """Nats of the likeliest tokens, all others taken as one: a lower bound that is exact where these hold all the mass."""
    known = [p for p in top.values() if p > -math.inf]
    rest = max(0.0, 1.0 - sum(map(math.exp, known)))
    return -sum(math.exp(p) * p for p in known) - (rest * math.log(rest) if rest > 0 else 0.0)
