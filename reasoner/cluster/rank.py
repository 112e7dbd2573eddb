"""A rank of a trainer: runs the stage beside the others, who meet at the first one's address, and tells the driver of it.

Nothing here knows of Ray. The stage runs in a thread, by the very code of a process that a launcher starts.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoner import interrupt
from reasoner.cluster.host import Seat
from reasoner.cluster.worker import enter
from reasoner.engine.servers import Host, free_port
from reasoner.ledger import Ledger
from reasoner.pipeline import CHECKPOINTS, PARTS, context_of
from reasoner.policy.machine import use
from reasoner.registry import MachineFault, UserError
from reasoner.run_config import RunConfig
from reasoner.stages import STAGES
from reasoner.trainers.loop import Session
from reasoner.trainers.ranks import start
from reasoner.watchdog import beat, beats, watching
from verifiers.sandbox import pool


@dataclass(frozen=True)
class Post:
    """Which rank of how many, of which stage."""

    config: RunConfig
    stage: str
    seat: Seat
    number: int
    total: int


@dataclass
class News:
    """What has happened since the last ones. `told` are calls of the first rank's session: its name and the arguments."""

    told: list[tuple[str, tuple]]
    costs: dict[str, Any]  # as Ledger.to_dict, of the stage so far
    beats: int
    ended: bool = False
    stopped: int = 0  # by which signal
    problem: BaseException | None = None


@dataclass
class Rank:
    """One rank; `address_of()` tells where others reach this machine."""

    post: Post
    address_of: Callable[[], str]
    _told: list[tuple[str, tuple]] = field(default_factory=list)
    _ledger: Ledger = field(default_factory=Ledger)
    _costs: dict[str, Any] | None = None  # at the end
    _ended: bool = False
    _stopped: int = 0
    _problem: BaseException | None = None

    def __post_init__(self) -> None:
        self._changed = threading.Condition()

    def meet(self) -> tuple[str, int]:
        """Address and port where the ranks find each other, of the first one."""
        address = self.address_of()
        return address, free_port(address)

    def begin(self, meeting: tuple[str, int], hosts: Sequence[Host]) -> None:
        """Run the stage from now on; the first one starts servers on the hosts."""
        threading.Thread(target=self._work, args=(meeting, hosts), name="stage", daemon=True).start()

    def stop(self, number: int) -> None:
        """Save and end after this step, as by this signal."""
        interrupt.ask(number)

    def turn(self, patience: float) -> News:
        """The news, at once where there are any, else after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._told or self._ended, patience)
            told, self._told = self._told, []
            news = News(told, self._costs or self._booked(), beats(), self._ended, self._stopped)
            news.problem = self._problem
            return news

    def _booked(self) -> dict[str, Any]:
        stage = self.post.stage
        counts = {m: dict(c) for m, c in list(self._ledger.counts.get(stage, {}).items())}
        return {
            "counts": {stage: counts},
            "seconds": {stage: self._ledger.seconds.get(stage, 0.0)},
            "processes": {},
        }

    def _work(self, meeting: tuple[str, int], hosts: Sequence[Host]) -> None:
        stopped, problem = 0, None
        try:
            self._stage(meeting, hosts)
        except interrupt.Stopped as stop:
            stopped = stop.number
        except (UserError, MachineFault) as found:
            problem = found
        except BaseException as found:
            traceback.print_exc()  # into the log of this actor, which Ray keeps
            problem = RuntimeError(f"{type(found).__name__}: {found}")  # any other may not be sent
        with self._changed:
            self._stopped, self._problem, self._ended = stopped, problem, True
            self._changed.notify_all()

    def _stage(self, meeting: tuple[str, int], hosts: Sequence[Host]) -> None:
        post, config, out = self.post, self.post.config, self.post.seat.out
        enter(post.seat.folder, out, post.seat.owner)
        if post.total > 1:
            os.environ.update(announced(meeting, post.number, post.total))
        pool.require(config.min_isolation)
        use(config.precision)
        start()
        stage = next(s for s in config.stages if s.name == post.stage)
        folder, speaks = out / "stages" / stage.name, post.number == 0
        if speaks:
            logging.getLogger("reasoner").addHandler(_Forwarding(self._tell))
        session = Session(
            out / "models" / stage.name, self._ledger, seed=config.seed, checkpoints=folder / CHECKPOINTS,
            parts=folder / PARTS, hosts=lambda number: list(hosts),
        )  # fmt: skip
        session.log = lambda *told: self._tell("log", told, speaks)
        session.progress = lambda *told: self._tell("progress", told, speaks)
        what = f"rank {post.number} of {stage.name}"
        with (
            watching(config.stalled_after, folder, what, out, post.number, post.total),
            self._ledger.stage(stage.name),
        ):
            with session.ending:
                STAGES[stage.kind](stage, context_of(stage, config, session))
            self._costs = self._booked()

    def _tell(self, what: str, arguments: tuple, speaks: bool = True) -> None:
        beat()
        if speaks:
            with self._changed:
                self._told.append((what, arguments))
                self._changed.notify_all()


class _Forwarding(logging.Handler):
    """Warnings of the first rank are the driver's."""

    def __init__(self, tell: Callable[[str, tuple], None]):
        super().__init__(logging.WARNING)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell("warn", (record.getMessage(),))


def announced(meeting: tuple[str, int], number: int, total: int) -> dict[str, str]:
    """What launchers write for a rank. Each sees its own GPU alone, so that it is the first of those that it sees."""
    address, port = meeting
    return {
        "MASTER_ADDR": address, "MASTER_PORT": str(port), "RANK": str(number), "WORLD_SIZE": str(total),
        "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
    }  # fmt: skip
