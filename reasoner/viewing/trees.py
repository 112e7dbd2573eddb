"""Trees as the page wants them: a list by columns, one tree step by step, one node token by token, chains to search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from reasoner.columns import trees_of
from reasoner.registry import UserError
from reasoner.report.charts import spelled
from reasoner.signals.backup import unbiased_values
from reasoner.store import num_shards, tree_tables
from reasoner.tree import ROOT, Counts, Node, Tree
from reasoner.viewing.labels import Labelled, State, as_told, counted

MAX_TREES = 10_000  # in a list, and searched for chains
MAX_PROMPT = 200  # characters in a list
MAX_TEXT = 4_000  # of one step
MAX_NODE_TEXT = 40_000  # of all steps of a node or path together
MAX_TOKENS = 2_000  # of a node that are shown one by one
LIKELIHOOD = "likelihood"  # exp of the mean log-probability, for trees that nothing has scored

Decode = Callable[[Sequence[int]], str]


def overview(folder: Path) -> list[dict[str, Any]]:
    """One row for each of the first trees of a stage, from the columns alone."""
    found: list[dict[str, Any]] = []
    for shard in range(num_shards(folder)):
        for table in tree_tables(folder, shard):
            found += _rows(table.slice(0, MAX_TREES - len(found)), shard)
    return found


def _rows(table: pa.Table, shard: int) -> list[dict[str, Any]]:
    nodes, verdicts = (table.column(name).combine_chunks() for name in ("nodes", "verdicts"))
    sizes = nodes.value_lengths().to_numpy(zero_copy_only=False)
    of_nodes, of_verdicts = nodes.flatten(), verdicts.flatten()
    tokens = of_nodes.field("token_ids").value_lengths().to_numpy(zero_copy_only=False)
    tokens = np.where(of_nodes.field("parent").to_numpy(zero_copy_only=False) < 0, 0, tokens)
    stops = np.array(of_nodes.field("stop_reason").to_pylist(), dtype=str)
    statuses = np.array(of_verdicts.field("status").to_pylist(), dtype=str)
    judged = verdicts.value_lengths().to_numpy(zero_copy_only=False)
    of_tree = np.repeat(np.arange(len(sizes)), sizes)
    by_verdict = np.repeat(np.arange(len(judged)), judged)

    def count(of: np.ndarray, what: np.ndarray) -> list[int]:
        return np.bincount(of, what, minlength=len(sizes)).astype(int).tolist()

    columns = {
        "id": [shown(text, MAX_PROMPT) for text in table.column("id").to_pylist()],
        "prompt": [shown(text, MAX_PROMPT) for text in table.column("prompt").to_pylist()],
        "nodes": (sizes - 1).tolist(),
        "correct": count(by_verdict, statuses == "correct"),
        "judged": count(by_verdict, statuses != "error"),
        "tokens": count(of_tree, tokens),
        "pruned": count(of_tree, np.char.startswith(stops, "pruned")),
    }
    rows = zip(*columns.values(), strict=True)
    return [
        {"shard": shard, "row": i, **dict(zip(columns, values, strict=True))} for i, values in enumerate(rows)
    ]


def one_tree(folder: Path, shard: int, row: int) -> Tree:
    """The tree at a place of the overview; a place that is none is a UserError."""
    for table in tree_tables(folder, shard) if 0 <= shard < num_shards(folder) else ():
        if 0 <= row < table.num_rows:
            return next(trees_of(table.slice(row, 1).combine_chunks().to_batches()[0]))
    raise UserError(
        f"got tree {row} of shard {shard} in {folder}, which is not there; expected one of the list"
    )


def drawn(tree: Tree, decode: Decode, labelled: Labelled) -> dict[str, Any]:
    """A tree as its picture needs it: of each node where it leaves its parent, its steps, verdict and marks."""
    facts = Facts(tree, unbiased_values(tree), counted(tree), labelled.labels)
    return {
        "id": shown(tree.problem.id, MAX_PROMPT),
        "prompt": shown(tree.problem.prompt, MAX_TEXT),
        "reference": shown(str(tree.problem.reference), MAX_TEXT),
        "scores": [spelled(name) for name in tree.scores],
        "labels": labelled.names,
        "notes": labelled.notes,
        "from_prompt": as_told(facts.counts.get((ROOT, len(tree.nodes[ROOT].token_ids)))),
        "nodes": [_node(facts, i, decode) for i in range(len(tree.nodes))],
    }


class Facts(NamedTuple):
    """A tree with what is known of its states: values by node and tokens, counts of continuations, labels."""

    tree: Tree
    values: list[np.ndarray]
    counts: dict[State, Counts]
    labels: dict[State, dict[str, float]]

    def at(self, i: int, k: int, end: int) -> dict[str, Any]:
        """At the end of a node's step `k`, which is so many tokens into it."""
        return {
            "value": number(self.values[i][end]),
            "scores": {
                name: number(of[i][k]) for name, of in self.tree.scores.items() if k < len(of.get(i, ()))
            },
            "counts": as_told(self.counts.get((i, end))),
            "labels": {name: number(y) for name, y in self.labels.get((i, end), {}).items()},
        }


def _node(facts: Facts, i: int, decode: Decode) -> dict[str, Any]:
    tree = facts.tree
    node, verdict = tree.nodes[i], tree.verdicts.get(i)
    ends = [e for e in node.step_ends if e < len(node.token_ids)]
    if i != ROOT and node.token_ids and (not ends or ends[-1] != len(node.token_ids) - 1):
        ends.append(len(node.token_ids) - 1)  # a step that a branch or the limit cut
    steps, start, room = [], 0, MAX_NODE_TEXT
    for k, end in enumerate(ends if i != ROOT else []):
        text = shown(decode(node.token_ids[start : end + 1]), min(MAX_TEXT, room))
        room = max(room - len(text), 0)
        steps.append(
            {
                "end": end + 1,
                "text": text,
                "entropy": _mean(node.entropy[start : end + 1]),
                "logprob": _mean(node.logprobs_full[start : end + 1]),
                **facts.at(i, k, end + 1),
            }
        )
        start = end + 1
    return {
        "parent": node.parent,
        "offset": node.offset,
        "tokens": len(node.token_ids),
        "value": number(facts.values[i][0]),
        "steps": steps,
        "verdict": verdict.status if verdict else None,
        "answer": shown(verdict.answer, MAX_PROMPT) if verdict and verdict.answer else None,
        "stop": spelled(node.stop_reason),
        "pruned": node.is_pruned,
        "propensity": node.propensity,
        "drawn": spelled(node.drawn),
    }


def told(tree: Tree, i: int, decode: Decode, labelled: Labelled) -> dict[str, Any]:
    """A node in full: the steps of the whole path that ends with it, its verdict, and its tokens one by one."""
    if not 0 <= i < len(tree.nodes):
        raise UserError(f"got node {i} of {len(tree.nodes)}; expected one of the tree's")
    facts = Facts(tree, unbiased_values(tree), counted(tree), labelled.labels)
    path, before, room = [], [], MAX_NODE_TEXT
    for span in tree.path(i)[1:]:
        node, start = tree.nodes[span.node], 0
        ends = [e for e in node.step_ends if e < span.end]
        for k, end in enumerate(ends):
            text = shown(decode([*before, *node.token_ids[start : end + 1]]), min(MAX_TEXT, room))
            room = max(room - len(text), 0)
            path.append({"node": span.node, "text": text, **facts.at(span.node, k, end + 1)})
            before, start = [], end + 1
        before = [*before, *node.token_ids[start : span.end]]
    if before:
        text = shown(decode(before), min(MAX_TEXT, room))
        path.append({"node": i, "text": text, "value": None, "scores": {}, "counts": None, "labels": {}})
    node, verdict = tree.nodes[i], tree.verdicts.get(i)
    return {
        "path": path,
        "prompt": shown(tree.problem.prompt, MAX_TEXT),
        "reference": shown(str(tree.problem.reference), MAX_TEXT),
        "verdict": {k: shown(v, MAX_TEXT) if isinstance(v, str) else v for k, v in asdict(verdict).items()}
        if verdict
        else None,
        "tokens": [_token(node, at, decode) for at in range(min(len(node.token_ids), MAX_TOKENS))],
        "left_out": max(len(node.token_ids) - MAX_TOKENS, 0),
    }


def _token(node: Node, at: int, decode: Decode) -> list[Any]:
    """Text, entropy in nats, log-probability of one token."""
    entropy = number(node.entropy[at]) if at < len(node.entropy) else None
    logprob = number(node.logprobs_full[at]) if at < len(node.logprobs_full) else None
    return [shown(decode([node.token_ids[at]]), MAX_PROMPT), entropy, logprob]


def chains(folder: Path) -> list[dict[str, Any]]:
    """One row for each chain of a stage's first trees: its problem, verdict, answer and the least score of its steps."""
    found: list[dict[str, Any]] = []
    left = MAX_TREES
    for shard in range(num_shards(folder)):
        for table in tree_tables(folder, shard):
            trees = (
                tree
                for batch in table.slice(0, left).to_batches(max_chunksize=64)
                for tree in trees_of(batch)
            )
            left -= min(left, table.num_rows)
            found += [
                _chain(tree, leaf, shard, row) for row, tree in enumerate(trees) for leaf in tree.leaves()
            ]
    return found


def _chain(tree: Tree, leaf: int, shard: int, row: int) -> dict[str, Any]:
    verdict = tree.verdicts.get(leaf)
    scores: dict[str, float | None] = {}
    for name, of in tree.scores.items():
        ends = [(e.node, e.ordinal) for e in tree.step_ends(leaf)]
        known = [of[node][k] for node, k in ends if k < len(of.get(node, ()))]
        scores[name] = number(min(known)) if known and len(known) == len(ends) else None
    logprobs = [x for s in tree.path(leaf)[1:] for x in tree.nodes[s.node].logprobs_full[: s.end]]
    mean = _mean(logprobs)
    scores[LIKELIHOOD] = None if mean is None else math.exp(min(mean, 0.0))
    return {
        "shard": shard, "row": row, "node": leaf,
        "id": shown(tree.problem.id, MAX_PROMPT), "prompt": shown(tree.problem.prompt, MAX_PROMPT),
        "verdict": verdict.status if verdict else "none",
        "answer": shown(verdict.answer or "", MAX_PROMPT) if verdict else "",
        "tokens": sum(s.end for s in tree.path(leaf)[1:]), "scores": scores,
    }  # fmt: skip


def chosen(
    found: Sequence[dict[str, Any]], score: str, problem: str, verdict: str, low: float, high: float
) -> list[dict[str, Any]]:
    """The chains that match, those first that the score takes for right and the verdict does not: false positives."""

    def matches(chain: dict[str, Any]) -> bool:
        value = chain["scores"].get(score)
        is_in = (low <= 0 and high >= 1) if value is None else low <= value <= high
        words = problem.lower()
        is_asked = words in chain["id"].lower() or words in chain["prompt"].lower()
        return is_in and is_asked and verdict in ("", chain["verdict"])

    def rank(chain: dict[str, Any]) -> tuple[bool, float]:
        value = chain["scores"].get(score)
        return chain["verdict"] != "incorrect", -(value if value is not None else -1.0)

    return sorted(filter(matches, found), key=rank)


def shown(text: Any, most: int) -> str:
    """Text for a page, at most so many characters, what is invisible spelled out."""
    whole = str(text)
    left_out = len(whole) - most
    return spelled(whole[:most]) + (f" … ({left_out:,} more characters)" if left_out > 0 else "")


def number(x: Any) -> float | None:
    """A number that JSON knows, to four digits; None for what is none."""
    return round(float(x), 4) if math.isfinite(x) else None


def _mean(values: Sequence[float]) -> float | None:
    return number(sum(values) / len(values)) if len(values) else None
