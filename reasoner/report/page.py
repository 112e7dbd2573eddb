"""One HTML file that tells a run: results with intervals, reward models, training, cost, chains of thought.

The file is whole in itself: inline style and SVG, no script, nothing from the network. What a model wrote
is hostile: all text is escaped, and a content security policy forbids everything but the inline style.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasoner.report.charts import (
    Estimate,
    Panel,
    bar_chart,
    calibration_chart,
    curve_chart,
    interval_chart,
    interval_strip,
    safe,
    short_number,
)
from reasoner.report.frontier_chart import frontier_chart, method_curves
from reasoner.report.history import calibrations, curves_by_stage, number, spikes
from reasoner.report.rows import (
    SEARCH_TITLE,
    Column,
    Grid,
    MetricRow,
    grids,
    header,
    heading,
    interval_text,
    is_percent,
    unit,
    value_text,
)
from reasoner.report.style import CSS

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
SECONDS = "seconds"
MAX_CHARS = 4000
MAX_STEPS = 60
MAX_PANELS = 3
DENSE_COLUMNS = 5
# A tile sums a counter of the ledger over stages and models.
COST_TILES = {
    "decoded": "tokens generated",
    "scored": "tokens scored",
    "trained": "tokens trained",
    "trajectories_generated": "trajectories generated",
    "trajectories_kept": "trajectories kept",
}


def write_report(
    path: str | Path,
    title: str,
    rows: Sequence[MetricRow],
    ledger: Mapping[str, Any],
    config_yaml: str,
    history: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]],
) -> None:
    """Writes the report to `path`, atomically.

    `ledger` is {stage: {model: {counter: number}}} and {"seconds": {stage: number}}. `history` holds the
    dicts of metrics.jsonl (report.history tells what is drawn, calibration included). `samples` are
    {"prompt", "steps": [{"text", "right", "prm"}], "correct"}; "right" and "correct" are True, False or None
    (not known), "prm" is a number or None. What is empty leaves its section out.
    """
    parts = sections(rows, ledger, config_yaml, history, samples)
    page = _page(title, tiles(rows, ledger), parts)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)


def sections(
    rows: Sequence[MetricRow],
    ledger: Mapping[str, Any],
    config_yaml: str,
    history: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]],
) -> list[tuple[str, str, str]]:
    """The parts of the page that have something to show: (anchor, name, HTML), by what `write_report` is given."""
    made = grids(rows)
    parts = [
        ("results", "Greedy decoding", _greedy(made)),
        ("sampled", "Sampling and votes", _tables(made, "Sampled", by_stage=True)),
        ("methods", "Test-time compute", _test_time(rows, made)),
        ("gains", "Gains on the same problems", _tables(made, "Paired")),
        ("rewards", "Reward models", _reward_models(made, history)),
        ("training", "Training", _training(history)),
        ("spikes", "Spikes", "".join(f"<p>{safe(line)}</p>" for line in spikes(history))),
        ("cost", "Cost", _cost(ledger)),
        ("samples", "Chains of thought", _samples(samples)),
        ("config", "Config", f"<pre>{safe(config_yaml)}</pre>" if config_yaml.strip() else ""),
    ]
    return [part for part in parts if part[2]]


def _page(title: str, top: str, parts: Sequence[tuple[str, str, str]]) -> str:
    links = "".join(f'<a href="#{anchor}">{safe(name)}</a>' for anchor, name, _ in parts)
    body = "".join(
        f'<section id="{anchor}"><h2>{safe(name)}</h2>{content}</section>' for anchor, name, content in parts
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{safe(title)}</title><style>{CSS}</style></head><body><main>"
        f"<h1>{safe(title)}</h1>"
        "<p>Intervals are 95 %: Wilson for proportions of problems, bootstrap over problems for the rest.</p>"
        f"<nav>{links}</nav>{top}{body}</main></body></html>\n"
    )


def _tile(value: str, label: str) -> str:
    return f'<div class="tile"><b>{safe(value)}</b><span>{safe(label)}</span></div>'


def tiles(rows: Sequence[MetricRow], ledger: Mapping[str, Any]) -> str:
    """What the run reached (first and last policy of each greedy column), and what it took."""
    made = grids(rows)
    reached = "".join(
        _reached_tile(grid, column)
        for grid in made
        if grid.title == "Greedy decoding"
        for column in grid.columns[:MAX_PANELS]
    )
    took = "".join(_cost_tiles(ledger))
    return (f'<div class="tiles lead">{reached}</div>' if reached else "") + (
        f'<div class="tiles">{took}</div>' if took else ""
    )


def _reached_tile(grid: Grid, column: Column) -> str:
    measured = [row for line in grid.lines if (row := grid.cells.get((line, column)))]
    ends = measured if len(measured) == 1 else [measured[0], measured[-1]]
    value = " → ".join(map(value_text, ends)) + (" %" if is_percent(ends[-1]) else "")
    return _tile(value, f"{column.metric}, {column.detail}, {' → '.join(row.when for row in ends)}")


def _cost_tiles(ledger: Mapping[str, Any]) -> list[str]:
    tiles = []
    seconds = sum(x for x in map(number, ledger.get(SECONDS, {}).values()) if math.isfinite(x))
    if seconds:
        tiles.append(_tile(_duration(seconds), "all stages"))
    for counter, label in COST_TILES.items():
        counted = [
            number(counters[counter])
            for stage, models in ledger.items()
            if stage != SECONDS
            for counters in models.values()
            if counter in counters
        ]
        if counted:
            tiles.append(_tile(short_number(sum(counted)), label))
    return tiles


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole:02d} s"


def _cell(row: MetricRow | None, by_stage: bool) -> str:
    if row is None:
        return "<td></td>"
    strip = ""
    if by_stage and is_percent(row) and interval_text(row):
        strip = interval_strip(row.value, row.low, row.high)
    text = f"<b>{safe(value_text(row))}</b><i>{safe(interval_text(row))}</i>"
    return f'<td title="n = {row.n}, stage {safe(row.stage)}">{text}{strip}</td>'


def _column_head(column: Column) -> str:
    detail = f"<small>{safe(column.detail)}</small>" if column.detail else ""
    return f"<th>{safe(column.metric)}{detail}</th>"


def _table(grid: Grid, by_stage: bool) -> str:
    """The grid as a table; where lines are stages of the policy, the last is marked."""
    heads = "".join(_column_head(header(grid, column)) for column in grid.columns)
    lines = []
    for line in grid.lines:
        cells = "".join(_cell(grid.cells.get((line, column)), by_stage) for column in grid.columns)
        mark = ' class="last"' if by_stage and line == grid.lines[-1] else ""
        lines.append(f"<tr{mark}><th>{safe(line)}</th>{cells}</tr>")
    dense = ' class="dense"' if len(grid.columns) > DENSE_COLUMNS else ""
    return (
        f'<div class="scroll"><table{dense}><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _tables(made: Sequence[Grid], title_start: str, by_stage: bool = False) -> str:
    """The tables whose title starts so; several get headings, one stands under its section's."""
    chosen = [grid for grid in made if grid.title.startswith(title_start)]
    if len(chosen) == 1:
        return f'<p class="note">{safe(unit(chosen[0]))}</p>' + _table(chosen[0], by_stage)
    return "".join(f"<h3>{safe(heading(grid))}</h3>{_table(grid, by_stage)}" for grid in chosen)


def _test_time(rows: Sequence[MetricRow], made: Sequence[Grid]) -> str:
    """Accuracy over tokens for all methods, a picture for each policy and subset, then the numbers."""
    note = (
        '<p class="note">Tokens per problem: prefilled and decoded ones, and those that reward models read; prefixes '
        "taken from the cache are counted apart (reused). “(tree)”: chosen among leaves that share prefixes.</p>"
    )
    charts = "".join(
        f'<h3>{safe(title)}</h3><figure class="scroll">{frontier_chart(curves)}</figure>'
        for title, curves in method_curves(rows).items()
    )
    return note + charts + _tables(made, SEARCH_TITLE) if charts else ""


def _greedy(made: Sequence[Grid]) -> str:
    """Chart, then table. Metrics that are not shares (lengths, step counts) stay in the table."""
    charts = []
    for grid in made:
        if grid.title != "Greedy decoding":
            continue
        columns = [c for c in grid.columns if _is_drawn(_column(grid, c))]
        for start in range(0, len(columns), MAX_PANELS):
            panels = [_panel(grid, column) for column in columns[start : start + MAX_PANELS]]
            charts.append(f'<figure class="scroll">{interval_chart(panels)}</figure>')
    return "".join(charts) + _tables(made, "Greedy", by_stage=True)


def _is_drawn(rows: Sequence[MetricRow]) -> bool:
    return all(map(is_percent, rows)) and any(math.isfinite(row.value) for row in rows)


def _column(grid: Grid, column: Column) -> list[MetricRow]:
    return [row for (_, where), row in grid.cells.items() if where == column]


def _panel(grid: Grid, column: Column) -> Panel:
    estimates = []
    for line in grid.lines:
        row = grid.cells.get((line, column))
        ends = (row.value, row.low, row.high) if row else (math.nan,) * 3
        estimates.append(Estimate(line, *(100 * x for x in ends)))
    return Panel(f"{column.metric}, {column.detail}", estimates)


def _reward_models(made: Sequence[Grid], history: Sequence[Mapping[str, Any]]) -> str:
    charts = [calibration_chart(name, points) for name, points in calibrations(history).items()]
    drawn = f'<div class="multiples">{"".join(charts)}</div>' if charts else ""
    return _tables(made, "Reward") + drawn


def _training(history: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for stage, curves in curves_by_stage(history).items():
        charts = "".join(map(curve_chart, curves))
        parts.append(f'<h3>{safe(stage)}</h3><div class="multiples">{charts}</div>')
    return "".join(parts)


def _cost(ledger: Mapping[str, Any]) -> str:
    """Seconds per stage as bars, and every counter by stage and model."""
    seconds = {stage: number(x) for stage, x in ledger.get(SECONDS, {}).items()}
    bars = [(stage, x, _duration(x)) for stage, x in seconds.items() if math.isfinite(x)]
    chart = f'<h3>Time per stage</h3><figure class="scroll">{bar_chart(bars)}</figure>' if bars else ""
    lines = [
        (stage, model, counters)
        for stage, models in ledger.items()
        if stage != SECONDS
        for model, counters in models.items()
    ]
    counters_seen = list(dict.fromkeys(counter for *_, counters in lines for counter in counters))
    if not counters_seen:
        return chart
    heads = "".join(f"<th>{safe(counter.replace('_', ' '))}</th>" for counter in counters_seen)
    body = ""
    for stage, model, counters in lines:
        cells = (short_number(number(counters[c])) if c in counters else "" for c in counters_seen)
        body += (
            f"<tr><th>{safe(stage)}, {safe(model)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        )
    table = f"<thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody>"
    title = "<h3>Counters by stage and model</h3>"
    return f'{chart}{title}<div class="scroll"><table class="counters">{table}</table></div>'


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    if not samples:
        return ""
    note = (
        '<p class="note">Each step as checked: ✓ right, ✗ wrong, · not checked. '
        "At its end the reward model's score.</p>"
    )
    return note + "".join(map(_sample, samples))


_MARKS = {True: ("right", "✓"), False: ("wrong", "✗"), None: ("open", "·")}


def _sample(sample: Mapping[str, Any]) -> str:
    css_class, mark = _MARKS[sample.get("correct")]
    verdict = {True: "correct", False: "incorrect", None: "not checked"}[sample.get("correct")]
    steps = list(sample.get("steps", ()))
    items = "".join(map(_step, steps[:MAX_STEPS]))
    left_out = len(steps) - MAX_STEPS
    more = f'<p class="note">… and {left_out} more steps</p>' if left_out > 0 else ""
    prompt = f'<div class="prompt" dir="auto">{_clipped(sample.get("prompt", ""))}</div>'
    badge = f'<span class="verdict {css_class}">{mark} {verdict}</span>'
    return f'<div class="sample"><header>{prompt}{badge}</header><ol>{items}</ol>{more}</div>'


def _step(step: Mapping[str, Any]) -> str:
    css_class, mark = _MARKS[step.get("right")]
    score = number(step.get("prm"))
    shown = f"{score:.2f}" if math.isfinite(score) else ""
    text = f'<span class="text" dir="auto">{_clipped(step.get("text", ""))}</span>'
    mark = f'<span class="mark">{mark}</span>'
    return f'<li class="{css_class}">{mark}{text}<span class="prm">{shown}</span></li>'


def _clipped(text: str) -> str:
    left_out = len(text) - MAX_CHARS
    return safe(text[:MAX_CHARS]) + (f" … ({left_out} more characters)" if left_out > 0 else "")
