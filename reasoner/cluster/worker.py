"""A worker: does parts of a stage as a rank does its own, and hears from the driver which ones, a few at a time.

Nothing here knows of Ray. The stage works in a thread; `turn` hands it numbers and says what has become of the others.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasoner.folder import check_shared
from reasoner.ledger import Ledger
from reasoner.pipeline import PARTS, context_of
from reasoner.policy.machine import use
from reasoner.registry import UserError
from reasoner.run_config import RunConfig
from reasoner.stages.share import Own
from reasoner.trainers.loop import Session
from reasoner.trainers.ranks import ANNOUNCED, start
from reasoner.watchdog import beat, beats
from verifiers.sandbox import pool

AHEAD = 1  # parts that wait with a worker, so that it never waits for the driver
SILENT_S = 120.0  # after which a worker that hears nothing of its driver ends
LAUNCHERS = (*ANNOUNCED, "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
WORKERS = "workers"  # in a stage's folder: what its workers write beside their parts


@dataclass(frozen=True)
class Order:
    """What a worker is told at its start: `do(stage, context, own, *facts)` is the work."""

    config: RunConfig
    stage: str
    do: Callable[..., Any]
    facts: tuple[Any, ...]
    folder: str  # that paths in the config start from
    owner: str | None  # what the lock of the run's folder says
    number: int  # of the worker


@dataclass
class Report:
    """What has happened since the last one, and how many parts are wanted."""

    wants: int
    done: list[int] = field(default_factory=list)
    beats: int = 0
    worked_s: float = 0.0  # since the start, but for waiting for parts
    ended: bool = False
    result: Any = None
    problem: BaseException | None = None


def enter(folder: str, out: Path, owner: str | None) -> None:
    """Work where the driver does; a UserError where this machine does not share its folder, or that of the run."""
    for name in LAUNCHERS:
        os.environ.pop(name, None)  # whoever started the machine's Ray may have been one of several
    try:
        os.chdir(folder)
    except OSError as problem:
        raise UserError(
            f"{socket.gethostname()} cannot enter {folder} ({problem.strerror}); expected a folder that all machines share"
        ) from problem
    check_shared(out, owner)


class Worker:
    """One worker of a stage."""

    def __init__(self, order: Order):
        self._changed = threading.Condition()
        self._given: deque[int] = deque()
        self._is_all = False
        self._done: list[int] = []
        self._waited_s, self._begun = 0.0, time.monotonic()
        self._ended = False
        self._result: Any = None
        self._problem: BaseException | None = None
        self._heard = time.monotonic()
        threading.Thread(target=self._work, args=(order,), name="stage", daemon=True).start()
        threading.Thread(target=self._listen, name="driver", daemon=True).start()

    def turn(self, numbers: list[int], is_all: bool, patience: float) -> Report:
        """Take parts; `is_all` says that no more will come. Comes back with news, or after `patience` seconds without."""
        with self._changed:
            self._heard = time.monotonic()
            self._given.extend(numbers)
            self._is_all = self._is_all or is_all
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done or self._ended or self._wants(), patience)
            report = Report(self._wants(), self._done, beats(), self._worked(), self._ended, self._result)
            report.problem, self._done = self._problem, []
            return report

    def _wants(self) -> int:
        return 0 if self._is_all or self._ended else max(0, AHEAD - len(self._given))

    def _worked(self) -> float:
        return time.monotonic() - self._begun - self._waited_s

    def _numbers(self) -> Iterator[int]:
        while True:
            with self._changed:
                begun = time.monotonic()
                self._changed.wait_for(lambda: self._given or self._is_all)
                self._waited_s += time.monotonic() - begun
                if not self._given:
                    return
                number = self._given.popleft()
                self._changed.notify_all()
            yield number

    def _work(self, order: Order) -> None:
        try:
            self._result = self._stage(order)
        except UserError as problem:
            self._problem = problem
        except BaseException as problem:
            traceback.print_exc()  # into the log of this worker, which Ray keeps
            self._problem = RuntimeError(f"{type(problem).__name__}: {problem}")  # any other may not be sent
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _stage(self, order: Order) -> Any:
        config, out = order.config, Path(order.config.out)
        enter(order.folder, out, order.owner)
        pool.require(config.min_isolation)
        use(config.precision)
        start()
        stage = next(s for s in config.stages if s.name == order.stage)
        folder, ledger = out / "stages" / stage.name, Ledger()
        own_folder = folder / WORKERS / str(order.number)
        with ledger.stage(stage.name):
            session = Session(own_folder, ledger, seed=config.seed, parts=folder / PARTS)
            session.progress = lambda done, total, note: beat()
            with session.ending:
                session.ending.callback(shutil.rmtree, own_folder, ignore_errors=True)
                context = context_of(stage, config, session)
                own = Marking(session, order.number, self._numbers(), self._finished)
                return order.do(stage, context, own, *order.facts)

    def _finished(self, number: int) -> None:
        with self._changed:
            self._done.append(number)
            self._changed.notify_all()

    def _listen(self) -> None:
        while time.monotonic() - self._heard < SILENT_S:
            time.sleep(1.0)
            if self._ended:
                return
        os._exit(1)


class Marking(Own):
    """Parts that come one after the other; `finished` hears of each that is written."""

    def __init__(
        self, session: Session, number: int, numbers: Iterator[int], finished: Callable[[int], None]
    ):
        super().__init__(session, number, numbers)
        self._finished = finished

    def done(self, number: int, counts: Any, notes: Any = None) -> None:
        super().done(number, counts, notes)
        self._finished(number)
