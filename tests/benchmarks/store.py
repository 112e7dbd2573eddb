"""One million trajectories through the store: python -m tests.benchmarks.store

Trees of 16 chains are written as they are made (making them is not counted) and read back as they come:
rows and MB a second (MB of the numbers held: 4 bytes for a token id and each of its three floats), the
largest memory at a tenth of the way and at the end, and the bytes on disk against JSON lines, plain and
gzipped, of the same trees.
Token ids follow Zipf's law and the floats are random to the last bit, so that nothing compresses better
than in real runs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from reasoner.store import read_trees, write_trees
from reasoner.tree import ROOT, Node, Problem, Tree
from verifiers import Verdict

CHAINS = 16
BYTES_PER_TOKEN = 16


def make_trees(num_trees: int, tokens: int, seed: int = 0) -> Iterator[Tree]:
    """Trees with numbers of their own, none like another."""
    rng = np.random.default_rng(seed)
    verdicts = [Verdict("correct", "ok", answer="42"), Verdict("incorrect", "wrong", answer="41")]
    ends = tuple(range(7, tokens, 8))
    for t in range(num_trees):
        tree = Tree.of_prompt(
            Problem(f"problem-{t}", f"What is {t} + {t}?", "math", {"answer": str(2 * t)}), [1] * 8
        )
        ids = np.minimum(rng.zipf(1.3, (CHAINS, tokens)), 151_000).tolist()
        floats = (-rng.exponential(1, (CHAINS, 3, tokens)).astype(np.float32)).tolist()
        for chain_ids, three in zip(ids, floats, strict=True):
            tree.nodes.append(Node(ROOT, 8, tuple(chain_ids), *map(tuple, three), step_ends=ends))
        tree.verdicts = {i: verdicts[i % 2] for i in range(1, CHAINS + 1)}
        yield tree


def peak_mb() -> float:
    """The largest resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def timed(task: str, folder: Path, num_trees: int, tokens: int) -> dict:
    """Write or read in this process: the store's own seconds, and the peaks of memory."""
    peaks, making = {}, 0.0

    def watched(trees: Iterator[Tree]) -> Iterator[Tree]:
        nonlocal making
        for t in range(1, num_trees + 1):
            begun = time.perf_counter()
            tree = next(trees)
            making += time.perf_counter() - begun
            if t == max(1, num_trees // 10):
                peaks["peak_mb_at_a_tenth"] = round(peak_mb(), 1)
            yield tree

    start = time.perf_counter()
    if task == "write":
        write_trees(folder, watched(make_trees(num_trees, tokens)))
        seconds = time.perf_counter() - start - making
    else:
        sum(1 for _ in watched(read_trees(folder)))
        seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 1), **peaks, "peak_mb": round(peak_mb(), 1)}


def main(arguments: argparse.Namespace) -> None:
    num_trees = arguments.trajectories // CHAINS
    megabytes = num_trees * CHAINS * arguments.tokens * BYTES_PER_TOKEN / 1e6
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        for task in ("write", "read"):
            command = [sys.executable, "-m", "tests.benchmarks.store", "--task", task, "--folder", str(folder),
                       "--trajectories", str(arguments.trajectories), "--tokens", str(arguments.tokens)]  # fmt: skip
            shown = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(shown.stdout)
            rates = {"trajectories_per_second": round(num_trees * CHAINS / found["seconds"]),
                     "mb_per_second": round(megabytes / found["seconds"], 1)}  # fmt: skip
            print(
                json.dumps({"name": f"store_{task}", "trajectories": num_trees * CHAINS, **rates, **found}),
                flush=True,
            )
        stored = sum(p.stat().st_size for p in folder.glob("*.parquet")) / num_trees
        sample = list(make_trees(min(num_trees, 500), arguments.tokens))
        lines = "".join(json.dumps(asdict(tree)) + "\n" for tree in sample).encode()
        for peer, size in (("JSON lines", len(lines)), ("JSON lines, gzipped", len(gzip.compress(lines)))):
            row = {"name": "store_size", "ours": round(stored), "peer": round(size / len(sample)), "peer_name": peer,
                   "unit": "bytes per tree", "ratio": round(size / len(sample) / stored, 2),
                   "target": None, "pairs": 1}  # fmt: skip
            print(json.dumps(row), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trajectories", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a trajectory")
    parser.add_argument("--folder", help="where to write; the system's temporary folder by default")
    parser.add_argument("--task", choices=("write", "read"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        num_trees = given.trajectories // CHAINS
        print(json.dumps(timed(given.task, Path(given.folder), num_trees, given.tokens)))
    else:
        main(given)
