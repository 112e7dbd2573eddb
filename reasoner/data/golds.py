"""Problems that no answer could be judged on: references that their verifier cannot read, found at load."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from reasoner.data.rows import Item
from verifiers import lookup


class Unreadable(NamedTuple):
    """A problem whose reference its verifier cannot read, and why."""

    problem_id: str
    reason: str


def judgeable(items: Iterable[Item]) -> tuple[list[Item], list[Unreadable]]:
    """The items that can be judged, and the others."""
    others: list[Unreadable] = []
    return list(each_judgeable(items, others)), others


def each_judgeable(items: Iterable[Item], others: list[Unreadable]) -> Iterator[Item]:
    """The items that can be judged, as they come; the others are put down in `others`."""
    for item in items:
        reason = why_unreadable(item)
        if reason:
            others.append(Unreadable(item.problem.id, reason))
        else:
            yield item


def why_unreadable(item: Item) -> str:
    """Why no answer to a problem can be judged; "" where one can.

    A reference is exactly its verifier's keyword arguments; a verifier that can tell more has a function `unreadable`.
    """
    name, reference = item.problem.verifier, item.problem.reference
    verifier = lookup(name)
    taken = list(inspect.signature(verifier).parameters.values())[1:]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in taken)
    named = {
        p.name: p.default is p.empty for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    missing = [key for key, is_needed in named.items() if is_needed and key not in reference]
    if missing or (set(reference) - set(named) and not takes_all):
        return f"the verifier {name} takes {', '.join(named)}, and the reference has {', '.join(reference) or 'nothing'}"
    unreadable = getattr(verifier, "unreadable", None)
    return unreadable(**reference) if unreadable is not None else ""
