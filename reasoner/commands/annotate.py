"""`reasoner annotate`: a person rates the steps of a run's solutions, one key a step."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reasoner.config import read_yaml, validate
from reasoner.data.annotate import RATINGS, Candidate, key_of, printable, queue, record
from reasoner.data.files import LeftOut, read_rows
from reasoner.data.prompting import Prompting
from reasoner.registry import UserError
from reasoner.run_config import RunConfig
from reasoner.scoring.aggregate import AGGREGATES
from reasoner.scoring.prm import score_steps
from reasoner.scoring.reward_models import load_reward_model
from reasoner.stages.context import Context
from reasoner.trainers.loop import Session
from reasoner.tree import Tree

KEYS = "g good, n neutral, b bad, u undo, s skip, q quit"


def annotate(
    run: Path, stage: str, prm: str, to: Path | None, labeler: str,
    read_key: Callable[[], str], show: Callable[[str], None],
) -> int:  # fmt: skip
    """Show solutions until `q` or the last, append each one's record to `to`; returns how many were rated.

    What the file holds already is not shown again. A run without judged trees is a UserError.
    """
    file = to or run / "annotations.jsonl"
    done = [key_of(row) for row in _records(file)]
    waiting = list(queue(candidates(run, stage, prm), done))
    rated = 0
    show(f"{len(waiting):,} solutions to rate, {len(done):,} rated before; keys: {KEYS}")
    for candidate in waiting:
        start = time.monotonic()
        ratings = _rate(candidate, read_key, show)
        if ratings is None:
            break
        timestamp = datetime.now(UTC).replace(tzinfo=None).isoformat()
        milliseconds = round(1000 * (time.monotonic() - start))
        _append(file, record(candidate, ratings, labeler, timestamp, milliseconds))
        rated += 1
    show(f"{rated:,} rated, in {file}; train on them with {{kind: import, path: {file}, model: MODEL}}")
    return rated


def _rate(candidate: Candidate, read_key: Callable[[], str], show: Callable[[str], None]) -> list[int] | None:
    """The ratings up to the first bad step, fewer where the person skips; None where the person quits."""
    show(f"\n{printable(candidate.problem)}\n  reference answer: {printable(candidate.reference)}")
    ratings: list[int] = []
    while len(ratings) < len(candidate.steps):
        at = len(ratings)
        show(f"  [{at + 1}/{len(candidate.steps)}] {printable(candidate.steps[at]).strip()}")
        key = read_key()
        if key in RATINGS:
            ratings.append(RATINGS[key])
            if key == "b":
                break
        elif key == "u":
            ratings = ratings[:-1]
        elif key == "s":
            break
        elif key in ("q", "\x03", "\x04", ""):
            return None
        else:
            show(f"  got {key!r}; expected one of: {KEYS}")
    return ratings


def candidates(run: Path, stage: str, prm: str) -> list[Candidate]:
    """The judged solutions of a run's trees, scored by the reward model, or by the policy's mean log-probability."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} has no config.yaml; expected the folder of a run")
    config = validate(RunConfig, read_yaml(run / "config.yaml"), str(run / "config.yaml"))
    judged = [s for s in config.stages if s.kind == "verify" and (run / "trees" / s.name).is_dir()]
    chosen = [s for s in judged if s.name == stage] if stage else judged[-1:]
    if not chosen:
        names = ", ".join(s.name for s in judged) or "none"
        raise UserError(
            f"{run} has no judged trees {stage}; expected a finished verify stage (there: {names})"
        )
    context = Context(run, config.problems, config.prompt, Session(run))
    prompting = context.prompting(getattr(chosen[0], "model"))  # noqa: B009 - a union of stages
    trees = context.trees(chosen[0].name)
    if prm:
        score_steps(load_reward_model(context.model(prm), prompting.decode), trees, "prm")
    return [c for tree in trees for leaf in tree.leaves() if (c := _candidate(tree, leaf, prm, prompting))]


def _candidate(tree: Tree, leaf: int, prm: str, prompting: Prompting) -> Candidate | None:
    verdict = tree.verdicts.get(leaf)
    if verdict is None or verdict.status == "error":
        return None
    steps, begin, ids = [], 0, tree.completion_ids(leaf)
    for end in _positions(tree, leaf):
        steps.append(prompting.decode(ids[begin : end + 1]).strip())
        begin = end + 1
    steps = [text for text in steps if text]
    if not steps:
        return None
    score = AGGREGATES["product"](tree.path_scores("prm", leaf)) if prm else _confidence(tree, leaf)
    return Candidate(
        tree.problem.prompt, str(tree.problem.reference.get("answer", "")), tuple(steps), verdict.answer or "",
        verdict.status == "correct", score, tree.nodes[leaf].weights_version,
    )  # fmt: skip


def _positions(tree: Tree, leaf: int) -> list[int]:
    """Positions of the step ends among the trajectory's completion tokens."""
    found, at = [], 0
    for span in tree.path(leaf)[1:]:
        found += [at + index for index in tree.nodes[span.node].step_ends if index < span.end]
        at += span.end
    return found


def _confidence(tree: Tree, leaf: int) -> float:
    """The geometric mean of the probabilities that the policy gave to the trajectory's tokens."""
    values = [x for span in tree.path(leaf)[1:] for x in tree.nodes[span.node].logprobs_full[: span.end]]
    return math.exp(sum(values) / len(values)) if values else 0.0


def _records(file: Path) -> list[dict[str, Any]]:
    """The records of the file; a line that a kill cut off is a UserError that names it."""
    if not file.is_file():
        return []
    rows = list(read_rows(file))
    for row in rows:
        if isinstance(row, LeftOut):
            raise UserError(
                f"{file}, line {row.line}: {row.reason}; expected PRM800K records, remove that line"
            )
    return [row.value for row in rows if not isinstance(row, LeftOut)]


def _append(file: Path, row: dict[str, Any]) -> None:
    """Add a line, on disk when this returns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")
        out.flush()
        os.fsync(out.fileno())
