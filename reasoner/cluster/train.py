"""The driver's side of a trainer's ranks: they begin together, the first one speaks, and all end with the first that fails."""

from __future__ import annotations

import logging
from typing import Any

from reasoner.cluster.placing import Group, cause_of, stay
from reasoner.cluster.rank import News
from reasoner.interrupt import Stopped, deferring, stop_asked
from reasoner.registry import MachineFault, UserError
from reasoner.trainers.loop import Session
from reasoner.watchdog import beat

TURN_S = 2.0  # after which a rank without news says so
LOOK_S = 0.5  # between two looks whether the driver was asked to stop
logger = logging.getLogger(__name__)


@deferring()
def train(ray: Any, group: Group, stage: str, session: Session) -> None:
    """Run the ranks of a group to their end; what they cost goes to the session's ledger.

    A UserError of any rank is raised as it is; one that is lost, or fails by no fault of the user's, is a MachineFault.
    """
    ranks, hosts = group.ranks(), group.hosts(stay)
    meeting = cause_of(ray, lambda: ray.get(ranks[0].meet.remote()))
    for number, rank in enumerate(ranks):
        rank.begin.remote(meeting, hosts if number == 0 else [])
    turns = {rank.turn.remote(TURN_S): number for number, rank in enumerate(ranks)}
    heard: dict[int, News] = {}
    asked = 0
    while turns:
        if stop_asked() != asked:
            asked = stop_asked()
            for rank in ranks:
                rank.stop.remote(asked)
        ready, _ = ray.wait(list(turns), num_returns=1, timeout=LOOK_S)
        for turn in ready:
            number = turns.pop(turn)
            news = _heard(ray, turn, number, stage)
            if news.problem is not None:
                _check_others(ray, turns, stage)
                raise _fault(news.problem, number, stage)
            if number not in heard or news.beats != heard[number].beats:
                beat()
            heard[number] = news
            _say(news, session)
            if not news.ended:
                turns[ranks[number].turn.remote(TURN_S)] = number
        if len(heard) == len(ranks):
            session.ledger.gather(stage, [news.costs for news in heard.values()])
    stopped = max(news.stopped for news in heard.values())
    if stopped:
        raise Stopped(stopped)


def _heard(ray: Any, turn: Any, number: int, stage: str) -> News:
    try:
        return ray.get(turn)
    except ray.exceptions.RayError as problem:
        raise _fault(problem, number, stage) from problem


def _fault(problem: BaseException, number: int, stage: str) -> BaseException:
    if isinstance(problem, UserError | MachineFault):
        return problem
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return MachineFault(
        f"rank {number} of {stage} is lost ({type(problem).__name__}: {(lines or ['no reason was given'])[0][:200]}); expected "
        "it to last: its log is with Ray's on its machine; the same command goes on from the last checkpoint"
    )


def _check_others(ray: Any, turns: dict[Any, int], stage: str) -> None:
    """A rank whose process is gone is what the others fail of: it is named before what they say of it."""
    ready, _ = ray.wait(list(turns), num_returns=len(turns), timeout=2 * TURN_S) if turns else ([], [])
    for turn in ready:
        _heard(ray, turn, turns[turn], stage)


def _say(news: News, session: Session) -> None:
    """What the first rank told its session, to the driver's."""
    ways = {"log": session.log, "progress": session.progress, "warn": logger.warning}
    for what, arguments in news.told:
        ways[what](*arguments)
