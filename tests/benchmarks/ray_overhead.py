"""What it costs to have parts handed out by Ray: python -m tests.benchmarks.ray_overhead [--parts 60] [--ms 50]

Each part is four trees of so many milliseconds of waiting, and a file as a stage writes it, so that all of the rest is
ours: done by this process, and by two Ray workers at once. The seconds of a part are those between a worker's first and
last mark; what it takes to start Ray and the workers is told beside. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import mean

from reasoner.cluster.crew import crew
from reasoner.config import validate
from reasoner.folder import claimed
from reasoner.ledger import Ledger
from reasoner.parts import begin_parts, marks
from reasoner.pipeline import PARTS
from reasoner.run_config import RunConfig
from reasoner.stages.share import Own
from reasoner.store import put_trees
from reasoner.trainers.loop import Session
from reasoner.tree import Problem, Tree

TREES, TARGET = 4, 0.9


def work(stage, context, own: Own, ms: float) -> None:
    for number in own.numbers:
        trees = []
        for t in range(TREES):
            time.sleep(ms / 1000)
            trees.append(Tree.of_prompt(Problem(f"{number}-{t}", "1+1=", "math", {"answer": "2"}), [1, 2, 3]))
        put_trees(context.out / "trees" / stage.name, number, trees)
        own.done(number, {})


def seconds_of_a_part(parts: Path) -> float:
    """Mean over the workers, without each one's first part."""
    times: dict[str, list[float]] = {}
    for path, facts in zip(sorted(parts.glob("*.json")), marks(parts), strict=True):
        times.setdefault(facts["rank"], []).append(path.stat().st_mtime)
    return mean((max(at) - min(at)) / (len(at) - 1) for at in times.values())


def measured(folder: Path, do_all) -> tuple[float, float]:
    """Seconds of a part, and those until the first was done."""
    config = validate(
        RunConfig,
        {"out": str(folder), "problems": {}, "stages": [{"kind": "label", "model": "none"}], "min_isolation": "A",
         "ray": {"label": {"workers": 2}}},
        "benchmark",
    )  # fmt: skip
    begun = time.time()
    with claimed(folder):
        begin_parts(folder / "stages/label" / PARTS, "benchmark")
        ledger = Ledger()
        with ledger.stage("label"):
            session = Session(folder, ledger, parts=folder / "stages/label" / PARTS)
            do_all(config, session)
    assert session.parts is not None
    first = min(path.stat().st_mtime for path in session.parts.glob("*.json"))
    return seconds_of_a_part(session.parts), first - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--parts", type=int, default=60)
    parser.add_argument("--ms", type=float, default=50.0)
    options = parser.parse_args()
    os.environ["ACCELERATE_USE_CPU"] = "true"

    def alone(config, session) -> None:
        class Here:
            out = Path(config.out)

        work(config.stages[0], Here, Own(session, 0, range(options.parts // 2)), options.ms)

    with tempfile.TemporaryDirectory() as place:
        without, _ = measured(Path(place) / "alone", alone)
        with crew("local") as several:

            def by_ray(config, session) -> None:
                several.parts(
                    config, config.stages[0], session, work, list(range(options.parts)), (options.ms,)
                )

            beside, start = measured(Path(place) / "ray", by_ray)
    line = {
        "name": f"a part of {TREES} trees of {options.ms:g} ms handed out by Ray, two workers", "ours": round(beside, 4),
        "peer": round(without, 4), "peer_name": "in one process", "unit": "s", "ratio": round(without / beside, 4),
        "target": TARGET, "start_s": round(start, 1), "pairs": 1,
    }  # fmt: skip
    print(json.dumps(line))


if __name__ == "__main__":
    main()
