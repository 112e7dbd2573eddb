"""The picture of tests/benchmarks/regimes: a field a method, a square a cell, won and lost ones equally plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasoner.report.charts import draw_text, svg
from tests.benchmarks.measure import save_chart

WIDTH, HEIGHT = 25.0, 18.0  # of a square
MARGIN, HEAD, LEFT, TOP, GAP = 6.0, 44.0, 58.0, 66.0, 14.0
MOST = 40.0  # points of difference from which a colour is at its strongest
COLOURS = {1: "var(--accent)", -1: "var(--wrong)", 0: "var(--track)"}


def square(x: float, y: float, found: Any) -> str:
    """A difference in points on its colour; a colour only where it is beyond the interval, as strong for losses as for gains."""
    strength = 1.0 if not found.verdict else 0.3 + 0.5 * min(1.0, abs(found.mean) / MOST)
    tip = f"<title>{found.mean:+.1f} ± {found.half:.1f}</title>"
    shown = f"{found.mean:+.0f}".replace("-", "−") if abs(found.mean) >= 0.5 else "0"
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH - 1:g}" height="{HEIGHT - 1:g}" fill="{COLOURS[found.verdict]}" '
        f'fill-opacity="{strength:.2f}">{tip}</rect>'
        f'<text x="{x + WIDTH / 2 - 0.5:g}" y="{y + 12.5:g}" class="n">{shown}</text>'
    )


def field(
    x0: float, y0: float, title: str, found: Mapping, lengths: Sequence[int], starts: Sequence[float],
    flips: Sequence[float], budgets: Sequence[int],
) -> list[str]:  # fmt: skip
    """Steps and pass rate down, verifier noise and budget across."""
    won, lost = (sum(f.verdict == v for f in found.values()) for v in (1, -1))
    body = [
        draw_text(x0, y0 + 14, title, "title"),
        draw_text(x0, y0 + 30, f"ahead in {won}, behind in {lost} of {len(found)}", "tick"),
    ]
    for j, flip in enumerate(flips):
        x = x0 + LEFT + j * (len(budgets) * WIDTH + 4)
        body.append(draw_text(x, y0 + 46, f"noise {flip:g}", "tick"))
        body += [
            f'<text x="{x + k * WIDTH + WIDTH / 2:g}" y="{y0 + 60:g}" class="n">{budget // 1024}k</text>'
            for k, budget in enumerate(budgets)
        ]
    for i, length in enumerate(lengths):
        for r, start in enumerate(starts):
            y = y0 + TOP + i * (len(starts) * HEIGHT + 4) + r * HEIGHT
            body.append(draw_text(x0, y + 12.5, f"{length} · {100 * start:g} %", "tick"))
            for (task, budget), of_cell in found.items():
                if (task.length, task.start) == (length, start):
                    j = flips.index(task.flip)
                    x = x0 + LEFT + j * (len(budgets) * WIDTH + 4) + budgets.index(budget) * WIDTH
                    body.append(square(x, y, of_cell))
    return body


def cell_map(
    path: Path, panels: Mapping[str, Mapping], lengths: Sequence[int], starts: Sequence[float], flips: Sequence[float],
    budgets: Sequence[int],
) -> None:  # fmt: skip
    """Write the picture: three fields beside each other."""
    width = LEFT + len(flips) * (len(budgets) * WIDTH + 4) + GAP
    height = TOP + len(lengths) * (len(starts) * HEIGHT + 4) + GAP
    body = [
        "<style>.n { font-size: 10px; text-anchor: middle; fill: var(--ink); } .tick { font-size: 10.5px; }</style>"
    ]
    for i, (title, found) in enumerate(panels.items()):
        x, y = MARGIN + i % 3 * width, HEAD + i // 3 * height
        body += field(x, y, title, found, lengths, starts, flips, budgets)
    told = (
        "Points of accuracy against GRPO at equal tokens; blue: ahead, red: behind, grey: within the interval or half a point.",
        "Rows: steps of a chain, and how many are right at the start; columns: verifier noise, and the budget in tokens.",
    )
    body += [draw_text(MARGIN, 14 + 16 * i, line, "tick") for i, line in enumerate(told)]
    rows = -(-len(panels) // 3)
    save_chart(path, svg(MARGIN + 3 * width, HEAD + rows * height, " ".join(told), body))
