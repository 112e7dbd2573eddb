"""The driver's side: connects to Ray; starts a data stage's workers, hands out its parts, and starts others for those lost.

Nothing else imports ray. Only numbers of parts and short reports go through it: trees go to the run's folder.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.cluster.hand_out import HandOut
from reasoner.cluster.placing import nodes_of, place
from reasoner.cluster.train import train
from reasoner.cluster.worker import WORKERS, Order, Report, Worker
from reasoner.engine.servers import Host
from reasoner.folder import held_by
from reasoner.interrupt import EXIT_CODES, Stopped, deferring, stop_asked
from reasoner.parts import marked, of_mark
from reasoner.registry import UserError
from reasoner.run_config import RunConfig
from reasoner.stages.bundles import bundles_of, servers_of
from reasoner.stages.pools import Size, pool_of, ranks_of, size_of
from reasoner.trainers.loop import Session
from reasoner.watchdog import beat

OLDEST = (2, 60)  # of Ray's versions; tried with this one
TURN_S = 2.0  # after which a worker without news says so
LOOK_S = 10.0  # between two looks at which machines are there
ANSWER_S = 10.0  # in which an address has to answer
LOCAL, AUTO = "local", "auto"
logger = logging.getLogger(__name__)


@dataclass
class Member:
    """A worker that was started."""

    actor: Any
    turn: Any  # what it will answer to its last turn
    begun: float
    heard: Report | None = None
    moved: float = 0.0  # when its signs of life last grew


@contextmanager
def crew(address: str) -> Iterator[Cluster]:
    """The machines of a cluster: `address` is host:port, auto, or local (one that is started here).

    UserError where Ray is not there, too old, of another version than the cluster's, or does not answer.
    """
    ray = _ray()
    _connect(ray, address)
    try:
        yield Cluster(ray, address == LOCAL)
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Cluster:
    """What a cluster does for a run's stages (stages/pools: Crew); `is_local` where it is this machine."""

    ray: Any
    is_local: bool

    def parts(
        self, config: RunConfig, stage: Any, session: Session, do: Callable[..., Any], numbers: list[int], facts: tuple
    ) -> list[Any]:  # fmt: skip
        return _Stage(self.ray, config, stage, session, do, numbers, facts).run()

    def hosts(self, config: RunConfig, stage: Any, session: Session, number: int) -> list[Host]:
        group = place(self.ray, self.is_local, config, stage, session, 0, number)
        return [*group.hosts(group.close)]

    def ranks(self, config: RunConfig, stage: Any, session: Session) -> None:
        numbers = ranks_of(config.ray, stage), servers_of(stage)
        group = place(self.ray, self.is_local, config, stage, session, *numbers)
        try:
            train(self.ray, group, stage.name, session)
        finally:
            group.close()

    def check(self, config: RunConfig, stages: Sequence[Any]) -> None:
        for stage in stages:
            if any(numbers := (ranks_of(config.ray, stage), servers_of(stage))):
                bundles_of(config.ray, stage, nodes_of(self.ray), *numbers)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as problem:
        raise UserError(
            f"--ray needs Ray, which cannot be imported ({problem}); expected: pip install 'reasoner[ray]'"
        ) from problem
    if tuple(int(n) for n in ray.__version__.split(".")[:2]) < OLDEST:
        raise UserError(
            f"got Ray {ray.__version__}, expected {'.'.join(map(str, OLDEST))} or newer: pip install 'reasoner[ray]'"
        )
    return ray


def _connect(ray: Any, address: str) -> None:
    """Join the cluster, or start one; signals stay answered as they were."""
    if address not in (LOCAL, AUTO):
        _check_answers(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        options |= {"include_dashboard": False, "object_store_memory": 100 * 2**20}
    answers = {number: signal.getsignal(number) for number in EXIT_CODES}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as problem:
        said = " ".join(str(problem).split())[:300]
        remedy = (
            f"the versions of this machine on all (Ray {ray.__version__})" if "ersion mismatch" in said
            else "ray start --head on one machine and its HOST:PORT here, with RAY_AUTH_MODE=token and the head's "
            "~/.ray/auth_token where it asks for a token; or --ray local for this machine alone"
        )  # fmt: skip
        raise UserError(f"no Ray cluster at {address}: {said}; expected {remedy}") from problem
    finally:
        for number, answer in answers.items():
            signal.signal(number, answer)


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "//" in address:
        raise UserError(
            f"got --ray {address}, expected HOST:PORT of a cluster's head, auto for the one that this machine is in, or "
            "local for one that is started here"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as problem:
        raise UserError(
            f"nothing answers at {address} ({problem}); expected the head of a Ray cluster: ray start --head --port {port}"
        ) from problem


class _Stage:
    """The parts of one stage, done by workers."""

    def __init__(
        self, ray: Any, config: RunConfig, stage: Any, session: Session, do: Callable, numbers: list[int], facts: tuple
    ):  # fmt: skip
        assert session.parts is not None
        self.ray, self.config, self.stage, self.session, self.folder = (
            ray,
            config,
            stage,
            session,
            session.parts,
        )
        self.num_parts, self.parts = len(numbers), HandOut(numbers)
        self.order = {
            "config": config, "stage": stage.name, "do": do, "facts": facts, "folder": os.getcwd(),
            "owner": held_by(Path(config.out)),
        }  # fmt: skip
        self.members: dict[int, Member] = {}
        self.results: list[Any] = []
        self.worked_s = self.there_s = 0.0
        self.started = 0

    @deferring()  # what a signal raises inside Ray's own code comes out of it as a fault of Ray's
    def run(self) -> list[Any]:
        """What the work gave on each worker that ended it."""
        if not self.num_parts:
            return []
        size, looked = self._size(), time.monotonic()
        try:
            while self.parts.left or self.members:
                if time.monotonic() - looked > LOOK_S:
                    with suppress(UserError):  # for a moment there may be no machine
                        size, looked = self._size(), time.monotonic()
                self._fill(size)
                turns = {member.turn: number for number, member in self.members.items()}
                ready, _ = self.ray.wait(list(turns), num_returns=1, timeout=TURN_S)
                for turn in ready:
                    self._hear(turns[turn])
                if asked := stop_asked():
                    raise Stopped(asked)
                self._drop_silent()
        finally:
            for number in list(self.members):
                self._end(number)
            shutil.rmtree(self.folder.parent / WORKERS, ignore_errors=True)
        self._tell(size)
        return self.results

    def _size(self) -> Size:
        """The pool on the machines that are there now."""
        pool = pool_of(self.config.ray, self.stage)
        return size_of(pool, self.stage, nodes_of(self.ray), self.num_parts)

    def _fill(self, size: Size) -> None:
        """Start as many workers as are missing and have something to do."""
        actor = self.ray.remote(Worker)
        for _ in range(min(size.workers - len(self.members), len(self.parts.left))):
            order = Order(**self.order, number=self.started)
            made = actor.options(num_cpus=size.cpus, num_gpus=size.gpus, max_restarts=0).remote(order)
            now = time.monotonic()
            self.members[self.started] = Member(made, made.turn.remote([], False, TURN_S), now, moved=now)
            self.started += 1

    def _hear(self, number: int) -> None:
        """Take a worker's report and give it more; one that was lost, or failed by no fault of the user's, is replaced."""
        member = self.members[number]
        try:
            report = self.ray.get(member.turn)
        except self.ray.exceptions.RayError as problem:
            self._lost(number, _first_line(problem))
            return
        if isinstance(report.problem, UserError):
            raise report.problem
        if member.heard is None or report.beats != member.heard.beats:
            member.moved = time.monotonic()
            beat()
        member.heard = report
        for part in report.done:
            self.parts.done(number, part)
            self._book(part)
        if report.problem is not None:
            self._lost(number, _first_line(report.problem))
        elif report.ended and self.parts.under_way.get(number):
            self._lost(number, "it ended before its parts were done")
        elif report.ended:
            self.results.append(report.result)
            self._end(number)
        else:
            given = self.parts.give(number, report.wants)
            member.turn = member.actor.turn.remote(given, not self.parts.left, TURN_S)
        if report.done:
            self.session.progress(self.parts.num_done.total(), self.num_parts, self._note())

    def _note(self) -> str:
        lost = f", {self.parts.lost} lost" if self.parts.lost else ""
        return f"{sum(m.heard is not None for m in self.members.values())} workers{lost}"

    def _drop_silent(self) -> None:
        """End workers that stand still, and those that were never placed once there is nothing left for them."""
        patience = self.config.stalled_after
        for number, member in list(self.members.items()):
            if member.heard is None and not self.parts.left:
                self._end(number)
            elif member.heard is not None and patience and time.monotonic() - member.moved > patience:
                self._lost(number, f"no progress for {patience:g} s")

    def _lost(self, number: int, why: str) -> None:
        logger.warning("worker %d of %s is lost: %s", number, self.stage.name, why)
        self._end(number)
        for part in self.parts.gone(number, marked(self.folder), why):
            self._book(part)

    def _book(self, part: int) -> None:
        """What a part cost, into the ledger."""
        for model, counters in of_mark(self.folder, part)["costs"].items():
            self.session.ledger.add(model, **counters)

    def _end(self, number: int) -> None:
        member = self.members.pop(number)
        if member.heard is not None:
            self.worked_s += member.heard.worked_s
            self.there_s += time.monotonic() - member.begun
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(member.actor, no_restart=True)

    def _tell(self, size: Size) -> None:
        """How the pool did: busy is the share of its workers' time, their start counted as idle, in which they worked."""
        working = sum(n > 0 for n in self.parts.num_done.values())
        self.session.ledger.processes[self.stage.name] = max(1, working)
        busy = self.worked_s / max(1e-9, self.there_s)
        facts = {
            "workers": working,
            "cpus": size.cpus,
            "gpus": size.gpus,
            "lost": self.parts.lost,
            "busy": busy,
        }
        self.session.log({f"ray/{name}": value for name, value in facts.items()}, 0)


def _first_line(problem: BaseException) -> str:
    lines = [line for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {(lines or ['no reason was given'])[0].strip()[:200]}"
