"""What an engine on servers knows of each server, how a request is told to it, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from dataclasses import dataclass, field
from typing import Any

import httpx

from reasoner.engine.dialect import Call, Dialect
from reasoner.engine.protocol import Request, Sampling
from reasoner.registry import UserError

TOLD = 300  # characters of a server's words that an error shows


class EngineClosed(RuntimeError):
    """The engine was closed while somebody drew from it."""


class ServerGone(UserError):
    """No server answered for longer than `patience`."""


@dataclass
class Server:
    """One server, as this process knows it. `ready` is False until it has the present weights."""

    url: str
    under_way: int = 0
    ready: bool = True
    answers: bool = True  # False from a failed call until the next that succeeds
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    mending: asyncio.Lock = field(default_factory=asyncio.Lock)  # one task at a time looks whether it is back


def check_sampling(sampling: Sampling, processed: bool) -> None:
    """A UserError for draws whose log-probabilities a server would not tell; `processed`: it tells those of what is cut."""
    s = sampling
    plain = s.temperature in (0, 1) and s.top_k == 0 and s.top_p == 1 and s.min_p == 0
    if not plain and not processed:
        raise UserError(
            f"{s} cuts or reshapes the distribution, and the server gives log-probabilities of the whole one; "
            "expected a server with --logprobs-mode processed_logprobs and engine.logprobs=processed, or "
            "temperature 1 without top_k, top_p and min_p"
        )


def seed_of(request: Request) -> int:
    """A signed 64-bit seed of the place and of where its tokens begin.

    A server's noise starts anew with each call: a continuation that goes on after a pause must not meet it twice.
    """
    packed = struct.pack("<qq", request.place, len(request.prefix_ids))
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little", signed=True)


def json_of(answer: httpx.Response) -> dict[str, Any]:
    try:
        told = answer.json()
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {"answer": told}


def words_of(dialect: Dialect, server: Server, call: Call, answer: httpx.Response) -> str:
    """What a server said against a call, and what to do about it."""
    needed = next((what for path, what in dialect.needs.items() if call.path.startswith(path)), "")
    remedy = (
        f"start the server with {needed}" if needed and answer.status_code == 404 else "see the server's log"
    )
    said = " ".join(answer.text.split())[:TOLD]
    return (
        f"{server.url}{call.path} answered {answer.status_code}: {said!r}; expected a {dialect.name} server "
        f"that takes this call: {remedy}"
    )
