"""Accuracy over tokens for all test-time methods in one picture, with intervals and the frontier marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from reasoner.report.charts import draw_line, draw_text, nice_ticks, safe, short_number, svg
from reasoner.report.rows import MetricRow

# Tell-apart hues that read on light and on dark ground; past them the dashes change.
_HUES = ("#2f6fde", "#d2642d", "#2f9e6e", "#a453c9", "#c2a21d", "#d1457f", "#2aa6bd", "#8a6d5b")
_DASHES = ("", "6 3", "2 3")


class MethodPoint(NamedTuple):
    """Accuracy with its interval (shares) at some tokens per problem."""

    tokens: float
    value: float
    low: float
    high: float


class MethodCurve(NamedTuple):
    """A method at several budgets, cheapest first."""

    method: str
    points: list[MethodPoint]


def method_curves(rows: Sequence[MetricRow]) -> dict[str, list[MethodCurve]]:
    """Curves by "policy, subset" out of the rows `accuracy` and `tokens`; budgets of a method (its @k) make one curve."""
    tokens = {(r.when, r.subset, r.method): r.value for r in rows if r.metric == "tokens"}
    found: dict[str, dict[str, list[MethodPoint]]] = {}
    for row in rows:
        key = (row.when, row.subset, row.method)
        if row.metric != "accuracy" or key not in tokens:
            continue
        at = tokens[key]
        name = _without_budget(row.method)
        curves = found.setdefault(f"{row.when}, {row.subset}", {})
        curves.setdefault(name, []).append(MethodPoint(at, row.value, row.low, row.high))
    return {
        title: [MethodCurve(name, sorted(points)) for name, points in curves.items()]
        for title, curves in found.items()
    }


def _without_budget(method: str) -> str:
    name, _, rest = method.partition(" @")
    return name + rest.lstrip("0123456789")


def frontier_of(curves: Sequence[MethodCurve]) -> list[MethodPoint]:
    """The points that no other one beats with as few tokens, cheapest first."""
    best: list[MethodPoint] = []
    for point in sorted((p for c in curves for p in c.points), key=lambda p: (p.tokens, -p.value)):
        if not best or point.value > best[-1].value:
            best.append(point)
    return best


def frontier_chart(curves: Sequence[MethodCurve]) -> str:
    """Tokens on a log scale; whiskers are 95 % intervals, rings and the dashed line mark the frontier."""
    points = [p for c in curves for p in c.points]
    left, right, top, row = 56.0, 620.0, 20.0, 18.0
    bottom = max(380.0, top + row * len(curves) + 20)
    low, high = (f(math.log10(max(p.tokens, 1.0)) for p in points) for f in (min, max))
    low, high = low - 0.05, max(high, low + 0.1) + 0.05
    ends = [x for p in points for x in (p.value, p.low, p.high) if math.isfinite(x)]
    ticks = nice_ticks(100 * min(ends), 100 * max(ends), 5)

    def x_of(tokens: float) -> float:
        return left + (math.log10(max(tokens, 1.0)) - low) / (high - low) * (right - left)

    def y_of(share: float) -> float:
        return bottom - (100 * share - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - top)

    body: list[str] = []
    for tick in ticks:
        body.append(draw_line(left, y_of(tick / 100), right, y_of(tick / 100), "grid"))
        body.append(draw_text(left - 8, y_of(tick / 100) + 4, f"{tick:g}%", "tick", "end"))
    for power in range(math.floor(low), math.ceil(high) + 1):
        for digit in (1, 2, 5):
            tokens = digit * 10.0**power
            if low <= math.log10(tokens) <= high:
                body.append(draw_line(x_of(tokens), top, x_of(tokens), bottom, "grid"))
                body.append(draw_text(x_of(tokens), bottom + 17, short_number(tokens), "tick", "middle"))
    body.append(draw_text((left + right) / 2, bottom + 36, "tokens per problem", "tick", "middle"))
    best = frontier_of(curves)
    steps = " ".join(
        f"{x_of(p.tokens):.1f},{y_of(before.value):.1f} {x_of(p.tokens):.1f},{y_of(p.value):.1f}"
        for before, p in zip([best[0], *best], best, strict=False)
    )
    body.append(f'<polyline points="{steps}" class="front"/>')
    for i, curve in enumerate(curves):
        body += _curve(curve, i, x_of, y_of)
        y = top + row * i + 6
        body.append(f'<line x1="{right + 18}" y1="{y}" x2="{right + 42}" y2="{y}" {_stroke(i)}/>')
        body.append(draw_text(right + 50, y + 4, curve.method, "value", most=34))
    for p in best:
        body.append(f'<circle cx="{x_of(p.tokens):.1f}" cy="{y_of(p.value):.1f}" r="7" class="ring"/>')
    return svg(920, bottom + 44, "accuracy over tokens per problem", body, "wide")


def _stroke(i: int) -> str:
    dash = _DASHES[i // len(_HUES) % len(_DASHES)]
    return f'class="method" stroke="{_HUES[i % len(_HUES)]}"' + (
        f' stroke-dasharray="{dash}"' if dash else ""
    )


def _curve(curve: MethodCurve, i: int, x_of, y_of) -> list[str]:
    hue = _HUES[i % len(_HUES)]
    line = " ".join(f"{x_of(p.tokens):.1f},{y_of(p.value):.1f}" for p in curve.points)
    body = [f'<polyline points="{line}" {_stroke(i)}/>'] if len(curve.points) > 1 else []
    for p in curve.points:
        x, y = x_of(p.tokens), y_of(p.value)
        if math.isfinite(p.low) and math.isfinite(p.high):
            ends = f'x1="{x:.1f}" y1="{y_of(p.low):.1f}" x2="{x:.1f}" y2="{y_of(p.high):.1f}"'
            body.append(f'<line {ends} stroke="{hue}" stroke-width="1" opacity="0.5"/>')
        tip = f"{curve.method}: {100 * p.value:.1f} % at {p.tokens:.0f} tokens"
        body.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{hue}"><title>{safe(tip)}</title></circle>'
        )
    return body
