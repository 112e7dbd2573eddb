"""Charts are well-formed XML whatever they are given, and their scales are round."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from reasoner.metrics.reward_quality import CalibrationPoint
from reasoner.report.charts import (
    Curve,
    Estimate,
    Panel,
    bar_chart,
    calibration_chart,
    curve_chart,
    interval_chart,
    interval_strip,
    nice_ticks,
    safe,
    short_number,
)

HOSTILE = '<script>alert("1")</script>&\'\u202e\x00\ud800'


@pytest.mark.parametrize(
    ("x", "text"),
    [(0, "0"), (12_345_678, "12.3M"), (999_900, "1M"), (0.12345, "0.123"), (-2500, "-2.5k"), (math.nan, "–")],
)
def test_short_number(x, text):
    assert short_number(x) == text


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.013, 0.97), (-3, 7), (5, 5), (0, 0), (1e-7, 3e-7), (1e9, 1e9)]
)
def test_nice_ticks_span_the_range(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 7


def test_nice_ticks_are_round():
    assert nice_ticks(0, 76.6) == [0, 20, 40, 60, 80]


def test_safe_escapes_and_spells_out_the_invisible():
    assert safe("a<b & \u202e") == "a&lt;b &amp; \\u202e"
    assert safe("line\n\ttab") == "line\n\ttab"
    safe(HOSTILE).encode("utf-8")


@pytest.mark.parametrize(
    "svg",
    [
        interval_chart([Panel(HOSTILE, [Estimate(HOSTILE, 5.0, 1.0, 9.0), Estimate("b", *[math.nan] * 3)])]),
        interval_chart([Panel("x", [Estimate("a", -5.0, -9.0, math.nan)])]),
        interval_strip(0.5, 0.4, 0.6),
        curve_chart(Curve(HOSTILE, [0.0, 1.0], [1.0, 1.0])),
        curve_chart(Curve("long", list(map(float, range(5000))), [math.sin(i / 100) for i in range(5000)])),
        calibration_chart(HOSTILE, [CalibrationPoint(0.2, 0.1, 0.0, 0.4, 10)]),
        bar_chart([(HOSTILE, 3.0, HOSTILE), ("zero", 0.0, "0 s")]),
    ],
)
def test_charts_are_well_formed_and_finite(svg):
    ElementTree.fromstring(svg)
    assert "nan" not in svg
    assert "<script" not in svg
    assert len(svg) < 30_000


def test_long_labels_keep_both_ends_and_are_whole_as_tooltips():
    names = [f"a-model-with-a-very-long-name-that-goes-on/seed-{i}" for i in (1, 2)]
    drawings = (
        interval_chart([Panel("p", [Estimate(name, 1.0, 0.5, 2.0) for name in names])]),
        bar_chart([(name, 1.0, "1 s") for name in names]),
    )
    for drawing in drawings:
        svg = ElementTree.fromstring(drawing)
        labels = [text for text in svg.iter() if text.tag.endswith("text") and text.get("class") == "label"]
        assert [len(text.text) for text in labels] == [40, 40]
        assert [text.text[-7:] for text in labels] == ["/seed-1", "/seed-2"]
        assert [text[0].text for text in labels] == names
        # 7.4 units a character: what stands left of the chart has room
        assert all(float(text.get("x")) >= 7.4 * 40 - 1 for text in labels)


@pytest.mark.parametrize(
    "values", [[16.41, 16.61], [0.009761, 0.009818], [6.2e-14, 6.5e-14], [-1e-8, 2e-8], [0, 0]]
)
def test_marks_of_a_curve_differ_and_have_room(values):
    svg = ElementTree.fromstring(curve_chart(Curve("x", [1.0, 2.0], values)))
    marks = [t for t in svg.iter() if t.get("class") == "tick" and t.get("text-anchor") == "end"][:-1]
    assert len({t.text for t in marks}) == len(marks) > 2
    assert all(float(t.get("x")) >= 6.2 * len(t.text) for t in marks)
