"""The demo's table over several finished runs, as Markdown: python -m tests.benchmarks.demo runs/demo-0 runs/demo-1 …

Make the runs first: bash launch/quickstart.sh seed=0 out=runs/demo-0, and so on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from reasoner.scoring.aggregate import BESIDE

GREEDY = [("pass@1", "greedy", subset) for subset in ("short", "longer", "all")]
SAMPLED = [
    ("pass@1", "sampled", "all"),
    ("pass@8", "sampled", "all"),
    ("maj@8", "sampled", "all"),
    ("best_of_8", "orm", "all"),
    *(("best_of_8", f"prm, {name}", "all") for name in BESIDE),
]
QUALITY = [
    *(("auroc", "prm", f"steps{part}") for part in ("", " inside", " at the end")),
    ("first_error_f1", "prm", "steps"),
]


def table(runs: list[Path]) -> str:
    """Greedy answers, sampled answers and PRM quality by policy, one column a seed; then seconds and counts."""
    rows = [_by_key(json.loads((run / "metrics.json").read_text())) for run in runs]
    ledgers = [json.loads((run / "ledger.json").read_text()) for run in runs]
    whens = list(dict.fromkeys(when for when, *_ in rows[0]))
    head = "| policy | measure | " + " | ".join(run.name for run in runs) + " |"
    lines = [head, "|---|---|" + "---|" * len(runs)]
    for key in (*GREEDY, *SAMPLED, *QUALITY):
        scale = 1 if key in QUALITY else 100
        for when in whens:
            found = [r.get((when, *key)) for r in rows]
            if all(found):
                cells = [
                    f"{scale * f['value']:.{1 if scale > 1 else 3}f} ({_interval(f, scale)})" for f in found
                ]
                lines.append(f"| {when} | {' '.join(key)} | " + " | ".join(cells) + " |")
    for stage in ledgers[0]["seconds"]:
        lines.append(
            f"| | seconds, {stage} | "
            + " | ".join(f"{ledger['seconds'][stage]:.0f}" for ledger in ledgers)
            + " |"
        )
    for counter in ("decoded", "scored", "trained", "trajectories_generated", "trajectories_kept"):
        totals = [
            sum(m.get(counter, 0) for s in ledger["counts"].values() for m in s.values())
            for ledger in ledgers
        ]
        lines.append(f"| | {counter.replace('_', ' ')} | " + " | ".join(f"{t:,}" for t in totals) + " |")
    n = rows[0][("sft", "pass@1", "greedy", "all")]["n"]
    return "\n".join(lines) + f"\n\n{n} test problems; 95 % intervals in parentheses."


def _by_key(rows: list[dict]) -> dict[tuple[str, str, str, str], dict]:
    return {(r["when"], r["metric"], r["method"], r["subset"]): r for r in rows}


def _interval(row: dict, scale: int) -> str:
    digits = 1 if scale > 1 else 3
    return f"{scale * row['low']:.{digits}f} to {scale * row['high']:.{digits}f}"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(table([Path(a) for a in sys.argv[1:]]))
