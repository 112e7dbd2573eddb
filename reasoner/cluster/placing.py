"""The driver's side of a placement group: reserves room for ranks and servers, starts an actor in each, gives all back.

Ray is handed in. What is placed ends with its group, and that with the driver's connection to the cluster.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from reasoner.cluster.host import HostActor, Seat
from reasoner.cluster.rank import Post, Rank
from reasoner.engine.asking import ServerGone
from reasoner.engine.servers import Process
from reasoner.folder import held_by
from reasoner.interrupt import Stopped
from reasoner.registry import UserError
from reasoner.stages.bundles import Bundles, bundles_of, remedy
from reasoner.stages.pools import Node, Size, told
from reasoner.trainers.loop import Session
from reasoner.watchdog import beat

ROOM_S = 120.0  # in which room has to become free that others have
START_S = 300.0  # in which an actor has to start, which loads torch
LOOK_S = 2.0  # between two looks whether there is room
WAIT_S = 5.0  # that an actor waits for its server in one call
LOST = -9  # how a server ended whose machine is gone
_numbers = count()


@contextmanager
def as_signalled() -> Iterator[None]:
    """What a signal raises inside of Ray's own code, which makes a fault of its own out of it, is that signal again."""
    try:
        yield
    except SystemError as problem:
        if isinstance(problem.__cause__, Stopped):
            raise problem.__cause__ from None
        raise


@as_signalled()
def place(
    ray: Any, is_local: bool, config: Any, stage: Any, session: Session, num_ranks: int, num_servers: int
) -> Group:
    """A group with room for so many ranks and servers of a stage; UserError where the cluster does not have it.

    `is_local`: the cluster is this machine, and nothing in it has to be reached from elsewhere.
    """
    nodes = nodes_of(ray)
    bundles = bundles_of(config.ray, stage, nodes, num_ranks, num_servers)
    group = Group(ray, bundles, config, stage, is_local)
    session.ending.callback(group.close)
    begun = time.monotonic()
    while not group.placed.wait(LOOK_S):
        beat()
        session.progress(0, 0, f"waiting for room for {bundles}")
        if time.monotonic() - begun > ROOM_S:
            free = ray.available_resources()
            raise UserError(
                f"{stage.name} asks for {bundles}, and others have what the cluster has ({told(nodes)}; free: {told([free])}) "
                f"for {ROOM_S:.0f} s by now; expected room: wait for them, {remedy(stage, bundles)}, or add a machine"
            )
    return group


def nodes_of(ray: Any) -> list[Node]:
    """What each machine has that is there now; none at all is a UserError."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not nodes:
        raise UserError(
            "no machine of the Ray cluster is there any more; expected those that the run began with: see `ray status`, start "
            "what has ended, and give the same command again"
        )
    return nodes


class Group:
    """A placement group of a stage; the bundles of the ranks come first."""

    def __init__(self, ray: Any, bundles: Bundles, config: Any, stage: Any, is_local: bool):
        self.ray, self.bundles, self.config, self.stage = ray, bundles, config, stage
        self.address_of = loopback if is_local else ray.util.get_node_ip_address
        out = Path(config.out)
        self.seat = Seat(os.getcwd(), out, held_by(out))
        self.actors: list[Any] = []
        self.is_closed = False
        name = f"reasoner {stage.name} {os.getpid()} {next(_numbers)}"  # the last one's may be there for a moment yet
        self.placed = ray.util.placement_group(bundles.resources, strategy=bundles.strategy, name=name)

    def ranks(self) -> list[Any]:
        """An actor for each rank."""
        size = self.bundles.ranks
        for number in range(size.workers):  # which can be told to stop while somebody waits for news
            post = Post(self.config, self.stage.name, self.seat, number, size.workers)
            self.actors.append(
                actor_in(self.ray, self.placed, number, size, Rank, post, self.address_of, calls=2)
            )
        return self.actors[:]

    def hosts(self, close: Callable[[], None]) -> list[Placed]:
        """A host for each server; `close` is called by whoever ends them."""
        size, first = self.bundles.servers, self.bundles.ranks.workers
        return [
            Placed(
                self.ray,
                partial(
                    actor_in,
                    self.ray,
                    self.placed,
                    first + number,
                    size,
                    HostActor,
                    self.seat,
                    self.address_of,
                ),
                size.gpus,
                close,
            )
            for number in range(size.workers)
        ]

    def close(self) -> None:
        """End what is placed, and give the room back."""
        if self.is_closed or not self.ray.is_initialized():
            return
        self.is_closed = True
        for actor in self.actors:
            with suppress(self.ray.exceptions.RayError):
                self.ray.kill(actor, no_restart=True)
        with suppress(self.ray.exceptions.RayError):
            self.ray.util.remove_placement_group(self.placed)


def actor_in(
    ray: Any, group: Any, bundle: int, size: Size, kind: type, *arguments: Any, calls: int = 1
) -> Any:
    """An actor in a bundle of a group, with all that is in it, which answers so many calls at once."""
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=bundle
    )
    options = {"num_cpus": size.cpus, "num_gpus": size.gpus, "max_restarts": 0, "max_concurrency": calls}
    return ray.remote(kind).options(scheduling_strategy=strategy, **options).remote(*arguments)


def loopback() -> str:
    return "127.0.0.1"


def stay() -> None:
    """For hosts of a group that somebody else closes."""


@as_signalled()
def cause_of(ray: Any, ask: Callable[[], Any]) -> Any:
    """What was asked for; an actor's own UserError or OSError as it was there."""
    try:
        return ask()
    except ray.exceptions.RayTaskError as problem:
        if isinstance(problem.cause, UserError | OSError):
            raise problem.cause from None
        raise


class Placed:
    """A host on a machine of the cluster; an actor that was lost with its machine is started anew where there is room."""

    def __init__(self, ray: Any, make: Callable[[], Any], gpus: int, close: Callable[[], None]):
        self.ray, self.make, self.gpus, self.close = ray, make, gpus, close
        self.actor = make()

    def reach(self) -> str:
        try:
            return self._enter()
        except self.ray.exceptions.ActorDiedError:
            self.actor = self.make()
            return self._enter()

    def free_port(self) -> int:
        return self.ray.get(self.actor.free_port.remote())

    def start(self, arguments: list[str], extra: dict[str, str], log: Path) -> Process:
        pid = cause_of(self.ray, lambda: self.ray.get(self.actor.start.remote(arguments, extra, log)))
        return Far(self.ray, self.actor, pid, arguments)

    def terminate(self, process: Process) -> None:
        self._tell("terminate")

    def reap(self, process: Process) -> None:
        self._tell("reap")

    def _enter(self) -> str:
        try:
            return cause_of(self.ray, lambda: self.ray.get(self.actor.enter.remote(), timeout=START_S))
        except self.ray.exceptions.ActorDiedError:
            raise
        except (self.ray.exceptions.GetTimeoutError, self.ray.exceptions.ActorUnavailableError) as problem:
            raise ServerGone(
                f"no machine of the cluster has taken a server in {START_S:.0f} s ({type(problem).__name__}); expected the one "
                "that had it to come back, or room on another: see ray status"
            ) from problem

    def _tell(self, what: str) -> None:
        """One that is gone has no server any more."""
        if self.ray.is_initialized():
            with suppress(self.ray.exceptions.RayError):
                self.ray.get(getattr(self.actor, what).remote())


class Far:
    """A server's process on another machine, as its actor knows it."""

    def __init__(self, ray: Any, actor: Any, pid: int, arguments: list[str]):
        self.ray, self.actor, self.pid, self.args = ray, actor, pid, arguments
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while (
            code := self._ended(WAIT_S if until is None else min(WAIT_S, until - time.monotonic()))
        ) is None:
            if until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def _ended(self, seconds: float) -> int | None:
        if self.returncode is None:
            try:
                if not self.ray.is_initialized():
                    self.returncode = LOST
                else:
                    self.returncode = self.ray.get(self.actor.wait.remote(max(0.0, seconds)))
            except self.ray.exceptions.ActorDiedError:
                self.returncode = LOST
            except self.ray.exceptions.ActorUnavailableError:
                time.sleep(max(0.0, min(1.0, seconds)))  # a network that is down for a moment
        return self.returncode
