"""Problems that no answer could be judged on: references that their verifier cannot read, found at load."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from reasoner.data.rows import Item
from verifiers import lookup


class Unreadable(NamedTuple):
    """A problem whose reference its verifier cannot read, and why."""

    problem_id: str
    reason: str


def judgeable(items: Iterable[Item]) -> tuple[list[Item], list[Unreadable]]:
    """The items that can be judged, and the others. A verifier that can tell has a function `unreadable`."""
    kept: list[Item] = []
    others: list[Unreadable] = []
    for item in items:
        unreadable = getattr(lookup(item.problem.verifier), "unreadable", None)
        reason = unreadable(**item.problem.reference) if unreadable is not None else ""
        if reason:
            others.append(Unreadable(item.problem.id, reason))
        else:
            kept.append(item)
    return kept, others
