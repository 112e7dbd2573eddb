"""Inline SVG charts as strings: intervals, curves, calibration, bars. Colours are the page's CSS classes."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from reasoner.metrics.reward_quality import CalibrationPoint

# Nothing invisible may act on the page: control characters, bidirectional overrides, lone surrogates.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
MAX_POINTS = 240
MAX_LABEL = 40  # characters beside a chart
COLOURS = 6  # of runs over each other, then again from the first


class Estimate(NamedTuple):
    """A labelled value with its interval; all in the units of the axis."""

    label: str
    value: float
    low: float
    high: float


class Panel(NamedTuple):
    """One field of an interval chart; every panel has the same labels in the same order."""

    title: str
    estimates: list[Estimate]


class Curve(NamedTuple):
    """A quantity over training steps; `values[i]` was logged at `steps[i]`."""

    name: str
    steps: list[float]
    values: list[float]


def spelled(text: object) -> str:
    """Text with what is invisible spelled out, as \\u202e."""
    return _UNSEEN.sub(lambda match: f"\\u{ord(match.group()):04x}", str(text))


def safe(text: object) -> str:
    """Escapes text for HTML and SVG; what is invisible is spelled out."""
    return html.escape(spelled(text))


def short_number(x: float) -> str:
    """Three significant digits with k, M, G, T: 12 345 678 is 12.3M."""
    if not math.isfinite(x):
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= size * 0.9995:
            return f"{x / size:.3g}{unit}"
    # From 0.001 up plain digits; below that 3 digits with an exponent.
    return f"{x:.3g}"


def nice_ticks(low: float, high: float, num_ticks: int = 4) -> list[float]:
    """About `num_ticks` round numbers (1, 2 or 5 times a power of ten) that span [low, high]."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / num_ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def svg(width: float, height: float, label: str, body: Sequence[str], css_class: str = "") -> str:
    return (
        f'<svg class="{css_class}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{safe(label)}">'
        + "".join(body)
        + "</svg>"
    )


def draw_text(
    x: float, y: float, text: object, css_class: str, anchor: str = "start", most: int | None = None
) -> str:
    """A line of text; of more than `most` characters both ends, since names differ at either, and the whole as a tooltip."""
    shown = whole = str(text)
    if most is not None and len(whole) > most:
        shown = f"{whole[: most // 2]}…{whole[len(whole) - (most - 1 - most // 2) :]}"
    tip = f"<title>{safe(whole)}</title>" if shown != whole else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{css_class}" text-anchor="{anchor}">{safe(shown)}{tip}</text>'
    )


def draw_line(x1: float, y1: float, x2: float, y2: float, css_class: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css_class}"/>'


def interval_chart(panels: Sequence[Panel], unit: str = "%") -> str:
    """Dots with whiskers, one line per label and one field per panel, all on one scale from 0.

    The last label (the policy that the run ends with) is drawn in the accent colour.
    """
    finite = [
        x for panel in panels for e in panel.estimates for x in (e.value, e.low, e.high) if math.isfinite(x)
    ]
    ticks = nice_ticks(min([0.0, *finite]), max([*finite, 1e-9]), 4)
    labels = [estimate.label for estimate in panels[0].estimates]
    left, row, top, gap = 20 + 7.4 * min(max(map(len, labels)), MAX_LABEL), 34, 34, 44
    panel_width = (920 - left - gap * (len(panels) - 1)) / len(panels)
    height = top + row * len(labels) + 26
    body = [
        draw_text(left - 14, top + row * (i + 0.5) + 4, label, "label", "end", MAX_LABEL)
        for i, label in enumerate(labels)
    ]
    for i, panel in enumerate(panels):
        body += _interval_panel(
            panel, ticks, left + i * (panel_width + gap), panel_width - 30, top, row, unit
        )
    return svg(920, height, "values with 95 % intervals", body, "wide")


def _interval_panel(
    panel: Panel, ticks: list[float], x0: float, width: float, top: float, row: float, unit: str
) -> list[str]:
    def x_of(value: float) -> float:
        return x0 + (value - ticks[0]) / (ticks[-1] - ticks[0]) * width

    bottom = top + row * len(panel.estimates)
    body = [draw_text(x0, top - 14, panel.title, "title", most=int(width / 6.5))]
    for tick in ticks:
        body.append(draw_line(x_of(tick), top, x_of(tick), bottom, "grid"))
        mark = unit if tick == ticks[-1] else ""
        body.append(draw_text(x_of(tick), bottom + 17, f"{tick:g}{mark}", "tick", "middle"))
    for i, estimate in enumerate(panel.estimates):
        if not math.isfinite(estimate.value):
            continue
        y, last = top + row * (i + 0.5), " last" if i == len(panel.estimates) - 1 else ""
        end = estimate.value
        if math.isfinite(estimate.low) and math.isfinite(estimate.high):
            low, high, end = x_of(estimate.low), x_of(estimate.high), estimate.high
            body.append(draw_line(low, y, high, y, "whisker" + last))
            body += [draw_line(x, y - 5, x, y + 5, "whisker" + last) for x in (low, high)]
        body.append(f'<circle cx="{x_of(estimate.value):.1f}" cy="{y:.1f}" r="5" class="dot{last}"/>')
        body.append(draw_text(x_of(end) + 8, y + 4, f"{estimate.value:.1f}", "value" + last))
    return body


def interval_strip(value: float, low: float, high: float) -> str:
    """A thin 0-to-1 scale with the interval and the value on it, for a table cell."""
    value, low, high = (min(max(x, 0.0), 1.0) * 96 for x in (value, low, high))
    return svg(
        100,
        8,
        "interval",
        [
            draw_line(2, 4, 98, 4, "track"),
            draw_line(low + 2, 4, max(high, low + 1) + 2, 4, "span"),
            draw_line(value + 2, 1, value + 2, 7, "point"),
        ],
        "strip",
    )


def _thin(curve: Curve) -> Curve:
    """Means of neighbouring points, so that a long run does not become megabytes of SVG."""
    size = math.ceil(len(curve.values) / MAX_POINTS)
    chunks = range(0, len(curve.values), size)
    return Curve(
        curve.name,
        [sum(curve.steps[i : i + size]) / len(curve.steps[i : i + size]) for i in chunks],
        [sum(curve.values[i : i + size]) / len(curve.values[i : i + size]) for i in chunks],
    )


def _smooth(values: Sequence[float]) -> list[float]:
    """Centred mean over about a tenth of the run, which does not lag behind a trend.

    At the ends the window is cut on one side only, so that no single last value decides where the line ends.
    """
    reach = len(values) // 20
    windows = (values[max(i - reach, 0) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def curve_chart(curve: Curve) -> str:
    """A small line chart: what was logged, and from 30 points on a moving average in front of it.

    The number in the corner is where the front line ends.
    """
    return curves_chart(curve.name, {0: curve})


def curves_chart(name: str, curves: Mapping[int, Curve]) -> str:
    """As curve_chart, of several runs over each other; the number of a run chooses its colour (class run0, run1, …).

    The corner tells where the last run's line ends.
    """
    width, height, right, top, bottom = 300.0, 168.0, 288.0, 32.0, 144.0
    thin = {run: _thin(curve) for run, curve in curves.items()}
    values = [value for curve in thin.values() for value in curve.values]
    steps = [step for curve in thin.values() for step in curve.steps]
    ticks = nice_ticks(min(values), max(values), 3)
    marks = [short_number(tick) for tick in ticks]
    if len(set(marks)) < len(marks):  # a narrow range takes more digits
        marks = [f"{tick:.6g}" for tick in ticks]
    left = max(46.0, 10 + 6.6 * max(map(len, marks)))
    start, stop = min(steps), max(steps)

    def points(curve: Curve, values: Sequence[float]) -> str:
        xs = [left + (step - start) / ((stop - start) or 1.0) * (right - left) for step in curve.steps]
        ys = [bottom - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - top) for value in values]
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))

    body = [draw_text(2, 14, name, "title", most=30)]
    for tick, mark in zip(ticks, marks, strict=True):
        y = bottom - (tick - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - top)
        body.append(draw_line(left, y, right, y, "grid"))
        body.append(draw_text(left - 6, y + 4, mark, "tick", "end"))
    body.append(draw_text(left, bottom + 18, f"step {short_number(start)}", "tick"))
    body.append(draw_text(right, bottom + 18, short_number(stop), "tick", "end"))
    for run, curve in thin.items():
        front, colour = curve.values, f"run{run % COLOURS}"
        if len(curve.values) >= 30:
            front = _smooth(curve.values)
            body.append(f'<polyline points="{points(curve, curve.values)}" class="curve raw {colour}"/>')
        body.append(f'<polyline points="{points(curve, front)}" class="curve {colour}"/>')
        if run == max(thin):
            body.insert(1, draw_text(right, 14, short_number(front[-1]), "value", "end"))
    return svg(width, height, name, body, "small")


def calibration_chart(name: str, points: Sequence[CalibrationPoint]) -> str:
    """Reliability diagram: share of positives over mean predicted probability, diagonal = calibrated."""
    size, left, top = 214.0, 52.0, 32.0

    def x_of(p: float) -> float:
        return left + min(max(p, 0.0), 1.0) * size

    def y_of(p: float) -> float:
        return top + (1 - min(max(p, 0.0), 1.0)) * size

    body = [draw_text(2, 14, name, "title", most=34)]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        body += [draw_line(left, y_of(tick), left + size, y_of(tick), "grid")]
        body += [draw_text(left - 8, y_of(tick) + 4, f"{tick:g}", "tick", "end")]
        body += [draw_text(x_of(tick), top + size + 17, f"{tick:g}", "tick", "middle")]
    body.append(draw_line(x_of(0), y_of(0), x_of(1), y_of(1), "diagonal"))
    largest = max(point.n for point in points)
    for p in points:
        body.append(
            draw_line(x_of(p.confidence), y_of(p.low), x_of(p.confidence), y_of(p.high), "whisker last")
        )
        radius = 2.5 + 3.0 * math.sqrt(p.n / largest)
        x, y = x_of(p.confidence), y_of(p.accuracy)
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="dot last"/>')
    body.append(draw_text(left + size / 2, top + size + 34, "predicted probability", "tick", "middle"))
    upright = draw_text(0, 0, "share correct", "tick", "middle")
    body.append(f'<g transform="translate(14 {top + size / 2:g}) rotate(-90)">{upright}</g>')
    return svg(290, top + size + 42, f"calibration of {name}", body, "small")


def bar_chart(bars: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars of (label, value, text), for amounts that start at 0."""
    longest = max((len(label) for label, _, _ in bars), default=0)
    left, row, width = max(190.0, 20 + 7.4 * min(longest, MAX_LABEL)), 28.0, 920.0
    largest = max((value for _, value, _ in bars), default=0.0) or 1.0
    body = []
    for i, (label, value, text) in enumerate(bars):
        y, length = row * i + 5, max(value, 0.0) / largest * (width - left - 110)
        body.append(draw_text(left - 14, y + 14, label, "label", "end", MAX_LABEL))
        body.append(f'<rect x="{left}" y="{y}" width="{max(length, 1):.1f}" height="18" rx="2" class="bar"/>')
        body.append(draw_text(left + max(length, 1) + 8, y + 14, text, "value"))
    return svg(width, row * len(bars) + 4, "amounts", body, "wide")
