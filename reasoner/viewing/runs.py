"""What a run's folder tells at this moment: under way, finished or broken, each fault a line and never a stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from reasoner.config import read_yaml
from reasoner.folder import in_use
from reasoner.ledger import Ledger
from reasoner.registry import UserError
from reasoner.report.rows import MetricRow, from_json
from reasoner.store import is_done, num_shards, read_json

ROWS = "rows.json"
METRICS = "metrics.jsonl"


class Run(NamedTuple):
    """`stages` by name with their state; `trees` names the stages that wrote trees; `notes` say what could not be read."""

    name: str
    folder: Path
    title: str
    stages: dict[str, str]
    trees: list[str]
    rows: list[MetricRow]
    history: list[dict[str, Any]]
    costs: dict[str, Any]
    notes: list[str]

    @property
    def is_under_way(self) -> bool:
        return "under way" in self.stages.values()


def named(folders: list[Path]) -> dict[str, Path]:
    """A short name for each folder; one that is no run's is a UserError."""
    found: dict[str, Path] = {}
    for folder in folders:
        if not any((folder / name).exists() for name in ("config.yaml", "stages", "trees", METRICS)):
            raise UserError(
                f"got {folder}, expected the folder of a run with config.yaml, stages/ or trees/; check the path"
            )
        name, count = folder.resolve().name, 2
        while name in found and found[name].resolve() != folder.resolve():
            name, count = f"{folder.resolve().name} ({count})", count + 1
        found[name] = folder
    return found


def read_run(name: str, folder: Path) -> Run:
    """Everything of a run but its trees, as far as it can be read."""
    notes: list[str] = []

    def read(path: Path, reader: Callable[[Path], Any], empty: Any) -> Any:
        if not path.exists():
            return empty
        try:
            return reader(path)
        except (OSError, ValueError, TypeError, AttributeError, UserError, RecursionError) as problem:
            notes.append(f"{path.relative_to(folder)} cannot be read ({_short(problem)})")
            return empty

    config = read(folder / "config.yaml", _mapping, {})
    named_stages = [s.get("name") for s in config.get("stages") or [] if isinstance(s, dict)]
    there = sorted(p.name for p in (folder / "stages").glob("*") if p.is_dir())
    order = [s for s in named_stages if isinstance(s, str)]
    order += [s for s in there if s not in order]
    works = in_use(folder)
    stages = dict.fromkeys(order, "waiting")
    for stage in there:
        stages[stage] = read(folder / "stages" / stage, lambda path: _state(path, works), "broken")
    rows: list[MetricRow] = []
    history: list[dict[str, Any]] = []
    for stage in order:
        at = folder / "stages" / stage
        rows += read(at / ROWS, lambda path: from_json(path.read_text(encoding="utf-8")), [])
        history += read(at / METRICS, _lines, [])
    if not history:  # a folder with the joined file alone
        history = read(folder / METRICS, _lines, [])
    ledger = read(folder / "ledger.json", _ledger, Ledger())
    trees = [s for s in order if num_shards(folder / "trees" / s)]
    trees += sorted(p.name for p in (folder / "trees").glob("*") if p.name not in order and num_shards(p))
    costs = {**ledger.counts, "seconds": ledger.seconds}
    title = str(config.get("title") or name)
    return Run(name, folder, title, stages, trees, rows, history, costs, notes)


def _state(folder: Path, works: bool) -> str:
    if is_done(folder) is not None:
        return "done"
    return "under way" if works else "stopped"


def _mapping(path: Path) -> dict[str, Any]:
    found = read_yaml(path)
    if not isinstance(found, dict):
        raise ValueError(f"a YAML {type(found).__name__}")
    return found


def _ledger(path: Path) -> Ledger:
    told = read_json(path)
    counts, seconds = told.get("counts", {}), told.get("seconds", {})
    if not all(isinstance(counters, dict) for models in counts.values() for counters in models.values()):
        raise ValueError("counters that are none")
    return Ledger(counts, dict(seconds))


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; the last may be half written."""
    found = []
    lines = path.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    for i, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError:
            if i == len(lines) - 1:
                break
            raise
        if isinstance(row, dict):
            found.append(row)
    return found


def _short(problem: BaseException) -> str:
    lines = str(problem).splitlines()
    return lines[0][:200] if lines else type(problem).__name__
