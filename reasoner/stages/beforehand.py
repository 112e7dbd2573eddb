"""What the problems of local files tell before the first stage: rows that are none, and answers that nobody can judge."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from reasoner.data.golds import Unreadable, judgeable
from reasoner.data.rows import SourceConfig
from reasoner.data.sources import load_items
from reasoner.registry import UserError
from reasoner.stages.references import NamesProblems, named

SHOWN = 5  # problems that are named


def check_problems(
    stages: Iterable[Any], problems: Mapping[str, Sequence[SourceConfig]], tell: Callable[[str], None]
) -> None:
    """Read the local data of every problem set that the stages, or those that keep it out of training, use.

    A row that is no problem, and a set of which no answer can be judged though one will be, is a UserError. Single
    answers that their verifier cannot read are told by the problem's id: the stages leave them out.
    """
    judged: dict[str, bool] = {}
    for stage in stages:
        for _, marker, name in named(stage, NamesProblems):
            judged[name] = judged.get(name, False) or marker.judged
    for name in problems:
        if name in judged or name == "test":
            _check_set(name, problems[name], judged.get(name, False), tell)


def _check_set(
    name: str, sources: Sequence[SourceConfig], is_judged: bool, tell: Callable[[str], None]
) -> None:
    unreadable: list[Unreadable] = []
    num_kept = 0
    for source in sources:
        if not source.path:
            num_kept += 1  # what is made here can be judged, and what is on the hub is not known yet
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the stages tell what they leave out
            items = load_items(source)
        if is_judged:
            kept, others = judgeable(items)
            num_kept += len(kept)
            unreadable += others
    if not unreadable:
        return
    shown = ", ".join(f"{u.problem_id} ({u.reason})" for u in unreadable[:SHOWN])
    more = f" and {len(unreadable) - SHOWN} more" if len(unreadable) > SHOWN else ""
    if not num_kept:
        raise UserError(
            f"problems.{name}: none of the {len(unreadable)} answers can be judged: {shown}{more}; expected what the "
            "verifier reads: correct them"
        )
    tell(
        f"problems.{name}: {len(unreadable)} of {len(unreadable) + num_kept} answers cannot be judged, and their problems "
        f"are left out: {shown}{more}"
    )
