"""Two real processes, and kills: the data stages leave what one process leaves in one start."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from reasoner.ledger import Ledger
from reasoner.store import is_done
from tests.warm import ranks

ROOT = Path(__file__).parent.parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
CONFIG = """
prompt: {template: "{prompt}=\\n"}
problems:
  demonstrations: [{name: arithmetic, size: 200, families: &short {chain_sum: {max_terms: 2, max_digits: 1}}}]
  train: [{name: arithmetic, start: 1000000, size: 160, families: &both {chain_sum: {max_terms: 4, max_digits: 2}}}]
  test: [{name: arithmetic, start: 9000000, size: 30, families: *both}]
  seldom: [{name: arithmetic, start: 2000000, size: 9, families: *short}]
stages:
  - kind: rollout
    model: SFT
    num_problems: 150
    max_tokens: 20
    tree: {where: every_step, num_roots: 4, num_points: 1, num_children: 3}
    num_slots: 16
  - {kind: verify, model: SFT}
  - {kind: complete, model: SFT, max_tokens: 20, num_slots: 16, probe: {num_continuations: 2}}
  - {kind: label, model: SFT, trees: complete, judge: arithmetic, step_pairs: {confidence: 0.5, min_edits: 1}}
  - kind: rollout
    name: mixed
    problems: [train, seldom]
    mixture: {weights: {train: 2, seldom: 1}}
    model: SFT
    num_problems: 36
    max_tokens: 20
    tree: {num_roots: 2, num_points: 0}
    num_slots: 16
  - {kind: prm, model: SFT, epochs: 0.1, batch_size: 16}
  - {kind: evaluate, policies: [BASE, SFT], sampled: [SFT], num_samples: 4, max_tokens: 20, prm: prm, orm: prm}
  - kind: evaluate
    name: methods
    policies: [BASE, SFT]
    max_tokens: 20
    methods: [{name: greedy}, {name: majority}, {name: best_of, scorer: logprob}, {name: retry}]
    budgets: [2, 4]
"""
START = """
stages:
  - {kind: init, hidden_size: 32, num_layers: 2, num_heads: 2, num_key_value_heads: 1, intermediate_size: 64}
  - {kind: sft, model: base, batch_size: 32, max_steps: 100, optimizer: {name: muon, lr: 0.01}}
"""
IN_PARTS = ("rollout", "verify", "complete", "label", "mixed", "evaluate", "methods")
MEASURED = ("cpu_ms", "wall_ms")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def start(num: int, config: Path, out: Path) -> list[BaseProcess]:
    said = out.with_name(f"{out.name}.said")
    shutil.rmtree(said, ignore_errors=True)
    return ranks(num, "run", config, f"out={out}", cwd=ROOT, said=said)


def said(out: Path) -> str:
    return "".join(path.read_text()[-3000:] for path in out.with_name(f"{out.name}.said").iterdir())


def finish(num: int, config: Path, out: Path) -> None:
    for process in (processes := start(num, config, out)):
        process.join(400)
    assert [process.exitcode for process in processes] == [0] * num, said(out)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "start.yaml").write_text(CONFIG[: CONFIG.index("stages:")] + START, encoding="utf-8")
    finish(1, folder / "start.yaml", folder / "start")
    text = CONFIG
    for stage in ("base", "sft"):
        text = text.replace(stage.upper(), str(folder / "start/models" / stage / "model"))
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return folder / "data.yaml"


def up_to(stage: str, config: Path, folder: Path, **changes: str) -> Path:
    """The config without that kind of stage and those after it, and with other values."""
    text = config.read_text(encoding="utf-8")
    text = text[: text.index(f"  - {{kind: {stage}")]
    for name, value in changes.items():
        text = re.sub(f"{name}: [0-9]+", f"{name}: {value}", text)
    (folder / "part.yaml").write_text(text, encoding="utf-8")
    return folder / "part.yaml"


@pytest.fixture(scope="module")
def one(config) -> Path:
    finish(1, config, config.parent / "one")
    return config.parent / "one"


@pytest.fixture(scope="module")
def two(config) -> Path:
    finish(2, config, config.parent / "two")
    return config.parent / "two"


def differ(a, b) -> str:
    """The first difference between two rows; batches of another make round log-probabilities otherwise."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return "keys"
        return next((found for k in a if k not in MEASURED and (found := differ(a[k], b[k]))), "")
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return "lengths"
        return next((found for x, y in zip(a, b, strict=True) if (found := differ(x, y))), "")
    if isinstance(a, float) and isinstance(b, float):
        return "" if abs(a - b) < 1e-4 or (a != a and b != b) else f"{a} {b}"
    return "" if a == b else f"{a} {b}"


def rows(folder: Path) -> dict[str, list]:
    """The rows of each Parquet file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): pq.read_table(path).to_pylist()
        for path in sorted(folder.rglob("*.parquet"))
    }


def same_files(a: Path, b: Path, kinds: tuple[str, ...] = ("trees", "records")) -> None:
    for kind in kinds:
        left, right = rows(a / kind), rows(b / kind)
        assert left and left.keys() == right.keys()
        for name in left:
            assert not differ(left[name], right[name]), name


def no_tree_twice_or_lost(out: Path) -> None:
    for stage in ("rollout", "verify", "complete"):
        ids = [
            row["id"]
            for path in (out / "trees" / stage).iterdir()
            for row in pq.read_table(path, columns=["id"]).to_pylist()
        ]
        assert len(ids) == len(set(ids)) == 150, stage


def test_two_processes_write_the_files_of_one(one, two):
    for stage in IN_PARTS:
        processes = [is_done(out / "stages" / stage)["processes"] for out in (one, two)]
        assert processes == [1, 2], stage
    same_files(one, two)
    assert (
        len(list((one / "trees/rollout").iterdir())) > 20 and len(list((two / "trees/mixed").iterdir())) == 9
    )
    for kind in ("hard", "soft_agreed", "outcome", "pairs", "step_pairs", "traces"):
        assert list((two / "records/label" / kind).glob("*.parquet")), kind


def test_two_processes_measure_what_one_measures(one, two):
    found = [json.loads((out / "metrics.json").read_text()) for out in (one, two)]
    costs = ("seconds", "dollars")
    a, b = ([r for r in of_run if r["metric"] not in costs] for of_run in found)
    assert len(a) == len(b) > 30
    for x, y in zip(a, b, strict=True):
        numbers = ("value", "low", "high")
        assert {k: v for k, v in x.items() if k not in numbers} == {
            k: v for k, v in y.items() if k not in numbers
        }
        for name in numbers:
            assert (x[name] is None and y[name] is None) or x[name] == pytest.approx(y[name], abs=1e-5), x
    assert not (two / "stages/evaluate/parts").exists()


def test_counts_are_those_of_both(one, two):
    a, b = (Ledger.load(out / "ledger.json") for out in (one, two))
    for stage, model, counter in [
        ("rollout", "policy", "decoded"), ("rollout", "policy", "trajectories_generated"),
        ("rollout", "verifier", "verifications"), ("complete", "policy", "decoded"),
        ("label", "policy", "trajectories_kept"), ("evaluate", "policy", "decoded"),
    ]:  # fmt: skip
        assert a.counts[stage][model][counter] == b.counts[stage][model][counter] > 0, (stage, counter)
    for stage in ("rollout", "verify", "complete", "label", "mixed"):
        logged = [
            {
                k: v
                for line in (out / "stages" / stage / "metrics.jsonl").open()
                for k, v in json.loads(line).items()
            }
            for out in (one, two)
        ]
        for row in logged:
            for name in ("time", "rollout/verdict_wait"):
                row.pop(name, None)
        assert not differ(*logged)
    drawn = {row["set"]: row["drawn"] for row in logged[1]["mixture"]}
    # a third of 36 were asked of seldom, which has nine problems at most
    assert sum(drawn.values()) == 36 and drawn["seldom"] <= 9
    assert logged[1]["mixture/ran_dry"] == ["seldom"]


def wait_for(seen, is_running, out: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert is_running(), said(out)
        assert time.monotonic() < deadline
        time.sleep(0.002)


def marks(out: Path, stage: str) -> list[Path]:
    return sorted((out / "stages" / stage / "parts").glob("*.json"))


def killed(num: int, config: Path, out: Path, stage: str, least: int) -> None:
    """Start, and kill all processes by SIGKILL once so many parts of a stage are done."""
    processes = start(num, config, out)
    wait_for(lambda: len(marks(out, stage)) >= least, lambda: all(p.is_alive() for p in processes), out)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * num
    assert not is_done(out / "stages" / stage)


def test_a_process_that_dies_ends_the_other_with_a_reason(config, one, tmp_path):
    """Under the real launcher, within a minute; what was done stays."""
    out, config = tmp_path / "dies", up_to("verify", config, tmp_path)
    process = subprocess.Popen(
        [*TORCHRUN, "-m", "reasoner", "run", str(config), f"out={out}"], cwd=ROOT, env=environment(),
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    out.with_name("dies.said").mkdir()
    wait_for(lambda: len(marks(out, "rollout")) >= 3, lambda: process.poll() is None, out)
    of_rank = ranks_of(process.pid)
    assert sorted(of_rank) == [0, 1]
    os.kill(of_rank[1], signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "SIGKILL" in told or "another process of this run has ended" in told
    assert len(marks(out, "rollout")) >= 3 and not is_done(out / "stages/rollout")


def ranks_of(pid: int) -> dict[int, int]:
    """The processes of a launcher by their rank."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        variables = dict(
            v.split("=", 1) for v in Path(f"/proc/{child}/environ").read_text().split("\0") if "=" in v
        )
        if "RANK" in variables:
            found[int(variables["RANK"])] = int(child)
    return found


@pytest.mark.slow
def test_killed_again_and_again_it_goes_on_with_the_parts_that_are_left(config, one, tmp_path):
    """Two processes and then one in the rollout, two in the completion, one in the rollout of a mixture."""
    out, config = tmp_path / "killed", up_to("prm", config, tmp_path)
    before: dict[Path, int] = {}
    for num, stage, least in ((2, "rollout", 6), (1, "rollout", 12), (2, "complete", 6), (1, "mixed", 2)):
        killed(num, config, out, stage, least)
        for path, changed in before.items():
            assert path.stat().st_mtime_ns == changed, path
        before |= {
            shard: shard.stat().st_mtime_ns
            for mark in marks(out, stage)
            if (shard := out / "trees" / stage / f"{mark.stem}.parquet").exists()
        }
    assert len(before) >= 18
    finish(2, config, out)
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    no_tree_twice_or_lost(out)
    same_files(one, out)
    a, b = (Ledger.load(run / "ledger.json").counts for run in (one, out))
    for counter in ("trajectories_generated", "decoded"):  # what a part cost before a kill is not lost
        assert b["rollout"]["policy"][counter] >= 0.95 * a["rollout"]["policy"][counter]


@pytest.mark.slow
def test_another_config_begins_a_half_done_stage_anew(config, one, tmp_path):
    out = tmp_path / "changed"
    killed(1, up_to("verify", config, tmp_path), out, "rollout", 3)
    finish(1, up_to("verify", config, tmp_path, num_children="2"), out)
    ids = [row["id"] for of_file in rows(out / "trees/rollout").values() for row in of_file]
    assert len(ids) == len(set(ids)) == 150
    before, after = rows(one / "trees/rollout"), rows(out / "trees/rollout")
    assert before.keys() == after.keys() and all(before[name] != after[name] for name in before)


def test_more_processes_than_parts(config, tmp_path):
    """Whoever has nothing to do waits for the others."""
    finish(2, up_to("prm", config, tmp_path, num_problems="3"), tmp_path / "few")
    for stage in ("rollout", "verify", "complete"):
        (shard,) = (tmp_path / "few/trees" / stage).iterdir()
        assert pq.read_metadata(shard).num_rows == 3


def test_a_folder_that_is_not_shared_is_refused(tmp_path):
    """Each process in a folder of its own."""
    script = tmp_path / "apart.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nfrom reasoner.folder import check_shared, claimed, held_by\n"
        "from reasoner.trainers.ranks import from_everyone, start\n"
        "state = start()\n"
        "out = Path(sys.argv[1]) / str(state.process_index)\n"
        "with claimed(out):\n"
        "    owner = from_everyone(held_by(out))[0]\n"
        "    try:\n        check_shared(out, owner)\n        said = 'SAME'\n"
        "    except Exception as e:\n        said = f'REFUSED {e}'\n"
        "sys.stdout.write(f'{state.process_index} {said}\\n')\n"
    )
    done = subprocess.run(
        [*TORCHRUN, str(script), str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    first, second = sorted(done.stdout.splitlines())
    assert first == "0 SAME" and second.startswith("1 REFUSED") and "all machines share" in second
