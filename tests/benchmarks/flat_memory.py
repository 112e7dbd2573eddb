"""Peak memory of the data stages with few and with many problems: rollout, verify and label of tiny ones.

    python -m tests.benchmarks.flat_memory [--few 5000] [--many 20000] [--kills 0]

Each number of problems is a run of its own, of one process, on a model of two small layers that imitated a little; the
sandbox's processes are not counted. With --kills the larger run is ended by SIGKILL so often, at equal shares of its
trees, and the same command goes on; its peak is the highest of all. At the end every tree and every label must be there
once. Prints one JSON line: the peaks in MiB, and as ratio few over many.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
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


def run(text: str, folder: Path, name: str, kill_at: tuple[int, ...] = ()) -> tuple[Path, float, float]:
    """The folder of a run, its process's peak in MiB, and its seconds; killed where it has so many trees, and continued."""
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    out = folder / name
    command = [sys.executable, "-m", "reasoner", "run", str(folder / f"{name}.yaml"), f"out={out}"]
    begun, peak = time.monotonic(), 0.0
    for limit in (*kill_at, None):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while limit is not None and process.poll() is None:
            time.sleep(1)
            if sum(len(ids) for ids in stored(out).values()) >= limit:
                process.kill()
                break
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = max(peak, used.ru_maxrss / 1024)
        expected = 0 if limit is None else -signal.SIGKILL
        if process.returncode != expected:
            raise SystemExit(f"the run {name} ended with {process.returncode}; expected {expected}")
        if limit is not None:
            print(f"{name}: killed with {limit} trees, {peak:.0f} MiB", file=sys.stderr, flush=True)
    return out, peak, time.monotonic() - begun


def stored(out: Path) -> dict[str, list[str]]:
    """Per stage the ids of the problems whose trees are in whole files."""
    return {
        stage: [i for f in sorted((out / "trees" / stage).glob("*.parquet")) for i in ids(f)]
        for stage in ("rollout", "verify")
    }


@cache
def ids(file: Path) -> list[str]:
    return pq.read_table(file, columns=["id"])["id"].to_pylist()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--few", type=int, default=5000)
    parser.add_argument("--many", type=int, default=20000)
    parser.add_argument("--kills", type=int, default=0, help="how often the larger run is killed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        start, _, _ = run(CONFIG.replace("SIZE", "100") + START, folder, "start")
        found = {}
        for num in (options.few, options.many):
            text = (CONFIG + STAGES).replace("SIZE", str(2 * num)).replace("NUM", str(num))
            kills = options.kills if num == options.many else 0
            kill_at = tuple(2 * num * (k + 1) // (kills + 1) for k in range(kills))  # two stages
            out, peak, seconds = run(
                text.replace("MODEL", str(start / "models/sft/model")), folder, str(num), kill_at
            )
            made = stored(out)
            assert all(len(of) == len(set(of)) == num for of in made.values()), {
                s: len(of) for s, of in made.items()
            }
            assert set(made["rollout"]) == set(made["verify"])
            labelled = sum(
                pq.read_metadata(f).num_rows for f in (out / "records/label/outcome").glob("*.parquet")
            )
            assert labelled == 2 * num, labelled  # two chains a problem
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
