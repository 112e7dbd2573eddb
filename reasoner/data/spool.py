"""Problems in a file of JSON lines, read by their numbers, so that no process holds all of them."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasoner.columns import reference_json
from reasoner.data.repeats import text_key
from reasoner.data.sources import own_id
from reasoner.store import saying_what_is_full
from reasoner.tree import Problem

SET = "set"  # beside a problem's own fields


class Spool:
    """The problems of a file as `spool` wrote it."""

    def __init__(self, path: Path):
        self.path = path
        self._starts = _starts(path)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def read(self, start: int, stop: int) -> list[Problem]:
        """Problems `start` to `stop` in the file's order."""
        return [Problem(**{k: v for k, v in row.items() if k != SET}) for row in self._rows(start, stop)]

    def sets(self, start: int, stop: int) -> list[str]:
        """The set that each of these problems was drawn from; empty where none was named."""
        return [row.get(SET, "") for row in self._rows(start, stop)]

    def _rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        stop = min(stop, len(self))
        with open(self.path, "rb") as file:
            file.seek(self._starts[start])
            lines = file.read(self._starts[stop] - self._starts[start]).splitlines()
        return [json.loads(line) for line in lines]


def spool(path: Path, problems: Iterable[Problem], order: Callable[[], Iterable[tuple[str, int]]]) -> None:
    """Write problems, each under an id of its own; once all were there `order` says which, of which set, in which order.

    Whole or not at all. UserError for a reference that JSON would change.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    raw, temporary = path.with_name(f".{path.name}.raw"), path.with_name(f".{path.name}.tmp")
    seen, repeated = set[bytes](), set[bytes]()
    try:
        with saying_what_is_full(path):
            with open(raw, "w", encoding="utf-8") as file:
                for problem in problems:
                    key = text_key(problem.id)
                    (repeated if key in seen else seen).add(key)
                    file.write(_line(problem))
            seen.clear()
            starts = _starts(raw)
            with open(raw, "rb") as given, open(temporary, "w", encoding="utf-8") as file:
                for name, number in order():
                    given.seek(starts[number])
                    line = given.readline().decode("utf-8")
                    if repeated or name:
                        problem = Problem(**json.loads(line))
                        is_own = text_key(problem.id) not in repeated
                        line = _line(problem if is_own else own_id(problem), name)
                    file.write(line)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        raw.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)


def _line(problem: Problem, name: str = "") -> str:
    reference_json(problem)
    return json.dumps(asdict(problem) | ({SET: name} if name else {})) + "\n"


def _starts(path: Path) -> array:
    """Where each line begins, and the end."""
    starts = array("q", [0])
    with open(path, "rb") as file:
        for line in file:
            starts.append(starts[-1] + len(line))
    return starts
