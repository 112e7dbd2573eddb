"""Two real processes: every trainer ends with the weights of one, from tied and untied models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from reasoner.config import validate
from reasoner.ledger import Ledger
from reasoner.pipeline import RunConfig, run
from reasoner.policy.models import load_model, load_tokenizer, save
from reasoner.registry import UserError
from reasoner.store import is_done
from reasoner.trainers.ranks import check_started

ROOT = Path(__file__).parent.parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
LAUNCH_FILES = sorted((ROOT / "launch/accelerate").glob("*.yaml"))

# 1e-5 but for rounding, of which Adam makes steps: with AVX-512 sft of the untied model ends 1.007e-5 apart
ROUNDED = 1.5e-5

PROBLEMS = """
prompt: {template: "{prompt}=\\n"}
problems:
  demonstrations:
    - {name: arithmetic, size: 200, families: &short {chain_sum: {max_terms: 2, max_digits: 1}}}
  train:
    - {name: arithmetic, start: 1000000, size: 40, families: *short}
"""
START = """
stages:
  - {kind: init, hidden_size: 32, num_layers: 2, num_heads: 2, num_key_value_heads: 1, intermediate_size: 64}
  - {kind: sft, model: base, batch_size: 32, max_steps: 150, optimizer: {name: muon, lr: 0.01}}
"""
TREES = """
stages:
  - kind: rollout
    model: MODEL
    num_problems: 40
    max_tokens: 16
    tree: {where: every_step, num_roots: 4, num_points: 1, num_children: 3}
  - {kind: verify, model: MODEL}
  - {kind: label, model: MODEL}
"""
ONCE = """
  - {kind: sft, name: timed, model: MODEL, batch_size: 8, max_seconds: 0.5, trl: {logging_steps: 1}}
  - {kind: sft, name: timed_by_stage, model: MODEL, batch_size: 8, seconds_of: [timed], trl: {logging_steps: 1}}
  - {kind: distill, name: distilled, model: MODEL, teacher: timed, batch_size: 8, max_steps: 2, max_tokens: 16, optimizer: RATE}
  - {kind: sft, name: tasks, model: MODEL, batch_size: 8, max_steps: 3, two_tasks: {rationale_weight: 0.5}, optimizer: RATE}
  - {kind: ppo, name: lora, model: MODEL, problems_per_round: 7, kl_weight: 0.1, lora: {r: 2}, minibatches: 2, PPO: 2}
  - {kind: ppo, name: reused, model: MODEL, problems_per_round: 9, minibatches: 2, REUSED: 4}
"""
EACH = """
  - {kind: sft, name: sft_BASE, model: MODEL, batch_size: 8, max_steps: 3, optimizer: RATE}
  - {kind: dpo, name: dpo_BASE, model: MODEL, batch_size: 4, optimizer: RATE, trl: {max_steps: 3}}
  - {kind: prm, name: prm_BASE, model: MODEL, batch_size: 16, epochs: 0.3, optimizer: RATE}
  - {kind: orm, name: orm_BASE, model: MODEL, loss: ranking, batch_size: 16, epochs: 0.8, optimizer: RATE}
  - {kind: pairwise, name: pairwise_BASE, model: MODEL, batch_size: 4, optimizer: RATE, trl: {max_steps: 2}}
  - {kind: ppo, name: ppo_BASE, model: MODEL, problems_per_round: 7, minibatches: 2, PPO: 2}
  - {kind: ppo, name: grpo_BASE, model: MODEL, problems_per_round: 11, minibatches: 1, GRPO: 2}
"""
AFTER = """
  - {kind: ppo, name: refreshed, model: MODEL, prm: prm_tied, problems_per_round: 7, prm_refresh: REFRESH, PPO: 2}
"""
REFRESH = (
    "{updates: 2, optimizer: RATE}, tree: {where: every_step, num_roots: 2, num_points: 1}, "
    "advantage: {reward: {prm_weight: 0.2}}"
)
PPO = "max_tokens: 16, drop_uniform: false, optimizer: RATE, critic_optimizer: RATE, rounds"
GRPO = (
    "max_tokens: 16, advantage: {method: grpo}, tree: {num_roots: 8, num_points: 0}, optimizer: RATE, "
    "implicit_prm: {updates: 2, optimizer: RATE}, rounds"
)
REUSED = (
    "max_tokens: 16, temperature: 1.7, advantage: {method: grpo}, tree: {num_roots: 6, num_points: 0}, screen: 3, "
    "curriculum: {}, replay: {}, starts: {share: 0.4, below: 1.0}, optimizer: RATE, rounds"
)
# where a head of zeros passes next to nothing back, Adam magnifies rounding: few updates, and small ones
RATE = "{lr: 0.0005, warmup: 0.0, schedule: constant}"
TRAINED = ("sft", "dpo", "prm", "orm", "pairwise", "ppo", "grpo")


def shell(command: list[str], timeout: int = 300, **options) -> subprocess.CompletedProcess:
    """A command with our code on its path; what it wrote is part of the failure where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, **options
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """The same stages on one process and on two, started from one short imitation, tied and untied."""
    folder = tmp_path_factory.mktemp("runs")
    run(validate(RunConfig, {**yaml.safe_load(PROBLEMS + START), "out": str(folder / "start")}, "start"))
    tied = folder / "start/models/sft/model"
    lm = load_model(str(tied))
    lm.lm_head.weight = type(lm.lm_head.weight)(lm.lm_head.weight.detach().clone())
    lm.config.tie_word_embeddings = False
    save(lm, load_tokenizer(str(tied)), folder / "untied")
    text = PROBLEMS + (TREES + ONCE).replace("MODEL", str(tied))
    for name, model in (("tied", tied), ("untied", folder / "untied")):
        text += EACH.replace("BASE", name).replace("MODEL", str(model))
    text += AFTER.replace("MODEL", str(tied))
    for name, value in {"REFRESH": REFRESH, "REUSED": REUSED, "GRPO": GRPO, "PPO": PPO, "RATE": RATE}.items():
        text = text.replace(name, value)
    (folder / "all.yaml").write_text(text, encoding="utf-8")
    found = {"tied": tied, "untied": folder / "untied"}
    for name, launcher in (("one", [sys.executable]), ("two", TORCHRUN)):
        found[name] = folder / name
        done = shell([*launcher, "-m", "reasoner", "run", str(folder / "all.yaml"), f"out={found[name]}"])
        assert done.returncode == 0, done.stderr[-3000:]
    return found


def weights(folder: Path) -> dict:
    return {
        f"{path.name}/{name}": tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def furthest(a: dict, b: dict) -> float:
    return max((a[k] - b[k]).abs().max().item() for k in a.keys() & b.keys())


@pytest.mark.parametrize("base", ["tied", "untied"])
@pytest.mark.parametrize("stage", TRAINED)
def test_two_processes_end_with_the_weights_of_one(runs, stage, base):
    assert "lm_head.weight" in {k.split("/")[-1] for k in weights(runs["untied"])}
    num = [
        json.loads((runs[r] / "stages" / f"{stage}_{base}" / "done").read_text())["processes"]
        for r in ("one", "two")
    ]
    assert num == [1, 2]
    one, two = (runs[r] / "models" / f"{stage}_{base}" for r in ("one", "two"))
    names = ["model", *{"ppo": ["critic"], "grpo": ["implicit_prm"]}.get(stage, [])]
    for name in names:
        a, b = weights(one / name), weights(two / name)
        assert a.keys() == b.keys()
        if stage in ("orm", "pairwise"):  # of what is compared a bias is no part: it follows rounding alone
            del a["score_head.safetensors/bias"]
        assert furthest(a, weights(runs[base])) > 2e-4  # it trained
        assert furthest(a, b) < ROUNDED, name


def test_adapters_on_one_base_are_those_of_one_process(runs):
    for name in ("model", "critic"):
        a, b = (weights(runs[r] / "models/lora" / name) for r in ("one", "two"))
        assert max(w.abs().max().item() for k, w in a.items() if "lora_B" in k) > 5e-4
        assert furthest(a, b) < 1e-5


def test_a_prm_that_is_kept_up_learns_from_the_trees_of_all(runs):
    """Two updates a refresh, each on the trees of one process and of two alike, whoever drew them."""
    one, two = (runs[r] / "models/refreshed" for r in ("one", "two"))
    for name in ("prm", "model", "critic"):
        a, b = weights(one / name), weights(two / name)
        assert furthest(a, b) < ROUNDED, name
    assert furthest(weights(one / "prm"), weights(runs["one"] / "models/prm_tied/model")) > 5e-4


def test_two_tasks_are_means_over_the_tokens_of_all(runs):
    one, two = (weights(runs[r] / "models/tasks/model") for r in ("one", "two"))
    assert furthest(one, weights(runs["tied"])) > 2e-4 and furthest(one, two) < 1e-5


def test_choices_starts_and_reuse_are_those_of_one_process(runs):
    """What is chosen, given and learned from again is settled over all processes, whoever drew it."""
    one, two = (weights(runs[r] / "models/reused/model") for r in ("one", "two"))
    assert furthest(one, weights(runs["tied"])) > 2e-4 and furthest(one, two) < 1e-5
    rows = [
        [json.loads(x) for x in (runs[r] / "stages/reused/metrics.jsonl").open() if "ppo/reward" in x]
        for r in ("one", "two")
    ]
    for name in ("ppo/begun_inside", "ppo/replayed", "ppo/kept", "ppo/reward", "ppo/drawn"):
        a, b = ([row[name] for row in of] for of in rows)
        assert a == pytest.approx(b) and sum(a) > 0, name


def test_the_ledger_counts_all_processes(runs):
    one, two = (Ledger.load(runs[r] / "ledger.json") for r in ("one", "two"))
    for stage in (f"{kind}_{base}" for kind in TRAINED for base in ("tied", "untied")):
        for model, counted in one.counts[stage].items():
            for counter in ("trained", "decoded", "verifications", "trajectories_generated"):
                if counter in counted and not (stage.startswith(("prm", "orm")) and counter == "trained"):
                    assert two.counts[stage][model][counter] == counted[counter] > 0, (stage, model, counter)
    # a tree that is divided costs its shared prefix on each process
    assert two.counts["prm_tied"]["prm"]["trained"] >= one.counts["prm_tied"]["prm"]["trained"] > 0


def test_one_clock_ends_a_run_of_seconds_on_both(runs):
    """Each by its own clock, one process would wait for ever for the other's gradients."""
    for stage in ("timed", "timed_by_stage"):
        found = [json.loads(line) for line in (runs["two"] / "stages" / stage / "metrics.jsonl").open()]
        assert found and (runs["two"] / "models" / stage / "model/model.safetensors").is_file()


def test_a_student_learns_what_two_processes_draw(runs):
    """Each draws for its own problems: what comes out is one student, which moved, and the tokens of both are counted."""
    start = weights(runs["tied"])
    for number, name in ((1, "one"), (2, "two")):
        moved = furthest(weights(runs[name] / "models/distilled/model"), start)
        assert 0 < moved < 0.01
        counts = Ledger.load(runs[name] / "ledger.json").counts["distilled"]
        assert counts["teacher"]["scored"] == counts["policy"]["prefilled"] + counts["policy"]["decoded"]
        assert is_done(runs[name] / "stages/distilled")["processes"] == number
    prefilled = [
        Ledger.load(runs[n] / "ledger.json").counts["distilled"]["policy"]["prefilled"]
        for n in ("one", "two")
    ]
    assert prefilled[0] == prefilled[1] > 0  # the same problems


@pytest.mark.parametrize("file", LAUNCH_FILES, ids=lambda p: p.stem)
def test_a_launch_file_starts_what_it_says(file, tmp_path):
    script = tmp_path / "count.py"
    script.write_text(
        "from reasoner.trainers.ranks import from_everyone, start\n"
        "state = start()\n"
        "found = from_everyone(state.process_index)\n"
        "print('RANKS', found) if state.is_main_process else None\n"
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    done = shell([*launch, "--main_process_port", "0", str(script)])
    said = yaml.safe_load(file.read_text())["num_processes"]
    assert said > 1 and f"RANKS {list(range(said))}" in done.stdout, done.stderr[-2000:]


def test_a_launch_file_that_starts_one_of_two_is_refused(tmp_path):
    """accelerate's MULTI_CPU starts a single process where there is no MPI."""
    said = yaml.safe_load(LAUNCH_FILES[0].read_text())
    (tmp_path / "cpu.yaml").write_text(
        yaml.safe_dump({**said, "distributed_type": "MULTI_CPU", "use_cpu": True})
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "cpu.yaml")]
    done = shell([*launch, "-m", "reasoner", "train", "configs/smoke/ppo.yaml", f"out={tmp_path / 'out'}"])
    assert done.returncode != 0 and "several processes (MASTER_ADDR) and 1 started" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_fewer_processes_than_announced_are_refused(name):
    with pytest.raises(UserError, match=f"8 processes \\({name}\\) and 2 started"):
        check_started({name: "8"}, 2)
    check_started({name: "8", "MASTER_ADDR": "host"}, 8)
    check_started({"MASTER_ADDR": "host", "SLURM_NTASKS": "8"}, 1)


@pytest.mark.slow
def test_a_long_stage_of_one_process_is_waited_for(tmp_path):
    """The group's own limit is two seconds here; the first process takes four."""
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time, datetime, torch.distributed as dist\n"
        "from accelerate import PartialState\n"
        "from reasoner.trainers.ranks import wait_for_everyone\n"
        "state = PartialState(cpu=True, timeout=datetime.timedelta(seconds=2))\n"
        "wait_for_everyone()\n"
        "time.sleep(4 if state.is_main_process else 0)\n"
        "wait_for_everyone() if sys.argv[1] == 'ours' else dist.barrier()\n"
        "print('WAITED', state.process_index)\n"
    )
    ours, plain = (shell([*TORCHRUN, str(script), which], timeout=120) for which in ("ours", "plain"))
    assert ours.stdout.count("WAITED") == 2, ours.stderr[-2000:]
    assert plain.returncode != 0 and "WAITED 1" not in plain.stdout
