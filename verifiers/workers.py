"""Threads that judge, none of which can hold up the rest: what does not return is given up on and replaced.

They are daemons, so that a verifier that hangs keeps no process from ending.
"""

import queue
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from verifiers.verdict import Verdict, failure

Id = TypeVar("Id", bound=Hashable)
_LOOK_S = 1.0


class Job(NamedTuple, Generic[Id]):
    """One request and the seconds that it may take; None where the verifier bounds itself."""

    id: Id
    judge: Callable[[], Verdict]
    name: str
    patience_s: float | None


class Workers(Generic[Id]):
    """Up to `count` threads. `submit` jobs, take (id, verdict) with `next`, then `close`."""

    def __init__(self, count: int):
        self._jobs: queue.SimpleQueue[Job[Id] | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[tuple[Id, Verdict]] = queue.SimpleQueue()
        self._busy: dict[object, tuple[float, Job[Id]]] = {}
        self._lock = threading.Lock()
        self._count = count
        self._started = 0

    def submit(self, job: Job[Id]) -> None:
        """Have a job done by the next free thread."""
        self._jobs.put(job)
        if self._started < self._count:
            self._started += 1
            self._start()

    def has_finished(self) -> bool:
        """Is a verdict to be had without waiting?"""
        return not self._finished.empty()

    def next(self) -> tuple[Id, Verdict]:
        """Wait for a verdict; a job that has taken longer than it may gets a failure."""
        while True:
            try:
                return self._finished.get(timeout=_LOOK_S)
            except queue.Empty:
                self._give_up()

    def close(self) -> None:
        """Let the threads end, after the jobs at hand; waits for none, and starts no job that waits."""
        while not self._jobs.empty():
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        for _ in range(self._count):
            self._jobs.put(None)

    def _start(self) -> None:
        threading.Thread(target=self._work, args=(object(),), daemon=True, name="verify").start()

    def _work(self, token: object) -> None:
        while (job := self._jobs.get()) is not None:
            with self._lock:
                self._busy[token] = (time.monotonic(), job)
            verdict = job.judge()
            with self._lock:
                if self._busy.pop(token, None) is None:
                    return  # given up on: another thread has taken this one's place
            self._finished.put((job.id, verdict))

    def _give_up(self) -> None:
        now = time.monotonic()
        with self._lock:
            late = [
                (token, job) for token, (started, job) in self._busy.items()
                if job.patience_s is not None and now - started > job.patience_s
            ]  # fmt: skip
            for token, _ in late:
                del self._busy[token]
        for _, job in late:
            self._finished.put(
                (
                    job.id,
                    failure(f"verifier {job.name!r} did not return in {job.patience_s:g} s", "unavailable"),
                )
            )
            self._start()
