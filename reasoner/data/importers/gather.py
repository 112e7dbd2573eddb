"""Single labelled steps, each with its prefix, gathered into one tree per problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from reasoner.data.importers.step_tree import PROMPT, StepTree


def gathered(rows: Iterable[StepTree]) -> Iterator[StepTree]:
    """One tree for the rows of a problem that follow one another; each row's last step is a step of its own.

    A prefix is the first path of equal texts, and is added without labels where there is none, so that two ratings
    of the same words are kept as two siblings.
    """
    for _, group in groupby(rows, key=lambda t: (t.prompt, t.licence)):
        whole: StepTree | None = None
        known: dict[tuple[int, str], int] = {}
        for row in group:
            if whole is None:
                whole = row
                for i, text in enumerate(row.steps):
                    known.setdefault((row.parents[i], text), i)
                continue
            at = PROMPT
            for text in row.steps[:-1]:
                found = known.get((at, text))
                if found is None:
                    found = known[at, text] = whole.add(at, text)
                    whole.lines.append(row.lines[-1])
                at = found
            number = _moved(row, whole, at)
            known.setdefault((at, row.steps[-1]), number)
        if whole is not None:
            yield whole


def _moved(row: StepTree, whole: StepTree, parent: int) -> int:
    """Append the row's last step, as it is, after `parent`."""
    whole.steps.append(row.steps[-1])
    whole.parents.append(parent)
    for column in ("labels", "ends", "outcomes", "authors", "details", "lines"):
        getattr(whole, column).append(getattr(row, column)[-1])
    return len(whole.steps) - 1
