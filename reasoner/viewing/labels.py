"""What became of the continuations from each step of a tree, and the labels that label stages made of it."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc

from reasoner.columns import records_of
from reasoner.config import read_yaml
from reasoner.metrics.intervals import beta_interval
from reasoner.records import StepLabels
from reasoner.registry import UserError
from reasoner.report.charts import spelled
from reasoner.signals.step_labels import along
from reasoner.store import record_tables
from reasoner.tree import ROOT, Counts, Tree, counts

State = tuple[int, int]  # (node, tokens of it)


class Labelled(NamedTuple):
    """`labels` by state and name, as "label soft" of the stage `label`; `notes` say what could not be read."""

    labels: dict[State, dict[str, float]]
    names: list[str]
    notes: list[str]


def read_labels(trees: Path, shard: int, tree: Tree) -> Labelled:
    """The labels of a tree's steps, by all stages that label the trees of that folder.

    `shard` is the tree's: a label stage writes the records of a shard under its number.
    """
    found: dict[State, dict[str, float]] = defaultdict(dict)
    names, notes = [], []
    for name, folder in _folders(trees):
        try:
            records = _records(folder, shard, tree.problem.id)
        except UserError as problem:
            notes.append(str(problem))
            continue
        names.append(name)
        for state, label in _by_state(tree, records).items():
            found[state][name] = label
    return Labelled(found, names, notes)


def _folders(trees: Path) -> list[tuple[str, Path]]:
    """Name and folder of each kind of step labels that stages of the run's config make of these trees."""
    run = trees.parent.parent
    try:
        stages = read_yaml(run / "config.yaml").get("stages")
    except UserError:
        return []
    found = []
    for stage in stages if isinstance(stages, list) else []:
        if not isinstance(stage, dict) or (stage.get("kind"), stage.get("trees")) != ("label", trees.name):
            continue
        name, kinds = stage.get("name"), stage.get("kinds")
        if not isinstance(kinds, list) or not _is_name(name):
            continue
        named = ((kind, run / "records" / str(name) / kind) for kind in kinds if _is_name(kind))
        found += [(spelled(f"{name} {kind}"), folder) for kind, folder in named if folder.is_dir()]
    return found


def _is_name(text: Any) -> bool:
    """Whether it names something right in a folder."""
    return isinstance(text, str) and "/" not in text and text.strip(".") != ""


def _records(folder: Path, shard: int, problem_id: str) -> list[StepLabels]:
    found: list[StepLabels] = []
    if not any(folder.glob("*.parquet")):  # the stage has just begun
        return found
    for table in record_tables(folder, StepLabels, shard):
        of_problem = table.filter(pc.field("problem_id") == problem_id)
        for batch in of_problem.to_batches():
            found += records_of(batch, StepLabels)
    return found


def _by_state(tree: Tree, records: list[StepLabels]) -> dict[State, float]:
    """A label for each step end that has one.

    A record is of the trajectory with its tokens, and of those that are alike in them the first with its counts.
    """
    if not records:
        return {}
    known = counted(tree)
    open_leaves = defaultdict(list)
    for leaf in tree.leaves():
        if leaf in tree.verdicts and tree.step_ends(leaf):
            chain, _ = along(tree, leaf, known)
            tokens = (tree.nodes[ROOT].token_ids, tuple(tree.completion_ids(leaf)))
            open_leaves[*tokens, tuple((s.n, s.c) for s in chain)].append(leaf)
    found: dict[State, float] = {}
    for record in records:
        alike = open_leaves[
            tuple(record.prompt_ids),
            tuple(record.completion_ids),
            tuple(zip(record.n, record.c, strict=False)),
        ]
        if alike:
            ends = tree.step_ends(alike.pop(0))
            labels = zip(ends, record.labels, strict=True)
            found |= {(e.node, e.index + 1): y for e, y in labels if not math.isnan(y)}
    return found


def counted(tree: Tree) -> dict[State, Counts]:
    """How many independent continuations each state has that has any, and how many of them are right."""
    states = {(n.parent, n.offset) for n in tree.nodes[1:]}
    found = {state: counts(tree, *state) for state in states}
    return {state: told for state, told in found.items() if told.n or told.errors}


def as_told(told: Counts | None) -> dict[str, Any] | None:
    """Counts with the mean and the 95 % interval of their Beta posterior, for the page; None where nothing was drawn."""
    if told is None:
        return None
    posterior = ((told.c + 1) / (told.n + 2), *beta_interval(told.c, told.n))
    return told._asdict() | {"posterior": [round(x, 4) for x in posterior]}
