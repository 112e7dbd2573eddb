"""`reasoner show`: the trees of a run in the terminal."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree as Branches

from reasoner.registry import UserError, nearest
from reasoner.search.budgets import node_depths
from reasoner.signals.backup import unbiased_values
from reasoner.store import read_trees, to_json
from reasoner.tree import ROOT, Tree
from reasoner.viewing.texts import decoder

MAX_SHOWN = 2_000  # characters of a text in the terminal; --json has all
STYLES = {"correct": "green", "incorrect": "red", "no_answer": "yellow", "error": "magenta"}


def show(run: Path, problem_id: str | None, stage: str | None, limit: int, as_json: bool) -> None:
    """Print one tree, or without an id one line per tree; `run` is a run's folder or one of trees."""
    folder = trees_folder(run, stage)
    if problem_id is None:
        rows = []
        for tree in read_trees(folder):
            if len(rows) == limit:
                break
            rows.append(summary(tree))
        print(json.dumps(rows, indent=2)) if as_json else _print(_table(rows, folder, limit))
        return
    ids = []
    for tree in read_trees(folder):
        if tree.problem.id == problem_id:
            nodes = describe(tree, decoder(run, folder))
            if as_json:
                print(to_json({"problem": vars(tree.problem), "nodes": nodes}, indent=2))
            else:
                _print(drawing(tree, nodes))
            return
        ids.append(tree.problem.id)
    close = nearest(problem_id, ids)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"the first is {ids[0]!r}"
        if ids
        else "none is whole"
    )
    raise UserError(
        f"got the problem {problem_id!r}, expected one of the {len(ids)} trees in {folder}; {hint}"
    )


def trees_folder(run: Path, stage: str | None) -> Path:
    """The folder of a stage's trees, by default of the stage that wrote last."""
    if any(run.glob("*.parquet")):
        return run
    found = sorted((p for p in (run / "trees").glob("*") if p.is_dir()), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(
            f"got {run}, expected a run's folder with trees/, or a folder of Parquet shards; check the path"
        )
    if stage is None:
        return found[-1]
    if run / "trees" / stage not in found:
        raise UserError(f"got stage {stage!r}, expected one of {', '.join(p.name for p in found)}")
    return run / "trees" / stage


def summary(tree: Tree) -> dict[str, Any]:
    """One row of the overview; `value` is the mean outcome from the prompt, None where nothing was judged."""
    verdicts = [v.status for v in tree.verdicts.values()]
    return {
        "id": tree.problem.id,
        "nodes": len(tree.nodes) - 1,
        "trajectories": len(tree.leaves()),
        "correct": verdicts.count("correct"),
        "judged": len(verdicts) - verdicts.count("error"),
        "value": _number(unbiased_values(tree)[ROOT][-1]),
        "tokens": tree.num_sampled,
        "pruned": sum(n.is_pruned for n in tree.nodes),
    }


def describe(tree: Tree, decode) -> list[dict[str, Any]]:
    """One row per node: where it branches off, its text, the value where it starts and ends, scores and verdict."""
    values = unbiased_values(tree)
    rows = []
    for i, node in enumerate(tree.nodes):
        verdict = tree.verdicts.get(i)
        rows.append(
            {
                "node": i,
                "parent": node.parent,
                "offset": node.offset,
                "tokens": len(node.token_ids),
                "text": decode(node.token_ids),
                "value_before": _number(values[i][0]),
                "value_after": _number(values[i][-1]),
                "scores": {name: of[i] for name, of in tree.scores.items() if i in of},
                "verdict": verdict.status if verdict else None,
                "answer": verdict.answer if verdict else None,
                "stop_reason": node.stop_reason,
                "propensity": node.propensity,
            }
        )
    return rows


def drawing(tree: Tree, nodes: list[dict[str, Any]]) -> Branches:
    """The tree as lines: children stand below the node that they leave, by where they leave it."""
    drawn = {ROOT: Branches(_line(nodes[ROOT], ROOT))}
    depths = node_depths(tree)
    for i in sorted(range(1, len(tree.nodes)), key=lambda i: (depths[i], tree.nodes[i].offset)):
        drawn[i] = drawn[tree.nodes[i].parent].add(_line(nodes[i], i))
    return drawn[ROOT]


def _line(row: dict[str, Any], node: int) -> Text:
    line = Text(f"{node} ", style="bold")
    if node != ROOT:
        line.append(f"after {row['offset']} · ", style="dim")
    line.append(f"{row['tokens']} tokens", style="dim")
    for name, key in (("V", "value_before"), ("→", "value_after")):
        if row[key] is not None and (key == "value_before" or row[key] != row["value_before"]):
            line.append(f" {name} {row[key]:.2f}", style="cyan")
    for name, scores in row["scores"].items():
        line.append(f" {name} {' '.join(f'{s:.2f}' for s in scores)}", style="blue")
    if row["verdict"]:
        answer = f" {row['answer']}" if row["answer"] else ""
        line.append(f" {row['verdict']}{_printable(answer)}", style=STYLES[row["verdict"]])
    elif row["stop_reason"] not in ("eos", "prompt"):
        line.append(f" {row['stop_reason']}", style="yellow")
    if row["propensity"] < 1:
        line.append(f" p {row['propensity']:.2g}", style="yellow")
    return line.append(f"  {_printable(row['text'])}")


def _table(rows: list[dict[str, Any]], folder: Path, limit: int) -> Table:
    table = Table(
        title=f"{folder}" + (f" (the first {limit})" if len(rows) == limit else ""), box=SIMPLE_HEAD
    )
    for name in rows[0] if rows else ():
        if name == "id":  # whole, since the next command wants it
            table.add_column(name, overflow="fold")
        else:
            table.add_column("leaves" if name == "trajectories" else name, justify="right", no_wrap=True)
    for row in rows:
        cells = ("–" if v is None else f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values())
        table.add_row(*(Text(_printable(c)) for c in cells))
    return table


def _print(shown: Table | Branches) -> None:
    console = Console()
    Console(width=console.width if console.is_terminal else 160, soft_wrap=False).print(shown)


def _printable(text: str) -> str:
    """One line without control characters, not endless: a model's text must not steer the terminal or fill it."""
    left_out = f" … ({len(text) - MAX_SHOWN:,} more characters)" if len(text) > MAX_SHOWN else ""
    shown = text[:MAX_SHOWN]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown) + left_out


def _number(x: float) -> float | None:
    return None if math.isnan(x) else float(x)
