"""Whether a run can be lost or made to lie: the smoke pipeline with every trainer, faults at random moments, one command.

    python -m tests.benchmarks.chaos [--faults 50] [--minutes 60] [--seed 0] [--kinds kill,term,…]

Each fault strikes the run at a random moment; then the same command is started again, until it is done, and what it
wrote (weights, trees but for their times, records) is compared with an undisturbed run's. Prints one line a fault and
one JSON line: faults that the run went on from to the same end, over all that struck; one that came when the run was over
is tried again on another. Kinds: kill, term (signals), full (no file may grow beyond some bytes), torn (killed, and a file
cut or flipped), worker and server (a process of the run's killed; the server stands in for vLLM), nan (a weight).
Linux, about a minute a fault.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from reasoner.interrupt import TRY_AGAIN
from tests import warm

ROOT = Path(__file__).parent.parent.parent
STAND_IN = ROOT / "tests" / "engine" / "stand_in.py"
CONFIG = """
prompt: {template: "{prompt}=\\n"}
problems:
  demonstrations:
    - {name: arithmetic, size: 120, families: &short {chain_sum: {max_terms: 3, max_digits: 1}, gcd: {max_value: 20}}}
  train: [{name: arithmetic, start: 1000000, size: 40, families: *short}]
  test: [{name: arithmetic, start: 9000000, size: 24, domain: short, families: *short}]
stages:
  - {kind: init, hidden_size: 32, num_layers: 2, num_heads: 2, num_key_value_heads: 1, intermediate_size: 64}
  - {kind: sft, model: base, batch_size: 16, max_steps: 40, save_every: 5, optimizer: {name: muon, lr: 0.01}}
  - {kind: rollout, name: served, model: sft, num_problems: 16, max_tokens: 24, tree: {num_roots: 4, num_points: 0},
     engine: {kind: vllm, spawn: 1, executable: SERVER}}
  - {kind: rollout, model: sft, num_problems: 24, max_tokens: 24,
     tree: {where: spread_steps, num_roots: 4, num_points: 2, num_children: 2}}
  - {kind: verify, model: sft}
  - {kind: label, model: sft}
  - {kind: prm, model: sft, epochs: 1, batch_size: 16, save_every: 2}
  - {kind: orm, model: sft, epochs: 1, batch_size: 16, save_every: 2}
  - {kind: pairwise, model: sft, epochs: 1, batch_size: 8, save_every: 2}
  - {kind: ppo, model: sft, critic: prm, prm: prm, rounds: 5, problems_per_round: 8, max_tokens: 24, minibatches: 2,
     drop_uniform: false, save_every: 1, optimizer: {lr: 0.001}, advantage: {reward: {prm_weight: 0.2}}, audit: full}
  - {kind: dpo, model: sft, batch_size: 4, save_every: 2, optimizer: {lr: 0.001}, trl: {max_steps: 6}}
  - {kind: evaluate, policies: [sft, ppo, dpo], max_tokens: 24}
"""
TIMES = ("cpu_ms", "wall_ms")  # of a verdict: how long it took
PATIENCE_S = 600.0


def digests(out: Path) -> dict[str, str | list[float]]:
    """What a run came to: a hash of each model, each stage's trees and each kind of records.

    A server's rounding depends on what else it has in its cache, so what it says of log-probabilities is kept as numbers.
    """
    from reasoner.store import read_trees

    found: dict[str, str | list[float]] = {}
    for folder in sorted((out / "trees").iterdir()):
        digest, said = hashlib.sha256(), []
        for tree in read_trees(folder):
            nodes = tree.nodes
            if folder.name == "served":
                said += [x for node in nodes for x in (*node.logprobs, *node.logprobs_full)]
                nodes = [replace(node, logprobs=(), logprobs_full=()) for node in nodes]
            verdicts = {i: (v.status, v.reason, v.answer) for i, v in tree.verdicts.items()}
            digest.update(repr((tree.problem, nodes, sorted(verdicts.items()), tree.scores)).encode())
        found[f"trees/{folder.name}"] = digest.hexdigest()
        found |= {f"log-probabilities of {folder.name}": said} if said else {}
    for kind in ("models", "records"):
        for path in sorted((out / kind).rglob("*")):
            if path.is_file():
                name = path.relative_to(out).as_posix()
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def is_same(ours: str | list[float] | None, other: str | list[float] | None) -> bool:
    """Whether two entries of `digests` are equal, numbers to their rounding."""
    if isinstance(ours, list) and isinstance(other, list):
        return len(ours) == len(other) and all(
            abs(a - b) <= 1e-5 * (1 + abs(a)) for a, b in zip(ours, other, strict=True)
        )
    return ours == other


def life(config: Path, out: Path, log: Path, before=None):
    """The command under way in a process of its own; `before` is called in it first."""
    process = warm._context.Process(target=_live, args=(str(config), str(out), str(log), before))
    process.start()
    return process


def _live(config: str, out: str, log: str, before) -> None:
    if before is not None:
        before()
    warm._main(["reasoner", "run", config, f"out={out}"], str(ROOT), log, log)


class Full:
    """No file may grow beyond some bytes: the system refuses, as on a full disk."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class Poison:
    """After some seconds a weight that is trained becomes NaN."""

    def __init__(self, after: float):
        self.after = after

    def __call__(self) -> None:
        threading.Thread(target=self._poison, daemon=True).start()

    def _poison(self) -> None:
        import gc

        import torch

        time.sleep(self.after)
        trained = [p for p in gc.get_objects() if isinstance(p, torch.nn.Parameter) and p.requires_grad]
        for p in trained:
            p.data.view(-1)[:1] = torch.nan


def children_of(pid: int) -> list[int]:
    below: list[int] = []
    for path in Path("/proc").glob("[0-9]*/task/*/children"):
        try:
            if int(path.parts[2]) in (pid, *below):
                below += [int(child) for child in path.read_text().split()]
        except OSError:
            continue
    return below


def servers_of(pid: int) -> list[int]:
    """The model servers that a run has started."""
    found = []
    for child in children_of(pid):
        try:
            if STAND_IN.name in Path(f"/proc/{child}/cmdline").read_text():
                found.append(child)
        except OSError:
            continue
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def tear(out: Path, rng: random.Random) -> str:
    """Cut or flip a file of a stage that is not done, as a power cut or a bad disk does; its name."""
    unfinished = (
        [p for p in (out / "stages").iterdir() if not (p / "done").is_file()]
        if (out / "stages").is_dir()
        else []
    )
    folders = [
        out / kind / stage.name for stage in unfinished for kind in ("stages", "models", "trees", "records")
    ]
    files = [p for folder in folders for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]
    if not files:
        return ""
    path = rng.choice(files)
    raw = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    else:
        del raw[rng.randrange(len(raw)) :]
    path.write_bytes(raw)
    return path.relative_to(out).as_posix()


def strike(
    kind: str, config: Path, out: Path, log: Path, seconds: float, rng: random.Random
) -> tuple[bool, str]:
    """Start the run, let one fault happen to it at about that time, and see it end; whether it struck, and what happened."""
    before = (
        Full(rng.choice([2_000, 20_000, 60_000, 200_000]))
        if kind == "full"
        else Poison(seconds)
        if kind == "nan"
        else None
    )
    process = life(config, out, log, before)
    try:
        if kind == "server":
            until = time.monotonic() + PATIENCE_S
            while process.exitcode is None and not servers_of(process.pid) and time.monotonic() < until:
                process.join(0.1)
        process.join(seconds)
        below = children_of(process.pid)
        victim = {
            "worker": rng.choice(below or [0]),
            "server": rng.choice(servers_of(process.pid) or [0]),
        }.get(kind, process.pid if kind in SIGNALS else 0)
        struck = process.exitcode is None and victim > 0
        if struck:
            os.kill(victim, SIGNALS[kind])
        process.join(PATIENCE_S)
        if process.exitcode is None:
            return True, "HUNG"
        what = f"exit {process.exitcode}"
        struck = struck or (kind in ("full", "nan") and process.exitcode != 0)
        if kind == "term" and process.exitcode not in (0, TRY_AGAIN):
            return True, f"WRONG {what}"
        if kind == "torn" and process.exitcode:
            what += f", tore {tear(out, rng)}"
        until = time.monotonic() + 20
        while any(map(is_alive, below)) and time.monotonic() < until:
            time.sleep(0.1)
        left = [pid for pid in below if is_alive(pid)]
        return (True, f"LEFT OVER {left}") if left else (struck, what)
    finally:
        if process.exitcode is None:
            process.kill()
            process.join()


def finish(config: Path, out: Path, log: Path) -> str:
    """The same command to its end, without a fault; what it said if it did not get there."""
    process = life(config, out, log)
    process.join(PATIENCE_S)
    if process.exitcode is None:
        process.kill()
        return "HUNG"
    return "" if process.exitcode == 0 else log.read_text().rstrip().splitlines()[-1]


KINDS = ("kill", "term", "full", "torn", "worker", "server", "nan")
SIGNALS = {"term": signal.SIGTERM} | dict.fromkeys(("kill", "torn", "worker", "server"), signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=60, help="after which no further fault happens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--keep", type=Path, help="folder for the runs, kept; by default a temporary one")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        return run_all(
            options.keep or Path(temporary), options.faults, options.kinds.split(","), options.minutes, rng
        )


def run_all(folder: Path, num_faults: int, kinds: list[str], minutes: float, rng: random.Random) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "chaos.yaml"
    server = folder / "vllm"
    server.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} "$@"\n', encoding="utf-8")
    server.chmod(0o755)
    config.write_text(CONFIG.replace("SERVER", str(server)), encoding="utf-8")
    began = time.monotonic()
    if said := finish(config, folder / "whole", folder / "whole.log"):
        raise SystemExit(f"the undisturbed run failed: {said}")
    whole, span = digests(folder / "whole"), time.monotonic() - began
    print(f"undisturbed: {span:.0f} s, {len(whole)} files", flush=True)
    of_kind, survived = Counter[str](), Counter[str]()
    order = [kinds[i % len(kinds)] for i in range(num_faults)]
    rng.shuffle(order)
    number = 0
    while order and time.monotonic() - began < 60 * minutes:
        out, log = folder / f"run-{number}", folder / f"run-{number}.log"
        number += 1
        struck, bad = [], ""
        while (
            order
            and not bad
            and not (out / "metrics.json").is_file()
            and time.monotonic() - began < 60 * minutes
        ):
            is_served = (out / "stages" / "served" / "done").is_file()
            at = next((i for i in reversed(range(len(order))) if not is_served or order[i] != "server"), None)
            if at is None:
                break  # no server will be there
            kind = order.pop(at)
            did, what = strike(
                kind, config, out, log, rng.uniform(0.5, 3 if kind == "server" else span / 4), rng
            )
            struck += [kind] if did else []
            order[:0] = [] if did else [kind]
            print(f"{kind:7} {what}{'' if did else ', struck nothing'}", flush=True)
            bad = what if what.isupper() or what.split()[0] in ("HUNG", "WRONG", "LEFT") else ""
        bad = bad or finish(config, out, log)
        if not bad:
            found = digests(out)
            bad = "; ".join(
                sorted(n for n in whole.keys() | found.keys() if not is_same(whole.get(n), found.get(n)))[:4]
            )
        print(
            f"run {number}: {len(struck)} faults, {'FAILED: ' + bad if bad else 'ended as the undisturbed one'}",
            flush=True,
        )
        of_kind.update(struck)
        survived.update([] if bad else struck)
    ratio = survived.total() / max(1, of_kind.total())
    told = {kind: f"{survived[kind]} of {of_kind[kind]}" for kind in of_kind}
    row = {"name": "chaos: faults survived", "ours": survived.total(), "peer": of_kind.total(), "peer_name": "faults",
           "unit": "faults", "ratio": round(ratio, 3), "target": 1, "pairs": number, "kinds": told,
           "seconds": round(time.monotonic() - began)}  # fmt: skip
    print(json.dumps(row))
    return int(ratio < 1)


if __name__ == "__main__":
    sys.exit(main())
