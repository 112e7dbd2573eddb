"""The table of all checks, and how a config is taken through them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from reasoner.doctor import lengths, models, problems, surroundings, tokens
from reasoner.doctor.case import Case
from reasoner.doctor.findings import SEVERITIES, Finding
from reasoner.registry import UserError

Check = Callable[[Case], Iterable[Finding]]
# what costs nothing runs at the start of every run as well; the rest takes up to two minutes
FREE: dict[str, Check] = {
    "template": tokens.template,
    "begin": tokens.begin,
    "ends": tokens.ends,
    "stops": tokens.stops,
    "delimiter": tokens.delimiter,
    "thinking": tokens.thinking,
    "vocabulary": tokens.vocabulary,
    "lengths": lengths.lengths,
    "golds": problems.golds,
    "duplicates": problems.duplicates,
    "formats": surroundings.formats,
    "four_bit": surroundings.four_bit,
    "adapters": surroundings.adapters,
    "disk": surroundings.disk,
    "tracking": surroundings.tracking,
    "versions": surroundings.versions,
    "folder": surroundings.folder,
}
DEAR: dict[str, Check] = {
    "references": surroundings.references,  # which a run checks itself before all else
    "memory": surroundings.memory,  # and this too
    "solutions": problems.solutions,
    "contamination": problems.contamination,
    "new_from_old": problems.new_from_old,
    "few": problems.few,
    "isolation": surroundings.isolation,
    "tokenizers": models.tokenizers,
    "runs": models.runs,
}


@dataclass(frozen=True)
class Examination:
    """What was found, the worst first, and how long each check took."""

    findings: list[Finding]
    seconds: dict[str, float]


def examine(case: Case) -> Examination:
    """Every check on a config, or what costs nothing. What a check cannot look at is a finding of it."""
    found: list[Finding] = []
    seconds: dict[str, float] = {}
    for name, check in FREE.items() if case.quickly else {**FREE, **DEAR}.items():
        began = time.monotonic()
        try:
            found += check(case)
        except UserError as problem:
            found.append(Finding(name, "error", "", str(problem), "as the line says"))
        seconds[name] = time.monotonic() - began
    distinct = list(dict.fromkeys(found if not case.quickly else [f for f in found if f.severity != "note"]))
    seen: set[str] = set()
    # one thing that cannot be read stops several checks: it is told once
    kept = [f for f in distinct if not (f.text in seen or seen.add(f.text))]
    return Examination(sorted(kept, key=lambda f: -SEVERITIES.index(f.severity)), seconds)
