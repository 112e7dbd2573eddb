"""What a run has really drawn of each of the problem sets that it mixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reasoner.trainers.ranks import from_everyone
from reasoner.tree import Tree

Seen = dict[str, dict[str, list[float]]]  # by set and problem: times, tokens, right and judged answers


def numbers_of(tree: Tree) -> list[float]:
    """What a tree adds to its set: one draw, its tokens, right and judged answers."""
    judged = [v.status == "correct" for v in tree.verdicts.values() if v.status != "error"]
    return [1.0, float(tree.num_sampled), float(sum(judged)), float(len(judged))]


def note_seen(trees: Sequence[Tree], sets: Mapping[str, str], seen: Seen) -> dict[str, float]:
    """Add a round's trees of all processes, `sets` telling a problem's set by its id; how many problems came of each set."""
    own = [(tree.problem.id, numbers_of(tree)) for tree in trees]
    counted = {f"seen_{name}": 0.0 for name in sets.values()}
    for rows in from_everyone(own):
        for problem, numbers in rows:
            of_set = seen.setdefault(sets[problem], {})
            of_set[problem] = [a + b for a, b in zip(of_set.get(problem, [0.0] * 4), numbers, strict=True)]
            counted[f"seen_{sets[problem]}"] += 1
    return counted


def table(seen: Seen) -> list[dict[str, Any]]:
    """A row for each set: its share of all draws, problems drawn and distinct ones, the most times one came, tokens, accuracy."""
    total = sum(numbers[0] for of_set in seen.values() for numbers in of_set.values())
    rows = []
    for name, of_set in sorted(seen.items()):
        times, tokens, right, judged = (sum(column) for column in zip(*of_set.values(), strict=True))
        most = max(numbers[0] for numbers in of_set.values())
        rows.append(row(name, total, times, len(of_set), most, tokens, right, judged))
    return rows


def row(
    name: str, total: float, drawn: float, distinct: float, most: float, tokens: float, right: float, judged: float
) -> dict[str, Any]:  # fmt: skip
    """The row of a set, of which so many of `total` draws came."""
    return {
        "set": name, "share": drawn / total, "drawn": int(drawn), "distinct": int(distinct), "most_times": int(most),
        "tokens": int(tokens), "right": right / judged if judged else None,
    }  # fmt: skip
