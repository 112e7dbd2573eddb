"""What a run tells while it works: a bar for each stage on a terminal, plain lines elsewhere, the same numbers in both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

# What of a stage's metrics is told, by the last part of the name, in this order, and what it is called.
TOLD = {
    "reward": "reward",
    "heldout_auroc": "AUROC",
    "heldout_accuracy": "accuracy",
    "kl_ref": "KL",  # to the reference, where there is one; else the step's own
    "kl_step": "KL",
    "length": "length",
    "loss": "loss",
}
MAX_TOLD = 3
TOKENS = ("decoded", "trained", "scored")  # the first that a stage counts is its speed
EVERY = 10.0  # seconds between lines, but for rounds of on-policy training, each of which has one

FRAME = 30  # columns of a bar's line before its note: stage, bar, elapsed time

Tell = Callable[[str, int, int, str, Mapping[str, Any]], None]


@dataclass
class Pace:
    """A stage's speed, from its first report on: what a resumed stage had done before is not counted."""

    begun: float
    goes_on: bool = False  # from a checkpoint: only the first report tells what was done before
    points: list[tuple[float, float, float]] = field(default_factory=list)  # seconds, done, tokens

    def add(self, now: float, done: float, tokens: float) -> None:
        if not self.points and self.goes_on:
            self.points.append((now, done, tokens))
            return
        if not self.points:
            self.points.append((self.begun, 0.0, 0.0))
        self.points = [*self.points[:2], (now, done, tokens)]

    def per_second(self) -> tuple[float, float]:
        """What is done and the tokens in a second; NaN before anything took time."""
        start, end = self.points[len(self.points) > 2], self.points[-1]
        seconds = end[0] - start[0]
        return (
            ((end[1] - start[1]) / seconds, (end[2] - start[2]) / seconds)
            if seconds
            else (math.nan, math.nan)
        )


def told(numbers: Mapping[str, Any]) -> list[str]:
    """The metrics worth a line, as "reward 0.412"; of verdicts the share that is correct."""
    named = {key.rpartition("/")[2]: x for key, x in numbers.items() if isinstance(x, int | float)}
    judged = sum(named.get(status, 0) for status in ("correct", "incorrect", "no_answer"))
    if judged and "reward" not in named:
        named["reward"] = named.get("correct", 0) / judged
    found: dict[str, str] = {}
    for key, label in TOLD.items():
        x = named.get(key, math.nan)
        if math.isfinite(x) and (x or key != "kl_ref"):
            found.setdefault(label, f"{label} {x:.3g}")
    return list(found.values())[:MAX_TOLD]


def speed(pace: Pace, done: int, total: int) -> list[str]:
    """Tokens per second and the time to the end, as far as they are known."""
    rate, tokens = pace.per_second()
    found = [f"{tokens:,.0f} tokens/s"] if tokens > 0 else []
    return found + ([f"ETA {clock((total - done) / rate)}"] if rate > 0 and done < total else [])


def clock(seconds: float) -> str:
    """1:02 or 2:00:05."""
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"


@contextmanager
def telling(stages: Sequence[str], console: Console, is_first: bool) -> Iterator[Tell]:
    """The function that a run reports to (pipeline.Progress); silent but on the first process."""
    if not is_first:
        yield lambda stage, done, total, note, numbers: None
    elif console.is_terminal:
        with _bars(console) as bars:
            tasks = {name: bars.add_task(name, total=None, start=False, note="") for name in stages}
            yield _on_bars(bars, tasks)
    else:
        yield _in_lines(console)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<13}"), BarColumn(bar_width=6), TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False), console=console,
    )  # fmt: skip


def _on_bars(bars: Progress, tasks: Mapping[str, Any]) -> Tell:
    paces: dict[str, Pace] = {}

    def tell(stage: str, done: int, total: int, note: str, numbers: Mapping[str, Any]) -> None:
        if stage not in paces:
            paces[stage] = Pace(time.monotonic())
            bars.start_task(tasks[stage])
        place, metrics, pace = _parts(paces[stage], done, total, note, numbers)
        room = bars.console.width - FRAME
        while metrics and len(" ".join([*place, *metrics, *pace])) > room:
            metrics.pop()
        note = " ".join([*place, *metrics, *pace])
        bars.update(tasks[stage], completed=done, total=total or None, note=note[:room])
        if "seconds" in numbers:
            bars.stop_task(tasks[stage])

    return tell


def _in_lines(console: Console) -> Tell:
    paces: dict[str, Pace] = {}
    last: dict[str, float] = {}

    def tell(stage: str, done: int, total: int, note: str, numbers: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if stage not in paces:
            paces[stage], last[stage] = Pace(now), now
        parts = _parts(paces[stage], done, total, note, numbers)
        # a stage of an hour has no thousand lines
        is_due = now - last[stage] > EVERY + (now - paces[stage].begun) / 50 or "ppo/reward" in numbers
        if "seconds" in numbers or (total and is_due):
            last[stage] = now
            console.print(Text(f"{stage:<13} {'  '.join(chain(*parts))}"), soft_wrap=True)

    return tell


def _parts(
    pace: Pace, done: int, total: int, note: str, numbers: Mapping[str, Any]
) -> tuple[list[str], list[str], list[str]]:
    """What a stage's line holds: its place, or its seconds once it has ended, the metrics, and the speed."""
    tokens = next((numbers[name] for name in TOKENS if numbers.get(name)), 0)
    now = time.monotonic()
    if "seconds" in numbers:  # the stage has ended
        # over the whole stage, earlier starts too
        pace.points = [(0.0, 0.0, 0.0), (numbers["seconds"], 1.0, tokens)]
        return [note or f"{numbers['seconds']:.0f} s"], told(numbers), speed(pace, 1, 1)
    if not total:
        pace.goes_on = pace.goes_on or bool(numbers.get("goes_on"))
        return [note] if note else [], [], []
    pace.add(now, done, tokens)
    return [f"{done:,}/{total:,}" + (f" {note}" if note else "")], told(numbers), speed(pace, done, total)
