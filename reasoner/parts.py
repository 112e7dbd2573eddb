"""The parts of a stage's work, by number: each is done by one process, writes files of its own and then leaves a mark.

A killed stage goes on with the parts that have none, on any number of processes. A mark is a small file with what the
part counted and cost, so that the sums are those of all processes and of all starts. It names the part's files by their
SHA-256, and its own: a part of which anything has changed since is done again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reasoner.seal import sha256
from reasoner.store import read_json, to_json, write_json, write_text

OF = "of"  # beside the marks: what the parts are parts of
OWN = "sha256"  # in a mark: of all else in it
logger = logging.getLogger(__name__)
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
    write_whole(_path(folder, number), facts)


def files_of(parts: Path, number: int) -> dict[str, str]:
    """The files that a part of a stage has written, from the run's folder on, each with its SHA-256.

    `parts` is the folder `parts` of the stage's own; a part's files are called by its number.
    """
    stage, out = parts.parent, parts.parents[2]
    folders = [out / "trees" / stage.name, out / "records" / stage.name, parts]
    files = sorted(
        p for folder in folders for p in folder.rglob("*") if p.stem.isdecimal() and int(p.stem) == number
    )
    return {p.relative_to(out).as_posix(): sha256(p) for p in files if p.is_file() and p.parent != parts}


def unmark_damaged(parts: Path) -> list[int]:
    """Take the marks away that are damaged themselves, or any of whose files is not as it was; the parts' numbers."""
    out, gone = parts.parents[2], []
    for number in sorted(marked(parts)):
        try:
            facts = read_json(_path(parts, number))
            own = facts.pop(OWN)
            is_whole = own == _digest(facts) and all(
                sha256(out / n) == x for n, x in facts.get("files", {}).items()
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            is_whole = False
        if not is_whole:
            logger.warning("part %d of %s is damaged, and is done again", number, parts.parent)
            _path(parts, number).unlink()
            gone.append(number)
    return gone


def write_whole(path: Path, facts: Mapping[str, Any]) -> None:
    """Write JSON together with its own SHA-256."""
    write_json(path, {**facts, OWN: _digest(facts)})


def read_whole(path: Path) -> dict[str, Any] | None:
    """What `write_whole` wrote; None where anything of it has changed since."""
    try:
        facts = read_json(path)
        return facts if facts.pop(OWN) == _digest(facts) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.json"


def _digest(facts: Mapping[str, Any]) -> str:
    """Of a mark's facts, as they are once written and read."""
    return hashlib.sha256(json.dumps(json.loads(to_json(facts)), sort_keys=True).encode()).hexdigest()


def of_mark(folder: Path, number: int) -> dict[str, Any]:
    """What the mark of a part says."""
    return read_json(_path(folder, number))


def marks(folder: Path) -> Iterator[dict[str, Any]]:
    """What each mark says, in the order of the parts."""
    for number in sorted(marked(folder)):
        yield of_mark(folder, number)


def costs_so_far(folder: Path) -> tuple[dict[str, dict[str, int | float]], float]:
    """What the parts cost that are done: counts by model, and the seconds of the process that took the most."""
    counts: dict[str, Counter[str]] = {}
    seconds = Counter[str]()
    for facts in marks(folder):
        seconds[facts["rank"]] += facts["seconds"]
        for model, counters in facts["costs"].items():
            counts.setdefault(model, Counter()).update(counters)
    return {model: dict(counters) for model, counters in counts.items()}, max(seconds.values(), default=0.0)
