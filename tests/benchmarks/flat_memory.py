"""Peak memory of the data stages with few and with many problems: rollout, verify and label of tiny ones.

    python -m tests.benchmarks.flat_memory [--few 5000] [--many 20000]

Each number of problems is a run of its own, of one process, on a model of two small layers that imitated a little; the
sandbox's processes are not counted. Prints one JSON line: the peaks in MiB, and as ratio few over many.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent.parent
TARGET = 0.95
CONFIG = """
prompt: {template: "{prompt}=\\n"}
problems:
  demonstrations: [{name: arithmetic, size: 200, families: {chain_sum: {max_terms: 2, max_digits: 1}}}]
  train: [{name: arithmetic, start: 1000000, size: SIZE, families: &wide {chain_sum: {max_terms: 3, max_digits: 3}}}]
  test: [{name: arithmetic, start: 9000000000, size: 100, families: *wide}]
"""
START = """
stages:
  - {kind: init, hidden_size: 32, num_layers: 2, num_heads: 2, num_key_value_heads: 1, intermediate_size: 64}
  - {kind: sft, model: base, batch_size: 32, max_steps: 60, optimizer: {name: muon, lr: 0.01}}
"""
STAGES = """
stages:
  - {kind: rollout, model: MODEL, num_problems: NUM, max_tokens: 12, num_slots: 128, tree: {num_roots: 2, num_points: 0}}
  - {kind: verify, model: MODEL}
  - {kind: label, model: MODEL}
"""


def run(text: str, folder: Path, name: str) -> tuple[Path, float, float]:
    """The folder of a run, its process's peak in MiB, and its seconds."""
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "reasoner", "run", str(folder / f"{name}.yaml"), f"out={folder / name}"]
    begun = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the run {name} ended with {process.returncode}")
    return folder / name, used.ru_maxrss / 1024, time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--few", type=int, default=5000)
    parser.add_argument("--many", type=int, default=20000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        start, _, _ = run(CONFIG.replace("SIZE", "100") + START, folder, "start")
        found = {}
        for num in (options.few, options.many):
            text = (CONFIG + STAGES).replace("SIZE", str(2 * num)).replace("NUM", str(num))
            out, peak, seconds = run(text.replace("MODEL", str(start / "models/sft/model")), folder, str(num))
            trees = sum(pq.read_metadata(f).num_rows for f in (out / "trees/verify").glob("*.parquet"))
            assert trees == num, (trees, num)
            found[num] = peak
            print(f"{num} problems: {peak:.0f} MiB, {seconds:.0f} s", file=sys.stderr, flush=True)
    few, many = found[options.few], found[options.many]
    line = {
        "name": f"peak memory of rollout, verify and label, {options.many} problems against {options.few}",
        "ours": round(many, 1), "peer": round(few, 1), "peer_name": f"{options.few} problems",
        "ratio": round(few / many, 4), "target": TARGET, "unit": "MiB",
    }  # fmt: skip
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
