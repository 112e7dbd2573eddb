"""All comparisons that need no further argument, and their table: `python -m tests.benchmarks [NAME ...]`.

Each is a process of its own, so that none leaves the next less memory. With nothing named it takes about an hour on two
cores; keep the machine quiet. Not among them: what needs a run or a model (critics, demo, frontier, baseline, engine, export,
gpu, prm800k), and the long studies of learning (learning, levers, hacking, labels, bisection).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NAMES = (
    "verify", "proof", "rollout", "label", "tree", "store", "score", "step", "memory", "flat_memory", "advantages", "regimes",
)  # fmt: skip


def rows_of(name: str) -> tuple[list[dict], int]:
    """The JSON lines that a benchmark prints, and its exit code; what it says beside them is passed on."""
    command = [sys.executable, "-m", f"tests.benchmarks.{name}"]
    rows = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if line.startswith("{"):
                rows.append(json.loads(line))
    return rows, process.returncode


def table(rows: list[dict]) -> str:
    """The rows as Markdown, in the shape of this folder's README."""
    lines = ["| what | ours | beside | ratio | target | unit |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row.get("name"), row.get("ours"), f"{row.get('peer_name') or ''} {_shown(row.get('peer'))}".strip(),
                 row.get("ratio"), row.get("target"), row.get("unit")]  # fmt: skip
        lines.append("| " + " | ".join(map(_shown, cells)) + " |")
    return "\n".join(lines)


def _shown(value: object) -> str:
    return "" if value is None else str(value).replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)}")
    names = parser.parse_args().names or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"unknown benchmark {unknown[0]!r}, expected some of {', '.join(NAMES)}")
    rows, failed = [], []
    for i, name in enumerate(names, start=1):
        print(f"{i}/{len(names)} {name}", file=sys.stderr, flush=True)
        found, code = rows_of(name)
        rows += found
        failed += [name] if code else []
    print("\n" + table(rows))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
