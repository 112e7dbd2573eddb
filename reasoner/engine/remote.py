"""The engine on servers: one request a continuation, trees kept together, and nothing drawn by weights that lag.

Calls run in a thread of their own with an event loop; `poll` waits for what comes back. A connection that breaks and
a server's 5xx are tried again at the same place, on another server where one answers; a 4xx ends the run with the
server's own words.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import httpx

from reasoner.engine.asking import (
    TOLD,
    EngineClosed,
    Server,
    ServerGone,
    check_sampling,
    json_of,
    seed_of,
    words_of,
)
from reasoner.engine.completion import completion_of
from reasoner.engine.dialect import Ask, Call, Dialect, Reply
from reasoner.engine.protocol import Completion, Request, refusal
from reasoner.engine.servers import Fleet
from reasoner.engine.stopping import StopStrings
from reasoner.ledger import Ledger
from reasoner.registry import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0  # seconds between two tries


class RemoteEngine:
    """Draws through one or several servers of one dialect.

    `served` is the name that the servers know the model by. `in_flight` bounds the requests under way per server,
    `timeout` one request, `patience` how long a round waits for a server that is gone (both in seconds). `num_top`
    likeliest tokens are asked for at each place to bound the entropy from below; with 0 completions have none.
    `processed` is True where the servers give log-probabilities under the sampling distribution; the full ones are
    then read by a second call. `sync(server)` gives a server that came back the present weights before it gets requests.
    """

    def __init__(
        self,
        dialect: Dialect,
        urls: Sequence[str],
        eos_ids: Iterable[int],
        vocab_size: int,
        max_context: int,
        strings: StopStrings,
        served: str = "policy",
        in_flight: int = 64,
        timeout: float = 600.0,
        patience: float = 300.0,
        num_top: int = 0,
        processed: bool = False,
        ledger: Ledger | None = None,
        name: str = "policy",
    ):
        self.dialect, self.served, self.name, self.ledger = dialect, served, name, ledger
        self.model: Any = None  # the trainer's own copy, for what a server does not tell
        self.eos_ids = frozenset(eos_ids)
        self.vocab_size, self.max_context, self.strings = vocab_size, max_context, strings
        self.in_flight, self.timeout, self.patience = in_flight, timeout, patience
        self.num_top, self.processed = num_top, processed
        self.weights_version = 0
        self.install: Callable[[int], None] | None = (
            None  # how new weights get to the servers: engine/weights
        )
        self.sync: Callable[[Server], None] = lambda server: None
        self.fleet: Fleet | None = None  # servers that end with this engine
        self.home: dict[Hashable, Server] = {}  # by tree
        self.done: queue.SimpleQueue[Completion | BaseException] = queue.SimpleQueue()
        self.is_closed = False
        self.waiting = 0  # completions that poll has yet to hand out
        self.tasks: dict[Hashable, asyncio.Task[None]] = {}
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="remote-engine", daemon=True)
        self.thread.start()
        self.client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout, connect=10.0), trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=in_flight * len(urls)),
        )  # fmt: skip
        self.servers = [Server(url.rstrip("/"), gate=asyncio.Semaphore(in_flight)) for url in urls]

    def submit(self, requests: Iterable[Request]) -> None:
        """Send requests; those that no server could answer end at once, as on the local engine."""
        if self.is_closed:
            raise EngineClosed("the engine is closed")
        for request in requests:
            self.strings.check(request.stop_strings)
            check_sampling(request.sampling, self.processed)
            self.waiting += 1
            reason = refusal(request, self.max_context, self.vocab_size)
            if reason:
                self.done.put(self._empty(request, reason))
                continue
            server = self._home_of(request)
            server.under_way += 1
            self.loop.call_soon_threadsafe(self._start, request, server)

    def poll(self) -> list[Completion]:
        """Wait until something has come back; an empty list means that nothing is left to do, as it is after an error."""
        if not self.waiting:
            return []
        found = [self.done.get()]
        while not self.done.empty():
            found.append(self.done.get())
        self.waiting -= len(found)
        for item in found:
            if isinstance(item, BaseException):
                self._let_go()
                raise item
        return [c for c in found if isinstance(c, Completion)]

    def cancel(self, ids: Iterable[Hashable]) -> None:
        """End these requests now: the next poll returns them as `cancelled`; what a server drew of them is lost."""
        for id in ids:
            if (task := self.tasks.get(id)) is not None:
                self.loop.call_soon_threadsafe(task.cancel)

    def _let_go(self) -> None:
        """End all that is under way, so that nothing of it comes back among what is asked for next."""

        async def cancel_all() -> None:  # once those that were submitted have begun
            for task in self.tasks.values():
                task.cancel()

        if self.is_closed:
            return
        asyncio.run_coroutine_threadsafe(cancel_all(), self.loop)
        while self.waiting:
            if isinstance(self.done.get(), EngineClosed):
                return
            self.waiting -= 1

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        """Submit and wait for all, in the order of the requests; ids must be unique among them."""
        if len({r.id for r in requests}) != len(requests):
            raise ValueError("request ids repeat; expected each id once in a call of sample()")
        self.submit(requests)
        by_id: dict[Hashable, Completion] = {}
        while len(by_id) < len(requests):
            by_id.update((c.id, c) for c in self.poll())
        return [by_id[r.id] for r in requests]

    def score(self, sequences: Sequence[Sequence[int]], adapter: str = "") -> list[list[float]]:
        """Log-probability of each token but the first, under the full softmax at temperature 1."""
        self._count(scored=sum(map(len, sequences)))

        async def all_of_them() -> list[list[float]]:
            return await asyncio.gather(*(self._score(s, self._name_of(adapter)) for s in sequences))

        return self._run(all_of_them())

    def load_weights(self, version: int, state: dict | None = None) -> None:
        """Send the present weights to every server as this version, by `install`; none is drawn from before it answers."""
        if self.waiting:
            raise RuntimeError(f"{self.waiting} requests are under way; weights change only between them")
        if state is not None:
            raise ValueError("a server takes no state; expected the trained module to be the channel's own")
        self.weights_version = version
        if self.install is not None:
            self.install(version)

    def close(self) -> None:
        """End all calls, the thread, and the servers that were started for this engine; who still draws gets EngineClosed."""
        if self.thread.is_alive():
            self._run(self._end())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(timeout=10)
        if self.fleet is not None:
            self.fleet.close()

    async def _end(self) -> None:
        self.is_closed = True
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.client.aclose()
        self.done.put(EngineClosed("the engine is closed"))

    def call(self, server: Server, call: Call, timeout: float | None = None) -> dict[str, Any]:
        """One control call to one server, from the caller's thread; a UserError with the server's words if it fails."""
        return self._run(self._control(server, call, timeout or self.timeout))

    def revive(self, server: Server, ending: float = 0.0) -> bool:
        """Start a server of this engine's own again that has ended, see Fleet; whether it had. Its weights may be old."""
        if self.fleet is None:
            return False
        number = next(n for n, known in enumerate(self.servers) if known is server)
        had_ended = self.fleet.revive(number, ending)
        server.url = self.fleet.urls[number]
        return had_ended

    def score_on(self, server: Server, token_ids: Sequence[int], model: str = "") -> list[float]:
        """`score` of one text on this very server."""
        return self.dialect.read_score(
            self.call(server, self.dialect.ask_score(token_ids, model or self.served))
        )

    async def _control(self, server: Server, call: Call, timeout: float) -> dict[str, Any]:
        try:
            answer = await self._send(server, call, timeout)
        except httpx.TransportError as problem:
            raise ServerGone(
                f"{server.url}{call.path} did not answer ({type(problem).__name__}: {problem}); expected a running "
                f"{self.dialect.name} server: start it, or correct engine.urls"
            ) from problem
        if answer.status_code >= 400:
            kind = ServerGone if answer.status_code == 503 else UserError
            raise kind(words_of(self.dialect, server, call, answer))
        return json_of(answer)

    async def _send(self, server: Server, call: Call, timeout: float | None = None) -> httpx.Response:
        return await self.client.request(
            call.method, server.url + call.path, json=call.body, timeout=timeout or self.timeout
        )

    def _start(self, request: Request, server: Server) -> None:
        self.tasks[request.id] = self.loop.create_task(self._finish(request, server))

    async def _finish(self, request: Request, server: Server) -> None:
        """Bring one request to its end: exactly one item goes to `done`, whatever happens."""
        item: Completion | BaseException
        try:
            item = await self._draw(request, server)
        except asyncio.CancelledError:
            item = self._empty(request, "cancelled")
        except BaseException as problem:
            item = problem
        self.tasks.pop(request.id, None)
        self.done.put(item)

    async def _draw(self, request: Request, server: Server) -> Completion:
        ask = Ask(
            self._name_of(request.adapter),
            seed_of(request),
            sorted(self.eos_ids | request.stop_ids),
            self.num_top,
        )
        call = self.dialect.ask(request, ask)
        reply = await self._answer(server, call, self._whole_reply)
        full = None
        if self.processed and request.sampling.temperature != 0 and reply.token_ids:
            whole = [*request.prefix_ids, *reply.token_ids]
            full = (await self._score(whole, ask.model))[len(request.prefix_ids) - 1 :]
        self._count(
            decoded=len(reply.token_ids), prefilled=len(request.prefix_ids), forwards=len(reply.token_ids)
        )
        return completion_of(
            request, reply, full, self.eos_ids, self.strings, self.weights_version, self.max_context
        )

    def _whole_reply(self, told: dict[str, Any]) -> Reply | None:
        reply = self.dialect.read(told)
        return None if reply.why in self.dialect.aborted else reply

    async def _answer(self, server: Server, call: Call, read: Callable[[dict[str, Any]], T | None]) -> T:
        """Ask until a server answers, this one first, and `read` makes something of it; the call is the same at each try.

        Takes the server's place under way, which the caller has counted.
        """
        begun, wait = time.monotonic(), FIRST_WAIT
        try:
            while True:
                answer = None
                if server.ready or await self._is_back(server):
                    async with server.gate:
                        answer = await self._try(server, call)
                found = read(json_of(answer)) if answer is not None else None
                if found is not None:
                    return found
                if time.monotonic() - begun > self.patience and not any(s.answers for s in self.servers):
                    raise ServerGone(
                        f"no server of {', '.join(s.url for s in self.servers)} answered for {self.patience:.0f} s; "
                        "expected one within engine.patience: start it again, and give this same command once more"
                    )
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                server = await self._next(server)
        finally:
            server.under_way -= 1

    async def _try(self, server: Server, call: Call) -> httpx.Response | None:
        """The answer; None where the call may be tried again."""
        try:
            answer = await self._send(server, call)
        except httpx.TransportError as problem:
            self._lost(server, f"{type(problem).__name__}: {problem}")
            return None
        if answer.status_code >= 500 or answer.status_code == 429:
            self._lost(server, f"{answer.status_code}: {answer.text[:TOLD]}", gone=answer.status_code == 503)
            return None
        if answer.status_code >= 400:
            raise UserError(words_of(self.dialect, server, call, answer))
        server.answers = True
        return answer

    def _lost(self, server: Server, why: str, gone: bool = True) -> None:
        if server.answers:
            logger.warning("%s does not answer (%s); trying again, at the same place", server.url, why)
        server.answers = server.answers and not gone
        server.ready = server.ready and not gone

    async def _next(self, server: Server) -> Server:
        """The server for another try: this one where it answers again, with the present weights, else another that does."""
        is_waited_for = server.mending.locked() and any(
            s.answers and s.ready for s in self.servers if s is not server
        )
        if not is_waited_for and await self._is_back(server):
            return server
        others = [s for s in self.servers if s is not server and s.answers and s.ready]
        if not others:
            return server
        other = min(others, key=lambda s: s.under_way)
        server.under_way -= 1
        other.under_way += 1
        for tree in [t for t, s in self.home.items() if s is server]:
            self.home[tree] = other
        return other

    async def _is_back(self, server: Server) -> bool:
        """Whether it answers with the present weights; one of our own that has ended is started again."""
        async with server.mending:
            threads = asyncio.get_running_loop().run_in_executor
            try:
                if await threads(None, self.revive, server):
                    server.ready = False
                answer = await self._send(server, self.dialect.health, 10.0)
                if answer.status_code >= 400:
                    return False
                if not server.ready:
                    await threads(None, self.sync, server)
            except (httpx.TransportError, ServerGone):
                return False
            server.answers = server.ready = True
            return True

    async def _score(self, token_ids: Sequence[int], model: str) -> list[float]:
        server = min(self.servers, key=lambda s: (not s.answers, s.under_way))
        server.under_way += 1
        return await self._answer(server, self.dialect.ask_score(token_ids, model), self.dialect.read_score)

    def _home_of(self, request: Request) -> Server:
        """Where the requests of one tree go: always to the same server, unless it is full or gone and another is not."""
        free = min(self.servers, key=lambda s: (not s.answers, s.under_way))
        home = self.home.get(request.tree)
        is_full = (
            home is not None and home.under_way >= self.in_flight and free.under_way < self.in_flight // 2
        )
        if home is None or is_full or (not home.answers and free.answers):
            home = self.home[request.tree] = free
        return home

    def _name_of(self, adapter: str) -> str:
        return adapter or self.served

    def _empty(self, request: Request, reason: str) -> Completion:
        return Completion(request.id, (), (), (), (), reason, self.weights_version, request.adapter)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def _count(self, **counters: int) -> None:
        if self.ledger:
            self.ledger.add(self.name, **counters)
