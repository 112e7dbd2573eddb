"""Networks cut over two real processes: they end with the weights of one whole process, and go on on any number."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from reasoner.config import validate
from reasoner.pipeline import RunConfig, run
from reasoner.policy.models import load_model, load_tokenizer, save
from reasoner.registry import UserError
from reasoner.store import is_done
from reasoner.trainers.checkpoint import latest_step
from tests.trainers.test_two_processes import (
    PROBLEMS,
    START,
    TORCHRUN,
    TREES,
    furthest,
    shell,
    weights,
)
from tests.warm import ranks

ROOT = Path(__file__).parent.parent.parent
EACH = """
  - {kind: ppo, name: ppo_BASE, model: MODEL, problems_per_round: 7, minibatches: 1, kl_weight: 0.1, CUT, PPO: 5}
  - {kind: ppo, name: grpo_BASE, model: MODEL, problems_per_round: 11, minibatches: 2, CUT, GRPO: 2}
  - {kind: prm, name: prm_BASE, model: MODEL, batch_size: 16, epochs: 0.3, CUT, optimizer: RATE}
  - {kind: orm, name: orm_BASE, model: MODEL, batch_size: 16, epochs: 0.3, reads: likelihood, CUT, optimizer: RATE}
  - {kind: sft, name: sft_BASE, model: MODEL, batch_size: 8, max_steps: 3, CUT_TRL, optimizer: RATE}
  - {kind: dpo, name: dpo_BASE, model: MODEL, batch_size: 4, epochs: EPOCHS, CUT_TRL, optimizer: RATE}
"""
LORA = """
  - {kind: sft, name: sft_lora, model: MODEL, batch_size: 8, max_steps: 3, lora: {r: 2}, CUT_TRL, optimizer: RATE}
  - {kind: dpo, name: dpo_lora, model: MODEL, batch_size: 4, epochs: EPOCHS, loss: ipo, lora: {r: 2}, CUT_TRL, optimizer: RATE}
  - {kind: ppo, name: lora, model: MODEL, problems_per_round: 7, kl_weight: 0.1, lora: {r: 2}, minibatches: 2, CUT, PPO: 2}
  - {kind: prm, name: prm_lora, model: MODEL, batch_size: 16, epochs: 0.3, lora: {r: 2}, CUT, optimizer: RATE}
"""
# Adam makes whole steps of rounding where gradients cancel: with an eps above it the weights show the gradients
RATE = "{lr: 0.0005, warmup: 0.0, schedule: constant, eps: 0.0001}"
GRPO = (
    "max_tokens: 16, advantage: {method: grpo}, tree: {num_roots: 8, num_points: 0}, optimizer: RATE, rounds"
)
PPO = "max_tokens: 16, drop_uniform: false, optimizer: RATE, critic_optimizer: RATE, rounds"
TRAINED = ("ppo", "grpo", "prm", "orm", "sft", "dpo")


def config(text: str, cut: str) -> str:
    trl = "shard: {}, trl: {gradient_checkpointing: true}" if "shard" in cut else "trl: {}"
    for name, value in {
        "CUT_TRL": trl,
        "CUT": cut,
        "EPOCHS": "0.5",
        "GRPO": GRPO,
        "PPO": PPO,
        "RATE": RATE,
    }.items():
        text = text.replace(name, value)
    return text


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    """A model that imitated a little, tied and untied."""
    folder = tmp_path_factory.mktemp("shard")
    run(validate(RunConfig, {**yaml.safe_load(PROBLEMS + START), "out": str(folder / "start")}, "start"))
    tied = folder / "start/models/sft/model"
    lm = load_model(str(tied))
    lm.lm_head.weight = type(lm.lm_head.weight)(lm.lm_head.weight.detach().clone())
    lm.config.tie_word_embeddings = False
    save(lm, load_tokenizer(str(tied)), folder / "untied")
    return {"folder": folder, "tied": tied, "untied": folder / "untied"}


@pytest.fixture(scope="module")
def runs(bases) -> dict[str, Path]:
    """The same stages whole on one process and cut over two, recomputing layers in one of the two."""
    text = PROBLEMS + (TREES + LORA).replace("MODEL", str(bases["tied"]))
    for name in ("tied", "untied"):
        text += EACH.replace("BASE", name).replace("MODEL", str(bases[name]))
    found = dict(bases)
    for num, name, cut in (
        (1, "one", "gradient_checkpointing: false"),
        (2, "two", "shard: {}, gradient_checkpointing: true"),
    ):
        file = bases["folder"] / f"{name}.yaml"
        file.write_text(config(text, cut), encoding="utf-8")
        found[name] = bases["folder"] / name
        finish(num, file, found[name])
    return found


def finish(num: int, file: Path, out: Path) -> None:
    """The run on so many processes, to its end."""
    for process in (processes := ranks(num, "run", file, f"out={out}", cwd=ROOT, said=out.with_name("said"))):
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * num, said(out)


def said(out: Path) -> str:
    return "".join(path.read_text()[-3000:] for path in out.with_name("said").iterdir())


def processes(run: Path, stage: str) -> int:
    return json.loads((run / "stages" / stage / "done").read_text())["processes"]


@pytest.mark.parametrize("base", ["tied", "untied"])
@pytest.mark.parametrize("stage", TRAINED)
def test_cut_over_two_they_end_with_the_weights_of_one(runs, stage, base):
    assert [processes(runs[r], f"{stage}_{base}") for r in ("one", "two")] == [1, 2]
    for name in ["model", "critic"] if stage == "ppo" else ["model"]:
        a, b = (weights(runs[r] / "models" / f"{stage}_{base}" / name) for r in ("one", "two"))
        assert a.keys() == b.keys() and len(a) > 10
        assert all(a[k].dtype == b[k].dtype and a[k].shape == b[k].shape for k in a)
        assert furthest(a, weights(runs[base])) > 2e-4  # it trained
        assert furthest(a, b) < 1e-5, name


@pytest.mark.parametrize("stage", ["ppo_untied", "grpo_tied", "sft_untied", "lora", "dpo_lora"])
def test_what_was_cut_loads_without_us(runs, stage):
    """A plain folder of transformers, or of PEFT, with the same files and answers as that of one process."""
    one, two = (runs[r] / "models" / stage / "model" for r in ("one", "two"))
    files = [
        {p.name for p in folder.iterdir()} - {"README.md"} for folder in (one, two)
    ]  # PEFT's, of a wrapper
    assert files[0] == files[1]
    loader = AutoPeftModelForCausalLM if "lora" in stage else AutoModelForCausalLM
    ids = torch.arange(12)[None]
    logits = [loader.from_pretrained(folder)(input_ids=ids).logits for folder in (one, two)]
    base = AutoModelForCausalLM.from_pretrained(runs["untied" if "untied" in stage else "tied"])
    assert (logits[0] - logits[1]).abs().max() < 1e-4 < 1e-3 < (logits[1] - base(ids).logits).abs().max()


def test_adapters_on_a_cut_base_are_those_on_a_whole_one(runs):
    for stage, names in (
        ("lora", ("model", "critic")),
        ("prm_lora", ("model",)),
        ("sft_lora", ("model",)),
        ("dpo_lora", ("model",)),
    ):
        assert [processes(runs[r], stage) for r in ("one", "two")] == [1, 2]
        for name in names:
            a, b = (weights(runs[r] / "models" / stage / name) for r in ("one", "two"))
            assert a.keys() == b.keys()
            assert max(w.abs().max().item() for k, w in a.items() if "lora_B" in k) > 4e-4
            assert furthest(a, b) < 1e-5


CUT_SCRIPT = """
import sys, torch
from reasoner.policy.heads import PolicyNet
from reasoner.policy.models import load_model
from reasoner.policy.shard import Sharding, is_sharded, local, shard
from reasoner.trainers.ranks import from_everyone, start
state = start()
lm = load_model(sys.argv[1], torch.float32).requires_grad_(True)
whole = sum(p.numel() for p in lm.parameters())
net = PolicyNet(lm)
shard(net, Sharding())
held = from_everyone(sum(local(p).numel() for p in net.parameters()))
if state.is_main_process:
    print("HELD", whole, *held, is_sharded(net))
"""


def test_each_process_holds_its_part(bases, tmp_path):
    (tmp_path / "cut.py").write_text(CUT_SCRIPT)
    done = shell([*TORCHRUN, str(tmp_path / "cut.py"), str(bases["untied"])])
    said = next(line for line in done.stdout.splitlines() if line.startswith("HELD")).split()
    whole, first, second = map(int, said[1:4])
    assert said[4] == "True" and first + second == whole
    assert max(first, second) < 0.55 * whole


RESUMED = """
stages:
  - {kind: ppo, name: ppo, model: MODEL, problems_per_round: 6, minibatches: 1, save_every: 1, CUT, PPO: 6}
  - {kind: sft, name: sft, model: MODEL, batch_size: 8, max_steps: 60, save_every: 3, CUT_TRL, optimizer: RATE}
"""


def killed_at(step: int, num: int, file: Path, out: Path, stage: str) -> int:
    """Start, and kill all processes by SIGKILL once so many steps of a stage are saved; how many are."""
    checkpoints = out / "stages" / stage / "checkpoints"
    processes = ranks(num, "run", file, f"out={out}", cwd=ROOT, said=out.with_name("said"))
    deadline = time.monotonic() + 240
    while latest_step(checkpoints) < step:
        assert all(p.is_alive() for p in processes) and time.monotonic() < deadline, said(out)
        time.sleep(0.02)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * num
    return latest_step(checkpoints)


@pytest.fixture(scope="module")
def uninterrupted(bases) -> Path:
    file, out = bases["folder"] / "uninterrupted.yaml", bases["folder"] / "uninterrupted"
    text = config(RESUMED, "gradient_checkpointing: false").replace("MODEL", str(bases["untied"]))
    file.write_text(PROBLEMS + text, encoding="utf-8")
    finish(1, file, out)
    return out


@pytest.mark.parametrize(
    "cut", ["shard: {}", pytest.param("gradient_checkpointing: false", marks=pytest.mark.slow)]
)
def test_killed_it_goes_on_with_another_number_of_processes(bases, uninterrupted, tmp_path, cut):
    """2, 1, 2 and 1 processes: killed in each of the first three, cut, and whole on each."""
    file = tmp_path / "run.yaml"
    file.write_text(PROBLEMS + config(RESUMED, cut).replace("MODEL", str(bases["untied"])), encoding="utf-8")
    out = tmp_path / "killed"
    ppo, sft = (out / "stages" / name / "checkpoints" for name in ("ppo", "sft"))
    first = killed_at(1, 2, file, out, "ppo")
    assert any((ppo / f"{first:05d}").glob("rank1.pt"))
    second = killed_at(first + 1, 1, file, out, "ppo")
    assert not any((ppo / f"{second:05d}").glob("rank1.pt"))
    assert 1 <= first < second < 6 and not is_done(out / "stages/ppo")
    third = killed_at(1, 2, file, out, "sft")
    assert processes(out, "ppo") == 2 and 3 <= third < 60 and not is_done(out / "stages/sft")
    if "shard" in cut:
        assert list((sft / f"{third:05d}/shards").glob("*.distcp"))
    finish(1, file, out)
    assert processes(out, "sft") == 1
    for name in ("ppo/model", "ppo/critic", "sft/model"):
        a, b = (weights(folder / "models" / name) for folder in (uninterrupted, out))
        assert furthest(a, weights(bases["untied"])) > 2e-4
        assert furthest(a, b) < 1e-5, name
    ledgers = [json.loads((folder / "ledger.json").read_text())["counts"] for folder in (uninterrupted, out)]
    for stage, counters in (("ppo", ("decoded", "trajectories_generated", "trained")), ("sft", ("trained",))):
        for counter in counters:
            assert ledgers[0][stage]["policy"][counter] == ledgers[1][stage]["policy"][counter] > 0


def test_muon_is_refused(bases):
    from reasoner.policy.shard import Sharding
    from reasoner.trainers.loop import OptimizerConfig, check_cut

    with pytest.raises(UserError, match="muon with shard"):
        check_cut(Sharding(), OptimizerConfig(name="muon"), False)
    with pytest.raises(UserError, match="offload with lora"):
        check_cut(Sharding(offload=True), OptimizerConfig(), True)
    check_cut(Sharding(offload=True), OptimizerConfig(), False)
