"""SFT, DPO and pairwise reward models that are killed or stopped: the same command ends with the same weights."""

import hashlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from reasoner.config import read_yaml, validate
from reasoner.pipeline import RunConfig, run
from reasoner.store import is_done
from reasoner.trainers.checkpoint import latest_step
from reasoner.trainers.trl_settings import RankRows
from tests import warm

ROOT = Path(__file__).parent.parent.parent
SMOKE = ROOT / "configs" / "smoke" / "dpo.yaml"
STEPS = 12
# every epoch has an order of its own, adapters drop out at random, and moments are half of what an update is
TRAINERS = f"""
- {{kind: sft, name: sft_whole, model: sft, batch_size: 16, max_steps: {STEPS}, trl: {{gradient_accumulation_steps: 2,
    logging_steps: 2}}}}
- {{kind: sft, name: sft_lora, model: sft, batch_size: 16, max_steps: {STEPS}, lora: {{r: 2, dropout: 0.2}}}}
- {{kind: dpo, name: dpo_whole, model: sft, batch_size: 4, optimizer: {{lr: 0.001}}, trl: {{max_steps: {STEPS}}}}}
- {{kind: dpo, name: dpo_lora, model: sft, batch_size: 4, lora: {{r: 2, dropout: 0.2}}, trl: {{max_steps: {STEPS}}}}}
- {{kind: pairwise, model: sft, batch_size: 4, trl: {{max_steps: {STEPS}}}}}
- {{kind: distill, model: base, teacher: sft, batch_size: 4, max_steps: {STEPS}, max_tokens: 8, lora: {{r: 2, dropout: 0.2}}}}
"""
NAMES = [stage.get("name", stage["kind"]) for stage in yaml.safe_load(TRAINERS)]
SAVE_EVERY = 3


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """A run whose pairs are there, and the trainers behind them; `whole` beside it was never interrupted."""
    folder = tmp_path_factory.mktemp("trl")
    raw = read_yaml(SMOKE)
    raw["stages"] = raw["stages"][:5]
    run(validate(RunConfig, {**raw, "out": str(folder / "begun")}, "begun"))
    raw["stages"] += [{**stage, "save_every": SAVE_EVERY} for stage in yaml.safe_load(TRAINERS)]
    (folder / "run.yaml").write_text(yaml.safe_dump(raw))
    for name in ("whole", "killed"):
        shutil.copytree(folder / "begun", folder / name)
    done = warm.reasoner("run", folder / "run.yaml", f"out={folder / 'whole'}", cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run.yaml"


@pytest.fixture(scope="module")
def killed(config) -> Path:
    """The same run with a SIGKILL in each trainer, a random while after a checkpoint of its own."""
    out, draw = config.parent / "killed", random.Random(0)
    kills = []
    for name in NAMES:
        saved = out / "stages" / name / "checkpoints" / f"{SAVE_EVERY * draw.choice([1, 2, 3]):05d}"
        process = warm.start(
            "run", config, f"out={out}", cwd=ROOT, streams=[config.parent / "out", config.parent / "err"]
        )
        while process.is_alive() and not saved.is_dir():
            time.sleep(0.002)
        time.sleep(draw.random() * 0.1)
        process.kill()
        process.join()
        kills.append((name, process.exitcode, is_done(out / "stages" / name) is None))
    assert kills == [(name, -signal.SIGKILL, True) for name in NAMES], (config.parent / "err").read_text()[
        -3000:
    ]
    done = warm.reasoner("run", config, f"out={out}", cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_any_moment_the_same_command_ends_with_the_same_weights(config, killed, name):
    whole = config.parent / "whole"
    found, wanted = (digests(out / "models" / name / "model") for out in (killed, whole))
    assert found == wanted and wanted
    assert set(wanted.values()).isdisjoint(digests(whole / "models/sft/model").values())
    lines, uninterrupted = (
        [json.loads(x) for x in (out / "stages" / name / "metrics.jsonl").read_text().splitlines()]
        for out in (killed, whole)
    )
    assert [x["step"] for x in lines] == [x["step"] for x in uninterrupted]  # none twice
    counted = [json.loads((out / "ledger.json").read_text())["counts"][name] for out in (killed, whole)]
    tokens = [
        {m: c for m, c in counts.items() if m != "disk"} for counts in counted
    ]  # what was written has times in it
    assert tokens[0] == tokens[1] and any("trained" in c for c in tokens[0].values())
    assert not (killed / "stages" / name / "checkpoints").exists()


def test_a_stop_saves_at_the_end_of_the_step_and_the_rest_is_as_if_nothing_had_happened(config):
    folder = config.parent
    out, streams = folder / "stopped", [folder / "out", folder / "err"]
    shutil.copytree(folder / "begun", out)
    first = folder / "first.yaml"  # without the trainers behind it
    first.write_text(yaml.safe_dump({**(raw := read_yaml(config)), "stages": raw["stages"][:6]}))
    process = warm.start("run", first, f"out={out}", "stages.5.save_every=100000", cwd=ROOT, streams=streams)
    lines = out / "stages/sft_whole/metrics.jsonl"
    while process.is_alive() and not (lines.is_file() and "sft/loss" in lines.read_text()):
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(120)
    told = (folder / "err").read_text()
    assert process.exitcode == 75 and told.endswith(
        "reasoner: stopped by SIGTERM; the same command goes on where it was\n"
    )
    assert 0 < latest_step(out / "stages/sft_whole/checkpoints") < STEPS
    done = warm.reasoner("run", first, f"out={out}", "stages.5.save_every=1", cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert digests(out / "models/sft_whole/model") == digests(folder / "whole/models/sft_whole/model")


def test_rows_given_out_before_an_epoch_are_counted_and_those_after_are_the_same():
    lengths = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    one, other = (RankRows(lengths, 3, seed=7, by_length=True) for _ in range(2))
    for _ in range(2):
        list(one)
    other.start_at(2)
    assert other.tokens == one.tokens > 0
    assert list(other) == list(one) and other.tokens == one.tokens
