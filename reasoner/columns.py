"""Trees and records as Arrow columns and back: one row each, lists of structs and lists of numbers inside.

Log-probabilities, entropies and scores are 32-bit floats; a problem's reference is a JSON string.
"""

from __future__ import annotations

import json
import logging
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import accumulate, chain, pairwise
from typing import Any, TypeVar

import pyarrow as pa

from reasoner.registry import UserError
from reasoner.tree import Node, Problem, Tree
from verifiers import Verdict

R = TypeVar("R")

logger = logging.getLogger(__name__)

_IDS = pa.list_(pa.int32())
_FLOATS = pa.list_(pa.float32())

# Names of the fields of Problem, Node and Verdict; a verdict's row also names its node.
_PROBLEM = {
    "id": pa.string(),
    "prompt": pa.string(),
    "verifier": pa.string(),
    "reference": pa.string(),
    "domain": pa.string(),
    "source": pa.string(),
    "licence": pa.string(),
}
_NODE = {
    "parent": pa.int32(),
    "offset": pa.int32(),
    "token_ids": _IDS,
    "logprobs": _FLOATS,
    "logprobs_full": _FLOATS,
    "entropy": _FLOATS,
    "step_ends": _IDS,
    "stop_reason": pa.string(),
    "weights_version": pa.int64(),
    "adapter": pa.string(),
    "propensity": pa.float64(),
    "drawn": pa.string(),
}
_VERDICT = {
    "status": pa.string(),
    "reason": pa.string(),
    "score": pa.float64(),
    "answer": pa.string(),
    "detail": pa.string(),
    "isolation": pa.string(),
    "cpu_ms": pa.float64(),
    "wall_ms": pa.float64(),
}
_SCORE = {"name": pa.string(), "node": pa.int32(), "values": _FLOATS}


def _structs_of(columns: dict[str, pa.DataType]) -> pa.DataType:
    return pa.list_(pa.struct(list(columns.items())))


TREE_SCHEMA = pa.schema(
    [
        *_PROBLEM.items(),
        ("nodes", _structs_of(_NODE)),
        ("verdicts", _structs_of({"node": pa.int32()} | _VERDICT)),
        ("scores", _structs_of(_SCORE)),
    ]
)
# Columns of a record's fields; token ids, positions and counts fit 32 bits.
_RECORD_TYPES = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    list[str]: pa.list_(pa.string()),
    list[int]: _IDS,
    list[float]: pa.list_(pa.float64()),
}


def trees_to_table(trees: list[Tree]) -> pa.Table:
    """One row per tree; UserError for a reference that JSON would change."""
    problems = {
        name: [getattr(tree.problem, name) for tree in trees] for name in _PROBLEM if name != "reference"
    }
    problems["reference"] = [reference_json(tree.problem) for tree in trees]
    columns = {name: _array(problems[name], kind) for name, kind in _PROBLEM.items()}

    nodes = [node for tree in trees for node in tree.nodes]
    columns["nodes"] = _lists_of(
        [len(tree.nodes) for tree in trees],
        {name: _array([getattr(node, name) for node in nodes], kind) for name, kind in _NODE.items()},
    )
    verdicts = [item for tree in trees for item in tree.verdicts.items()]
    columns["verdicts"] = _lists_of(
        [len(tree.verdicts) for tree in trees],
        {"node": _array([node for node, _ in verdicts], pa.int32())}
        | {name: _array([getattr(v, name) for _, v in verdicts], kind) for name, kind in _VERDICT.items()},
    )
    scores = [_score_rows(tree) for tree in trees]
    flat = list(chain.from_iterable(scores))
    columns["scores"] = _lists_of(
        [len(rows) for rows in scores],
        {name: _array([row[i] for row in flat], kind) for i, (name, kind) in enumerate(_SCORE.items())},
    )
    return pa.table(columns, schema=TREE_SCHEMA)


def _score_rows(tree: Tree) -> list[tuple[str, int | None, list[float]]]:
    """One row per score name and node; a name without any node has one row with a null."""
    return [
        (name, node, values)
        for name, by_node in tree.scores.items()
        for node, values in (by_node.items() or [(None, [])])
    ]


def reference_json(problem: Problem) -> str:
    """A problem's reference as JSON; UserError where that would change it."""
    try:
        text = json.dumps(problem.reference, allow_nan=False)
        same = json.loads(text) == problem.reference
    except (TypeError, ValueError) as error:
        text, same = str(error), False
    if not same:
        raise UserError(
            f"got a reference of problem {problem.id!r} that JSON changes ({text[:80]}), expected lists, "
            "finite numbers, and strings as keys; convert it where the problem is made"
        )
    return text


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        # Half a surrogate pair, as JSON files may hold, has no UTF-8; losing a run over it would be worse.
        logger.warning("text with unpaired surrogates is stored with them escaped")
        return pa.array([_escaped(value) for value in values], kind)


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return [_escaped(v) for v in value] if isinstance(value, list) else value


def _lists_of(lengths: list[int], columns: dict[str, pa.Array]) -> pa.Array:
    struct = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
    return pa.ListArray.from_arrays(pa.array([0, *accumulate(lengths)], pa.int32()), struct)


def record_schema(record_type: type) -> pa.Schema:
    """The columns of a record type; TypeError for a field that is not flat."""
    hints = typing.get_type_hints(record_type) if is_dataclass(record_type) else {}
    unknown = [name for name, hint in hints.items() if hint not in _RECORD_TYPES]
    if unknown or not hints:
        raise TypeError(
            f"got {record_type.__name__} with {unknown or 'no fields'}, expected a dataclass of "
            "str, int, float, bool and lists of them; store its parts instead"
        )
    return pa.schema([(field.name, _RECORD_TYPES[hints[field.name]]) for field in fields(record_type)])


def records_to_table(records: list[Any]) -> pa.Table:
    """One row per record; all are of the first one's type."""
    schema = record_schema(type(records[0]))
    arrays = [_array([getattr(record, f.name) for record in records], f.type) for f in schema]
    return pa.table(arrays, schema=schema)


def trees_of(batch: pa.RecordBatch) -> Iterator[Tree]:
    """The trees in rows that `trees_to_table` made."""
    problems = {name: batch.column(name).to_pylist() for name in _PROBLEM}
    problems["reference"] = [json.loads(text) for text in problems["reference"]]
    nodes = _structs(batch.column("nodes"), list(_NODE))
    verdicts = _structs(batch.column("verdicts"), ["node", *_VERDICT])
    scores = _structs(batch.column("scores"), list(_SCORE))
    for row in range(batch.num_rows):
        tree = Tree(Problem(**{name: column[row] for name, column in problems.items()}))
        tree.nodes = [_node(values) for values in nodes[row]]
        tree.verdicts = {node: Verdict(*values) for node, *values in verdicts[row]}
        for name, node, values in scores[row]:
            by_node = tree.scores.setdefault(name, {})
            if node is not None:
                by_node[node] = values
        yield tree


def _node(values: tuple[Any, ...]) -> Node:
    frozen: list[Any] = [tuple(value) if isinstance(value, list) else value for value in values]
    return Node(*frozen)


def records_of(batch: pa.RecordBatch, record_type: type[R]) -> Iterator[R]:
    """The records in rows that `records_to_table` made of the same type."""
    columns = [_column(batch.column(name)) for name in record_schema(record_type).names]
    for values in zip(*columns, strict=True):
        yield record_type(*values)


def _structs(column: pa.ListArray, names: list[str]) -> list[list[tuple[Any, ...]]]:
    """Per row the list of its structs, each as a tuple of the named fields."""
    struct = column.flatten()
    rows = list(zip(*(_column(struct.field(name)) for name in names), strict=True))
    return _split(rows, column)


def _column(array: pa.Array) -> list[Any]:
    """As `to_pylist`, much faster for lists of numbers."""
    if not pa.types.is_list(array.type) or array.null_count:
        return array.to_pylist()
    values = array.flatten()
    flat = (
        values.to_pylist() if values.null_count or not _is_number(values.type) else values.to_numpy().tolist()
    )
    return _split(flat, array)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _split(flat: list[Any], column: pa.ListArray) -> list[list[Any]]:
    ends = list(accumulate(column.value_lengths().to_pylist(), initial=0))
    return [flat[start:end] for start, end in pairwise(ends)]
