"""New weights reach every server and are proven to answer before anything is drawn from them.

Written under another name and renamed, so that no server reads half of them; pause, load and clear the cache, and
resume whatever happens. Then each server continues a fixed text, and the trainer scores what it said: a server that
still speaks with the old weights is named.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reasoner.engine.asking import Server, ServerGone
from reasoner.engine.dialect import Ask, Call
from reasoner.engine.protocol import Request
from reasoner.engine.remote import RemoteEngine
from reasoner.policy.adapters import activate, causal_lm
from reasoner.policy.attention import evaluating
from reasoner.policy.logprobs import sequence_logprobs
from reasoner.registry import UserError

CONTROL_TIMEOUT = 300.0  # seconds for one control call
ENDING = 5.0  # seconds that a server which broke off has to be seen as ended
PROBE = "A baker has 24 rolls and sells 9 of them. How many are left?"  # what servers are asked to prove their weights
PROBE_TOKENS = 32
NOISE = 1e-5  # nats a token, on average, within which the trainer has not moved


@dataclass(frozen=True)
class Answer:
    """What a server made of the probe, with the trainer's own log-probabilities of the same tokens."""

    token_ids: tuple[int, ...]
    said: tuple[float, ...]
    own: tuple[float, ...]


@dataclass
class Sender:
    """Sends the trained model to an engine's servers through a folder that these can read.

    `save(folder)` writes the weights as they are; `as_adapter` sends a LoRA adapter under a new name for each
    version (a server's cache is kept by it), else all weights take the old ones' place. Each server continues
    `probe_ids`; what it says of its own tokens may differ from the trainer by `tolerance`.
    """

    engine: RemoteEngine
    model: Any
    save: Callable[[Path], None]
    folder: Path
    probe_ids: Sequence[int]
    as_adapter: bool = False
    tolerance: float = 0.05
    name: str = "policy"
    sent: Path | None = None
    written: list[Path] = field(default_factory=list)  # by this sender, and there still
    unloaded: str = ""  # the adapter before this one
    answers: dict[str, Answer] = field(default_factory=dict)  # by server, to the last probe

    def install(self, version: int) -> None:
        """Write the weights, send them to all servers at once, and prove them; those of versions before go."""
        target = self.folder / f"{self.name}-{version}"
        half = target.with_name(target.name + ".part")
        shutil.rmtree(half, ignore_errors=True)
        self.save(half)
        shutil.rmtree(target, ignore_errors=True)  # of a run that was killed here
        half.rename(target)
        self.written.append(target)
        self.unloaded = self.engine.served if self.as_adapter and self.sent is not None else ""
        self.sent = target
        if self.as_adapter:
            self.engine.served = f"{self.name}-{version}"
        elif self.engine.fleet is not None:
            self.engine.fleet.model = str(target.resolve())  # of one that has to be started again
        with ThreadPoolExecutor(len(self.engine.servers)) as several:
            list(several.map(self.send, self.engine.servers))
        for server in self.engine.servers:  # one after the other: the trainer's own pass is not thread-safe
            self.prove(server)
        for last in self.written[:-1]:
            shutil.rmtree(last, ignore_errors=True)
        self.written = [target]

    def restore(self, server: Server) -> None:
        """The present weights to a server that came back from a restart, proven; where none were sent it has to have them."""
        self.answers.pop(server.url, None)
        if self.sent is not None:
            self.unloaded = ""
            self.send(server)
        self.prove(server)

    def send(self, server: Server) -> None:
        """The present weights to one server; one of our own that has ended is started again for it."""
        try:
            self._send(server, self.unloaded)
        except ServerGone:
            if not self.engine.revive(server, ENDING):
                raise
            self._send(server, "")

    def _send(self, server: Server, unloaded: str) -> None:
        dialect = self.engine.dialect
        place = str(self.sent.resolve()) if self.sent is not None else ""
        if self.as_adapter:
            self._commands(server, dialect.load_adapter(self.engine.served, place))
            if unloaded and unloaded != self.engine.served:
                self._commands(server, dialect.unload_adapter(unloaded))
            return
        try:
            self._commands(server, [*dialect.pause, *dialect.reload(place), *dialect.reset_cache])
        finally:
            self._commands(server, dialect.resume)

    def prove(self, server: Server) -> None:
        """UserError where the server does not answer with the weights that were sent."""
        before = self.answers.get(server.url)
        try:
            now = self._answer(server)
        except ServerGone:
            if not self.engine.revive(server, ENDING):
                raise
            if self.sent is not None:
                self._send(server, "")
            now = self._answer(server)
        self.answers[server.url] = now
        away = max(abs(x - y) for x, y in zip(now.said, now.own, strict=True))
        lags = before is not None and _lags(before, now)
        if away <= self.tolerance and not lags:
            return
        what = "still answers with the weights before these" if lags else "answers with other weights"
        remedy = (
            "serve the model that is asked for"
            if self.sent is None
            else f"see that {self.sent} is the same folder there and that no other run uses this server"
        )
        raise UserError(
            f"{server.url} {what}: log-probabilities of what it says differ from the trainer's by up to {away:.3g}; "
            f"expected at most {self.tolerance:g}: {remedy}, or raise engine.tolerance where its dtype is coarser"
        )

    def _answer(self, server: Server) -> Answer:
        # drawn and not given, since reading a text's log-probabilities ends some servers that hold adapters
        room = self.engine.max_context
        asked = tuple(self.probe_ids[-max(1, room // 2) :])
        request = Request("probe", asked, min(PROBE_TOKENS, room - len(asked)), place=0)
        ask = Ask(self.engine.served, 0, (), 0)
        reply = self.engine.dialect.read(
            self.engine.call(server, self.engine.dialect.ask(request, ask), CONTROL_TIMEOUT)
        )
        whole = [*asked, *reply.token_ids]
        activate(self.model)
        lm = causal_lm(self.model)
        with torch.inference_mode(), evaluating(lm):
            own = sequence_logprobs(lm, [whole])[0][len(asked) - 1 :]
        return Answer(reply.token_ids, reply.logprobs, tuple(own))

    def _commands(self, server: Server, calls: Sequence[Call]) -> None:
        for call in calls:
            self.engine.call(server, call, CONTROL_TIMEOUT)


def await_weights(engine: RemoteEngine, server: Server) -> None:
    """On a process that sends nothing: wait until a server that came back has been given what is drawn from."""
    until = time.monotonic() + CONTROL_TIMEOUT
    while engine.served not in engine.dialect.read_models(engine.call(server, engine.dialect.describe, 30.0)):
        if time.monotonic() > until:
            raise ServerGone(
                f"{server.url} did not get {engine.served} in {CONTROL_TIMEOUT:.0f} s; expected it to"
            )
        time.sleep(0.5)


def _lags(before: Answer, now: Answer) -> bool:
    """True where a server says what it said before, word for word, though the trainer has moved meanwhile."""
    if before.token_ids != now.token_ids:
        return False
    moved = _gap(before.own, now.own)
    return moved > NOISE and _gap(before.said, now.said) < 0.1 * moved


def _gap(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / max(1, len(a))
