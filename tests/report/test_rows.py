"""Rows carry honest intervals, survive JSON, and fit a terminal of 120 columns."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from reasoner.metrics.intervals import paired_difference, wilson
from reasoner.metrics.reward_quality import auroc
from reasoner.report.rows import (
    Column,
    MetricRow,
    from_json,
    gain_row,
    grids,
    interval_text,
    mean_row,
    proportion_row,
    rich_table,
    statistic_row,
    to_json,
    value_text,
)

PLACE = ("evaluate", "pass@1", "greedy", "sft", "short")


def printed(rows, width=120):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(rich_table(rows, width))
    return console.export_text()


def test_proportion_row_has_the_wilson_interval():
    row = proportion_row(*PLACE, correct=5, n=10)
    assert (row.value, row.n) == (0.5, 10)
    assert (row.low, row.high) == wilson(5, 10)
    assert math.isnan(proportion_row(*PLACE, correct=0, n=0).value)


def test_mean_row_of_ones_does_not_claim_certainty():
    row = mean_row(*PLACE, values=[1.0] * 20)
    assert row.value == 1.0
    assert row.low < 0.9


def test_mean_row_of_fractions_is_bootstrapped():
    values = np.random.default_rng(0).uniform(size=200)
    row = mean_row(*PLACE, values=values)
    assert row.value == pytest.approx(values.mean())
    assert row.low < row.value < row.high
    assert row == mean_row(*PLACE, values=values)


def test_statistic_row_of_pairs():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 100)
    pairs = np.stack([labels + rng.normal(size=100), labels], axis=1)
    row = statistic_row(
        "prm", "auroc", "prm", "sft", "all", pairs, lambda rows: auroc(rows[:, 0], rows[:, 1])
    )
    assert row.low < row.value < row.high <= 1
    assert value_text(row).startswith("0.")


def test_json_round_trip_with_nan_as_null():
    rows = [proportion_row(*PLACE, correct=5, n=10), MetricRow(*PLACE, 0.5, math.nan, math.nan, 3)]
    text = to_json(rows)
    assert json.loads(text)[1]["low"] is None
    back = from_json(text)
    assert back[0] == rows[0]
    assert math.isnan(back[1].low)
    with pytest.raises(ValueError, match="row 0 has fields"):
        from_json('[{"stage": "x"}]')


def test_texts():
    assert value_text(MetricRow(*PLACE, 0.4123, 0.369, 0.456, 9)) == "41.2"
    assert interval_text(MetricRow(*PLACE, 0.4123, 0.369, 0.456, 9)) == "36.9–45.6"
    assert interval_text(MetricRow(*PLACE, 0.4123, math.nan, math.nan, 9)) == ""
    assert value_text(MetricRow(*PLACE, math.nan, 0.0, 1.0, 0)) == "–"
    steps = MetricRow("evaluate", "num_steps", "sampled", "sft", "short", 37.25, 36.0, 38.0, 9)
    assert value_text(steps) == "37.2"
    gain = gain_row("evaluate", "pass@1", "greedy", "ppo", "sft", "short", paired_difference([1, 0], [0, 0]))
    assert (gain.metric, gain.when, gain.n, value_text(gain)) == ("pass@1_gain", "ppo over sft", 2, "+50.0")
    assert interval_text(MetricRow("e", "pass@1_gain", "greedy", "a over b", "all", 0.0, -0.1, 0.1, 9)) == (
        "-10.0 to 10.0"
    )


def test_grids_by_kind_and_the_last_measurement_wins():
    rows = [
        MetricRow("e1", "pass@1", "greedy", "base", "short", 0.1, 0.0, 0.2, 9),
        MetricRow("e2", "pass@1", "greedy", "base", "short", 0.2, 0.1, 0.3, 9),
        MetricRow("e2", "pass@1", "greedy", "ppo", "longer", 0.3, 0.1, 0.5, 9),
        MetricRow("e2", "maj@8", "majority", "ppo", "short", 0.4, 0.1, 0.5, 9),
        MetricRow("e2", "auroc", "prm", "sft", "all", 0.8, 0.7, 0.9, 9),
    ]
    greedy, sampled, quality = grids(rows)
    assert greedy.lines == ["base", "ppo"]
    assert greedy.columns == [Column("pass@1", "short"), Column("pass@1", "longer")]
    assert greedy.cells["base", Column("pass@1", "short")].value == 0.2
    assert ("base", Column("pass@1", "longer")) not in greedy.cells
    assert sampled.title == "Sampled, short"
    assert quality.lines == ["prm, sft"]
    assert grids([]) == []


@pytest.mark.parametrize("width", [80, 120])
def test_rich_table_shows_every_name_and_number_within_its_width(width):
    rows = [
        MetricRow("e", f"pass@{k}", method, when, subset, k / 100 + i / 1000, 0.0, 1.0, 9)
        for k in (1, 8, 64)
        for i, method in enumerate(("sampled", "prm", "orm", "majority"))
        for when in ("base", "sft_continued", "ppo")
        for subset in ("short", "longer")
    ]
    text = printed(rows, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert all(value_text(row) in text for row in rows)
    tables = text.split("interval)\n")[1:]  # behind each heading one
    assert len(tables) > 2 and all("  sft_continued  " in table for table in tables)


def test_a_long_name_of_a_line_is_folded_and_whole():
    name = "runs/some-long-folder/models/ppo-with-many-rounds/model-of-the-second-seed"
    text = printed([MetricRow("e", "pass@1", "greedy", name, "all", 0.1, 0.0, 0.2, 9)], 80)
    assert max(map(len, text.splitlines())) <= 80
    assert name in "".join(line[:29].strip() for line in text.splitlines())


def test_rich_table_reads_no_markup_from_names():
    assert "[red]x" in printed([MetricRow("e", "pass@1", "greedy", "[red]x", "[/]", 0.1, 0.0, 0.2, 9)])
