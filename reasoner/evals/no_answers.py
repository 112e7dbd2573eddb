"""An evaluation in which most responses held no final answer: a row for it, and the line that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reasoner.report.rows import MetricRow, proportion_row
from reasoner.tree import Problem

METRIC = "no_answer"
_RULE = "rule "


def no_answer_rows(
    stage: str, when: str, judged: Sequence[tuple[Problem, str]], most: float = 0.5
) -> list[MetricRow]:
    """A row with the share of `no_answer` among (problem, verdict's status) where it is more than `most`, else none.

    Its method names the rule by which answers were looked for.
    """
    without = [problem for problem, status in judged if status == "no_answer"]
    if len(without) <= most * len(judged):
        return []
    rules = Counter(str(problem.reference.get("extract", "auto")) for problem in without)
    method = _RULE + rules.most_common(1)[0][0]
    return [proportion_row(stage, METRIC, method, when, "all", len(without), len(judged))]


def last_line(rows: Sequence[MetricRow]) -> str:
    """What to tell of such rows at the end; "" without one."""
    found = max((row for row in rows if row.metric == METRIC), key=lambda row: row.value, default=None)
    if found is None:
        return ""
    rule = found.method.removeprefix(_RULE)
    return (
        f"{found.value:.0%} of {found.n} responses ({found.when}) hold no final answer by the rule {rule!r}, and count "
        "as wrong; expected most to hold one: set `extract` in the problems' reference to another rule, or see whether "
        "the responses end before their answer"
    )
