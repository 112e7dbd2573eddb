"""What the problems of local files tell before the first stage: rows that are none, and answers that nobody can judge."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from reasoner.config import DataFile
from reasoner.data.golds import Unreadable, judgeable
from reasoner.data.importers import Import
from reasoner.data.rows import SourceConfig
from reasoner.data.sources import load_items
from reasoner.registry import UserError
from reasoner.stages.references import NamesProblems, named

SHOWN = 5  # problems that are named


def check_problems(
    stages: Iterable[Any], problems: Mapping[str, Sequence[SourceConfig]], tell: Callable[[str], None]
) -> None:
    """Read the local data of every problem set that the stages, or those that keep it out of training, use.

    A row that is no problem, a set of which no answer can be judged though one will be, sets without a solution that are
    to be imitated, and labels of no known format are a UserError. Single answers that their verifier cannot read are told
    by the problem's id: the stages leave them out.
    """
    stages = list(stages)
    judged: dict[str, bool] = {}
    for stage in stages:
        for _, marker, name in named(stage, NamesProblems):
            judged[name] = judged.get(name, False) or marker.judged
    solved = {
        name: _check_set(name, sources, judged.get(name, False), tell)
        for name, sources in problems.items()
        if name in judged or name == "test"
    }
    for stage in stages:
        shown = [(key, name) for key, marker, name in named(stage, NamesProblems) if marker.solved]
        if shown and not any(solved.get(name) for _, name in shown):
            raise UserError(
                f"stages.{stage.name}.{shown[0][0]}: none of the problems of {', '.join(name for _, name in shown)} has a "
                'worked solution to imitate; expected text under "solution" beside prompt and answer in the rows, or a '
                "source that has solutions"
            )
        _check_labels(stage)


def _check_labels(stage: Any) -> None:
    """The first row of each file of labelled steps is of a known format."""
    for key, marker, path in named(stage, DataFile):
        if marker.labels:
            try:
                next(iter(Import(path)), None)
            except UserError as problem:
                raise UserError(f"stages.{stage.name}.{key}: {problem}") from problem


def _check_set(
    name: str, sources: Sequence[SourceConfig], is_judged: bool, tell: Callable[[str], None]
) -> bool:
    """Whether a problem of the set may have a worked solution."""
    unreadable: list[Unreadable] = []
    num_kept = 0
    is_solved = False
    for source in sources:
        if not source.path:
            num_kept += 1  # what is made here can be judged, and what is on the hub is not known yet
            is_solved = True
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the stages tell what they leave out
            items = load_items(source)
        is_solved = is_solved or any(item.solution for item in items)
        if is_judged:
            kept, others = judgeable(items)
            num_kept += len(kept)
            unreadable += others
    if not unreadable:
        return is_solved
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
    return is_solved
