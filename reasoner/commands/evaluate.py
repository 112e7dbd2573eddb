"""reasoner evaluate --replay: samples made elsewhere, by the same estimators."""

from __future__ import annotations

from pathlib import Path

from reasoner.data.sources import load_items
from reasoner.evals.recorded import read_groups
from reasoner.evals.replay import replay_rows, verify_groups
from reasoner.registry import UserError
from reasoner.report.rows import MetricRow


def run_replay(path: Path, ks: str, config) -> list[MetricRow]:
    """Rows of a replay file; `config` is a run's config with the problems, or None where the file holds verdicts."""
    groups = read_groups(path)
    without: list[MetricRow] = []
    if not all(g.correct for g in groups):
        if config is None:
            raise UserError(
                f"{path} has no verdicts; expected a key like correct or reward in its rows, or a CONFIG with the problems"
            )
        problems = [i.problem for sources in config.problems.values() for s in sources for i in load_items(s)]
        without = verify_groups(groups, problems, path)
    return [*replay_rows(groups, path.stem, _numbers(ks)), *without]


def _numbers(ks: str) -> list[int]:
    try:
        found = sorted({int(k) for k in ks.split(",") if k.strip()})
    except ValueError as problem:
        raise UserError(f"--k is {ks!r}; expected whole numbers like 1,4,16") from problem
    if found and found[0] < 1:
        raise UserError(f"--k is {ks!r}; expected numbers from 1 up")
    return found
