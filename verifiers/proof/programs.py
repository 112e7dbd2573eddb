"""Proof checkers as programs that talk: sessions behind the walls of the sandbox, kept warm for each header."""

import atexit
import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from verifiers.sandbox import pool
from verifiers.sandbox.limits import Limits

MAX_ANSWER = 4 << 20  # bytes that a checker may say to one question
_MAX_HEADERS = 3  # whose warm sessions are kept at a time
_HOLD_S = 600.0


@dataclass(frozen=True, slots=True)
class Program:
    """A checker on this machine. argv[0] is a full path; runs: the files that the walls let it execute; visible: files
    and folders that it reads; end: the mark behind each of its answers; address_space: bytes that it may map."""

    name: str
    version: str
    argv: tuple[str, ...]
    visible: tuple[str, ...]
    runs: tuple[str, ...]
    end: str
    address_space: int
    env: dict[str, str] = field(default_factory=dict)
    threads: int = 32


class Stopped(Exception):
    """The checker broke a limit or died over a question. ending: one of verifiers.sandbox.limits.ENDINGS."""

    def __init__(self, ending: str, detail: str = ""):
        super().__init__(f"{ending} {detail}".strip())
        self.ending, self.detail = ending, detail


class Session:
    """A running checker with its header loaded. `state` is the system's own note on it."""

    def __init__(self, slot: pool.Slot, program: Program, memory: int):
        self.slot, self.program, self.memory = slot, program, memory
        self.state: dict[str, Any] = {}
        self.cpu_ms = 0.0
        self.resident_kb = 0
        self.proofs = 0
        self._is_fresh = True

    @property
    def isolation(self) -> str:
        """The tier that the checker runs under."""
        return self.slot.tier

    def ask(self, question: bytes, cpu_s: float) -> bytes:
        """The answer. Raises Stopped, after which the session is a fresh one, and SlotFailed."""
        limits = Limits(
            cpu_s=max(cpu_s, 0.01), wall_s=3 * max(cpu_s, 0.01) + 1, memory=self.memory, stdout=MAX_ANSWER
        )
        header = {
            "kind": "talk", "end": self.program.end, "fresh": self._is_fresh, "program": asdict(self.program),
            "limits": limits.as_dict(),
        }  # fmt: skip
        self._is_fresh = False
        outcome = self.slot.run(header, question)
        self.cpu_ms += outcome.cpu_ms
        self.resident_kb = outcome.peak_kb
        if outcome.ending != "done":
            self.forget()
            raise Stopped(outcome.ending, outcome.detail)
        return outcome.stdout

    def forget(self) -> None:
        """Start the checker anew at the next question."""
        self._is_fresh, self.state, self.proofs = True, {}, 0


_pools: OrderedDict[tuple, pool.Pool] = OrderedDict()
_sessions: dict[int, tuple[pool.Slot, Session]] = {}
_lock = threading.Lock()
_owner = os.getpid()


@contextlib.contextmanager
def session(program: Program, header: str, memory: int) -> Iterator[Session]:
    """A session for one proof: one that has this header loaded already, where one is free. Raises SlotFailed."""
    with _pool(program, header).hold(_HOLD_S) as slot:
        with _lock:
            found = _sessions.get(id(slot))
            if found is None or found[0] is not slot:
                _forget_dead()
                found = _sessions[id(slot)] = (slot, Session(slot, program, memory))
        held = found[1]
        held.memory, held.cpu_ms = memory, 0.0
        yield held


def _forget_dead() -> None:
    for key, (slot, _) in list(_sessions.items()):
        if slot.process.poll() is not None:
            del _sessions[key]


def _pool(program: Program, header: str) -> pool.Pool:
    global _owner
    with _lock:
        if _owner != os.getpid():  # after a fork the slots are the parent's
            _pools.clear()
            _sessions.clear()
            _owner = os.getpid()
        key = (program.argv, header)
        found = _pools.pop(key, None) or pool.Pool("bare", visible=(*program.visible, *program.runs))
        _pools[key] = found
        while len(_pools) > _MAX_HEADERS:
            _pools.popitem(last=False)[1].close()
        return found


@atexit.register
def close() -> None:
    """End all idle sessions of this process."""
    with _lock:
        while _owner == os.getpid() and _pools:
            _pools.popitem()[1].close()
