"""What an evaluation reports: one row per number with its 95 % interval, as JSON and as tables.

`metrics.json` is a list of these rows. The terminal and the HTML report show the same grids, made here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from reasoner.metrics.intervals import PairedDifference, bootstrap, wilson

# Scores on a scale of their own, shown as they are; every other number up to 1 is a share, shown in percent.
SCALE_METRICS = ("auroc", "average_precision", "brier", "brier_skill", "ece")
QUALITY_METRICS = (*SCALE_METRICS, "first_error_f1", "error_accuracy", "correct_accuracy", "prm_score")
GAIN_SUFFIX = "_gain"
# Per problem, of test-time methods: numbers on scales of their own.
COST_METRICS = (
    "tokens", "prefilled", "reused", "decoded", "scored", "verifications", "seconds", "dollars",
)  # fmt: skip


@dataclass(frozen=True)
class MetricRow:
    """One number: `metric` (pass@1, maj@8, auroc, …) by `method` (greedy, sampled, prm, …) on `subset`.

    `stage` names the pipeline stage that measured it, `when` the stage that the policy had reached (base,
    sft, ppo, …). `low` and `high` are the 95 % interval, NaN where there is none; `n` counts the problems.
    """

    stage: str
    metric: str
    method: str
    when: str
    subset: str
    value: float
    low: float
    high: float
    n: int


SEARCH_TITLE = "Test-time methods"


class Column(NamedTuple):
    """A column's two header lines."""

    metric: str
    detail: str


class Grid(NamedTuple):
    """A table of rows: `cells[line, column]`, either of which may lack an entry."""

    title: str
    lines: list[str]
    columns: list[Column]
    cells: dict[tuple[str, Column], MetricRow]


def proportion_row(
    stage: str, metric: str, method: str, when: str, subset: str, correct: int, n: int
) -> MetricRow:
    """`correct` of n problems, with the Wilson interval; NaN for no problems."""
    low, high = wilson(correct, n)
    return MetricRow(stage, metric, method, when, subset, correct / n if n else math.nan, low, high, n)


def mean_row(
    stage: str, metric: str, method: str, when: str, subset: str, values: Sequence[float], seed: int = 0
) -> MetricRow:
    """Mean of one value per problem, with a bootstrap interval over problems.

    Values that are all 0 or 1 are a proportion and get the Wilson interval, since a bootstrap of all ones
    would claim certainty.
    """
    values_P = np.asarray(values, dtype=float)
    if np.isin(values_P, (0.0, 1.0)).all():
        return proportion_row(stage, metric, method, when, subset, int(values_P.sum()), len(values_P))
    return statistic_row(stage, metric, method, when, subset, values_P, lambda rows: float(rows.mean()), seed)


def statistic_row(
    stage: str,
    metric: str,
    method: str,
    when: str,
    subset: str,
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    seed: int = 0,
) -> MetricRow:
    """A statistic of (P, ...) values, as AUROC of score-label pairs, with a bootstrap interval over P."""
    low, high = bootstrap(values, statistic, seed=seed)
    return MetricRow(stage, metric, method, when, subset, float(statistic(values)), low, high, len(values))


def gain_row(
    stage: str, metric: str, method: str, when: str, over: str, subset: str, paired: PairedDifference
) -> MetricRow:
    """The paired difference in `metric` of the policy at `when` over the policy at `over`, same problems."""
    n = paired.wins + paired.losses + paired.ties
    return MetricRow(
        stage=stage,
        metric=metric + GAIN_SUFFIX,
        method=method,
        when=f"{when} over {over}",
        subset=subset,
        value=paired.difference,
        low=paired.low,
        high=paired.high,
        n=n,
    )


def to_json(rows: Sequence[MetricRow]) -> str:
    """JSON text of a list of objects; NaN becomes null, which every JSON reader takes."""
    plain = [
        {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in asdict(row).items()}
        for row in rows
    ]
    return json.dumps(plain, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> list[MetricRow]:
    """Reads what `to_json` wrote. ValueError where a row lacks a field or has another one."""
    names = {field.name for field in fields(MetricRow)}
    rows = []
    for i, plain in enumerate(json.loads(text)):
        if set(plain) != names:
            raise ValueError(f"row {i} has fields {sorted(plain)}, expected {sorted(names)}")
        known: dict[str, Any] = {key: math.nan if value is None else value for key, value in plain.items()}
        rows.append(MetricRow(**known))
    return rows


def value_text(row: MetricRow) -> str:
    """41.2 for a share of .412 (percent), 0.873 on a metric with a scale of its own, a sign before a gain."""
    if not math.isfinite(row.value):
        return "–"
    if row.metric in COST_METRICS:
        return f"{row.value:.3g}" if row.value < 1000 else f"{row.value:,.0f}"
    sign = "+" if is_gain(row) else ""
    return format(row.value * _factor(row), sign + _format(row))


def interval_text(row: MetricRow) -> str:
    """36.9–45.6, or nothing where there is no interval; "to" between signed ends."""
    if not (math.isfinite(row.low) and math.isfinite(row.high)):
        return ""
    low, high = (format(end * _factor(row), _format(row)) for end in (row.low, row.high))
    return f"{low} to {high}" if row.low < 0 else f"{low}–{high}"


def is_gain(row: MetricRow) -> bool:
    """Whether the row is a paired difference (`gain_row`)."""
    return row.metric.endswith(GAIN_SUFFIX)


def is_percent(row: MetricRow) -> bool:
    """Whether the row's number is a share, shown in percent; a length of 37 steps is not."""
    return row.metric not in (*SCALE_METRICS, *COST_METRICS) and not abs(row.value) > 1


def _factor(row: MetricRow) -> float:
    return 100.0 if is_percent(row) else 1.0


def _format(row: MetricRow) -> str:
    return ".3f" if row.metric in SCALE_METRICS else ".1f"


def grids(rows: Sequence[MetricRow]) -> list[Grid]:
    """The rows as tables: greedy by when × subset, sampled methods by when for each subset, test-time methods with
    their costs for each policy and subset, paired gains, and reward-model quality by model × metric.

    Lines and columns stand in order of first appearance. A number measured twice (the same metric, method,
    when and subset) shows as measured last.
    """
    kinds: dict[str, list[MetricRow]] = {"greedy": [], "sampled": [], "gain": [], "quality": [], "search": []}
    for row in rows:
        kinds[_kind(row)].append(row)
    sampled = kinds["sampled"]
    made = [
        _grid("Greedy decoding", kinds["greedy"], _when, lambda row: Column(row.metric, row.subset)),
        *(
            _grid(
                f"Sampled, {subset}",
                [row for row in sampled if row.subset == subset],
                _when,
                lambda row: Column(row.metric, row.method),
            )
            for subset in dict.fromkeys(row.subset for row in sampled)
        ),
        *(
            _grid(
                f"{SEARCH_TITLE}, {model}, {subset}",
                [row for row in kinds["search"] if (row.when, row.subset) == (model, subset)],
                lambda row: row.method,
                lambda row: Column(row.metric, ""),
            )
            for model, subset in dict.fromkeys((row.when, row.subset) for row in kinds["search"])
        ),
        _grid("Paired gains", kinds["gain"], _when, _gain_column),
        _grid("Reward models", kinds["quality"], _model_name, lambda row: Column(row.metric, "")),
    ]
    return [grid for grid in made if grid.lines]


def _kind(row: MetricRow) -> str:
    if row.metric == "accuracy" or row.metric in COST_METRICS:
        return "search"
    if row.metric in QUALITY_METRICS:
        return "quality"
    if is_gain(row):
        return "gain"
    return "greedy" if row.method == "greedy" else "sampled"


def _when(row: MetricRow) -> str:
    return row.when


def _gain_column(row: MetricRow) -> Column:
    return Column(row.metric.removesuffix(GAIN_SUFFIX), f"{row.method}, {row.subset}")


def _model_name(row: MetricRow) -> str:
    return f"{row.method}, {row.when}" + (f", {row.subset}" if row.subset != "all" else "")


def _grid(
    title: str,
    rows: Sequence[MetricRow],
    line_fn: Callable[[MetricRow], str],
    column_fn: Callable[[MetricRow], Column],
) -> Grid:
    return Grid(
        title=title,
        lines=list(dict.fromkeys(map(line_fn, rows))),
        columns=list(dict.fromkeys(map(column_fn, rows))),
        cells={(line_fn(row), column_fn(row)): row for row in rows},
    )


def rich_table(rows: Sequence[MetricRow], width: int = 120) -> Group:
    """The grids as rich tables, printable as one; a grid wider than `width` continues in further tables."""
    parts = [(grid, part) for grid in grids(rows) for part in _column_parts(grid, width)]
    return Group(
        *(x for grid, part in parts for x in (Text(heading(grid), style="bold"), _table(grid, part, width)))
    )


def unit(grid: Grid) -> str:
    """What the grid's numbers are."""
    if all(map(is_gain, grid.cells.values())):
        return "percentage points, 95 % interval"
    return "%, 95 % interval" if all(map(is_percent, grid.cells.values())) else "95 % interval"


def heading(grid: Grid) -> str:
    """The grid's title with its unit."""
    return f"{grid.title} ({unit(grid)})"


def _column_rows(grid: Grid, column: Column) -> list[MetricRow]:
    return [row for (_, where), row in grid.cells.items() if where == column]


def header(grid: Grid, column: Column) -> Column:
    """The column's header, with a % sign where the grid mixes shares with other scales."""
    mixed = not all(map(is_percent, grid.cells.values()))
    percent = mixed and all(map(is_percent, _column_rows(grid, column)))
    return Column(column.metric + " %" if percent else column.metric, column.detail)


def _cell_width(grid: Grid, column: Column) -> int:
    rows = _column_rows(grid, column)
    texts = (len(value_text(row)) + 1 + len(interval_text(row)) for row in rows)
    return max(*texts, *map(len, header(grid, column)))


def _column_parts(grid: Grid, width: int) -> list[list[Column]]:
    """Splits the columns so that each part fits, with 3 characters of padding and border per column."""
    room = width - _label_width(grid, width) - 5
    parts: list[list[Column]] = [[]]
    used = 0
    for column in grid.columns:
        needed = _cell_width(grid, column) + 3
        if parts[-1] and used + needed > room:
            parts.append([])
            used = 0
        parts[-1].append(column)
        used += needed
    return parts


def _label_width(grid: Grid, width: int) -> int:
    """Room for the lines' names: all of it, up to a third of the table, where longer ones go on in further lines."""
    return min(max(map(len, grid.lines)), width // 3)


def _table(grid: Grid, columns: Sequence[Column], width: int) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column(
        "", min_width=_label_width(grid, width), max_width=_label_width(grid, width), overflow="fold"
    )
    for column in columns:
        # Text, not markup: a subset named "[all]" must not be read as a style.
        table.add_column(Text("\n".join(filter(None, header(grid, column)))), justify="right", no_wrap=True)
    for line in grid.lines:
        cells = [grid.cells.get((line, column)) for column in columns]
        table.add_row(Text(line), *map(_rich_cell, cells))
    return table


def _rich_cell(row: MetricRow | None) -> Text:
    if row is None:
        return Text("")
    return Text.assemble((value_text(row), "bold"), " ", (interval_text(row), "dim"))
