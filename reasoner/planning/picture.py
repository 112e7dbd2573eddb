"""A plan as one SVG file: memory by stage against what each machine has, and time by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from reasoner.planning.of_model import gigabytes
from reasoner.planning.text import duration, money
from reasoner.report.charts import draw_line, draw_text, nice_ticks, safe

WIDTH, LEFT, ROW = 1000.0, 170.0, 26.0
MEMORY, TIME = (LEFT, 560.0), (690.0, 880.0)  # from where to where the two fields of a machine are drawn
# what of a stage's memory is there at its peak -> its parts; the rest of the peak is the step's own
HELD = {
    "weights": ("weights", "reference", "teacher", "sampler"),
    "optimizer": ("optimizer",),
    "engine": ("engine",),
}
STEP = "activations, gradients"
STYLE = """
:root { --page: #fbfbf9; --ink: #1d2126; --soft: #5c6570; --line: #e3e4df; --wrong: #bd3026; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171a; --ink: #e4e7ea; --soft: #98a2ac; --line: #2d3339; --wrong: #f2867c; }
}
text { fill: var(--ink); font: 13px system-ui, "Segoe UI", Roboto, Arial, sans-serif; }
.title { font-weight: 600; font-size: 15px; } .tick, .value { fill: var(--soft); font-size: 11.5px; }
.value.over { fill: var(--wrong); font-weight: 650; }
.grid { stroke: var(--line); } .has { stroke: var(--wrong); stroke-width: 1.6; stroke-dasharray: 5 3; }
.weights { fill: #2f6fde; } .optimizer { fill: #a453c9; } .engine { fill: #2f9e6e; } .step { fill: #d2a02d; }
.best { fill: #2458c5; } .expected { fill: #a9c0ee; } .page { fill: var(--page); }
"""


class Bar(NamedTuple):
    """A row of a machine: amounts of memory by class, and seconds at best and as expected."""

    label: str
    parts: Mapping[str, float]
    best: float = 0.0
    expected: float = 0.0
    price: float = 0.0

    @property
    def size(self) -> float:
        return sum(self.parts.values())


def of_run(plan: Mapping[str, Any]) -> str:
    """Of a run's plan: a block for each machine."""
    blocks = []
    for name, machine in plan["hardware"].items():
        bars = []
        for row in plan["stages"]:
            on = row["machines"][name]
            if "bytes" in on or on.get("expected_seconds"):
                seconds = (on.get(key, 0.0) for key in ("best_seconds", "expected_seconds", "dollars"))
                bars.append(Bar(row["stage"], peak_of(on), *seconds))
        blocks.append((_head(name, machine), 1e9 * machine["memory_gb"], bars))
    return _page(blocks, f"plan of {plan['out']}")


def of_model(plan: Mapping[str, Any]) -> str:
    """Of a model's plan: the weights that answer at each precision, and what training holds before any token."""
    blocks = []
    for name, machine in plan["hardware"].items():
        answers = [r for r in plan["answering"] if r["machine"] == name]
        trains = [r for r in plan["training"] if r["machine"] == name]
        head = _head(name, machine)
        blocks.append(
            (f"{head}, to answer", answers[0]["memory_bytes"],
             [Bar(f"in {r['bits']} bits", {"weights": r["weight_bytes"]}) for r in answers])
        )  # fmt: skip
        blocks.append(
            (f"{head}, to train, before any token", trains[0]["device_bytes"],
             [Bar(f"{r['way']}{', five models' if r['models'] > 1 else ''}", {"weights": r["fixed_bytes"]}) for r in trains])
        )  # fmt: skip
    return _page(blocks, f"plan of {plan['model']['name']}")


def peak_of(on: Mapping[str, Any]) -> dict[str, float]:
    """The parts of a stage's peak; they add up to its bytes."""
    parts = on.get("parts", {})
    held = {name: sum(parts.get(key, 0.0) for key in keys) for name, keys in HELD.items()}
    return {**held, "step": max(0.0, on.get("bytes", 0.0) - sum(held.values()))}


def _head(name: str, machine: Mapping[str, Any]) -> str:
    each = f"{machine['count']} of " if machine["count"] > 1 else ""
    return f"{name}: {each}{machine['memory_gb']:g} GB"


def _page(blocks: Sequence[tuple[str, float, Sequence[Bar]]], title: str) -> str:
    body: list[str] = []
    has_time = any(bar.expected for _, _, bars in blocks for bar in bars)
    y = 30.0
    body.append(draw_text(20, y, title, "title", most=90))
    y += 24
    x = LEFT
    legend = [(name, name) for name in HELD] + [("step", STEP)]
    for css_class, told in legend + ([("best", "best"), ("expected", "expected")] if has_time else []):
        body.append(f'<rect x="{x:g}" y="{y - 10:g}" width="11" height="11" class="{css_class}"/>')
        body.append(draw_text(x + 17, y, told, "tick"))
        x += 40 + 6.6 * len(told)
    for head, has, bars in blocks:
        drawn, y = _block(head, has, bars, y + 40)
        body += drawn
    height = y + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" role="img" '
        f'aria-label="{safe(title)}"><style>{STYLE}</style>'
        f'<rect width="{WIDTH:g}" height="{height:g}" class="page"/>' + "".join(body) + "</svg>\n"
    )


def _block(head: str, has: float, bars: Sequence[Bar], top: float) -> tuple[list[str], float]:
    """What is drawn of a machine, and where it ends."""
    body = [draw_text(20, top, head, "title", most=60)]
    top += 14
    bottom = top + ROW * len(bars)
    most = max([has, *(bar.size for bar in bars)])
    ticks = [t for t in nice_ticks(0, most / 1e9, 4) if t * 1e9 <= most * 1.02]

    def x_of(amount: float) -> float:
        return MEMORY[0] + amount / most * (MEMORY[1] - MEMORY[0])

    for tick in ticks:
        body.append(draw_line(x_of(tick * 1e9), top, x_of(tick * 1e9), bottom, "grid"))
        unit = " GB" if tick == ticks[-1] else ""
        body.append(draw_text(x_of(tick * 1e9), bottom + 15, f"{tick:g}{unit}", "tick", "middle"))
    longest = max((bar.expected for bar in bars), default=0.0) or 1.0
    for number, bar in enumerate(bars):
        y = top + ROW * number + 4
        body.append(draw_text(LEFT - 10, y + 13, bar.label, "label", "end", 22))
        start = 0.0
        for css_class, amount in bar.parts.items():
            if amount:
                body.append(_rectangle(x_of(start), y, x_of(start + amount) - x_of(start), css_class))
                start += amount
        if bar.size:
            over = " over" if bar.size > has else ""
            body.append(draw_text(x_of(bar.size) + 6, y + 13, gigabytes(bar.size), f"value{over}"))
        if bar.expected:
            scale = (TIME[1] - TIME[0]) / longest
            body.append(_rectangle(TIME[0], y, bar.expected * scale, "expected"))
            body.append(_rectangle(TIME[0], y, bar.best * scale, "best"))
            told = " ".join(filter(None, (duration(bar.expected), money(bar.price))))
            body.append(draw_text(TIME[0] + bar.expected * scale + 6, y + 13, told, "value"))
    body.append(draw_line(x_of(has), top - 4, x_of(has), bottom, "has"))
    return body, bottom + 16


def _rectangle(x: float, y: float, width: float, css_class: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="17" class="{css_class}"/>'
