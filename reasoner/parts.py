"""The parts of a stage's work, by number: each is done by one process, writes files of its own and then leaves a mark.

A killed stage goes on with the parts that have none, on any number of processes. A mark is a small file with what the
part counted and cost, so that the sums are those of all processes and of all starts.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reasoner.store import read_json, write_json, write_text

OF = "of"  # beside the marks: what the parts are parts of
MOST_TREES, LEAST_TREES, FEW_PARTS = 64, 4, 64


def trees_per_part(total: int) -> int:
    """How many of `total` trees make one part: the same on any number of processes, and enough parts for many."""
    return min(MOST_TREES, max(LEAST_TREES, -(-total // FEW_PARTS)))


def are_of(folder: Path, work: str) -> bool:
    """Whether the marks in the folder are of just this work."""
    return (folder / OF).is_file() and (folder / OF).read_text(encoding="utf-8") == work


def begin_parts(folder: Path, work: str) -> None:
    """No part of this work is done; marks of any other go."""
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / OF, work)


def give_up_parts(folder: Path) -> None:
    """The parts that are done are of no use: the next start begins anew, whatever other processes still write."""
    (folder / OF).unlink(missing_ok=True)


def marked(folder: Path) -> set[int]:
    """The numbers of the parts that are done."""
    return {int(path.stem) for path in folder.glob("*.json")}


def mark(folder: Path, number: int, facts: Mapping[str, Any]) -> None:
    """Say that a part is done, all of whose files are written."""
    write_json(folder / f"{number:05d}.json", facts)


def marks(folder: Path) -> Iterator[dict[str, Any]]:
    """What each mark says, in the order of the parts."""
    for number in sorted(marked(folder)):
        yield read_json(folder / f"{number:05d}.json")


def costs_so_far(folder: Path) -> tuple[dict[str, dict[str, int | float]], float]:
    """What the parts cost that are done: counts by model, and the seconds of the process that took the most."""
    counts: dict[str, Counter[str]] = {}
    seconds = Counter[str]()
    for facts in marks(folder):
        seconds[facts["rank"]] += facts["seconds"]
        for model, counters in facts["costs"].items():
            counts.setdefault(model, Counter()).update(counters)
    return {model: dict(counters) for model, counters in counts.items()}, max(seconds.values(), default=0.0)
