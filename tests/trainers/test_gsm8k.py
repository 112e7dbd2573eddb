"""The configs of the real model and the real problems, on a small random model of that architecture."""

import json
from pathlib import Path

import pytest
from small_models import first_rows, save_small_qwen

from tests import warm

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory, shared_data):
    rows = first_rows(shared_data / "gsm8k/train.jsonl.gz", 200)
    return save_small_qwen(tmp_path_factory.mktemp("qwen"), [r["question"] + r["answer"] for r in rows])


def train(config, out, *overrides, how="train"):
    done = warm.reasoner(how, ROOT / "configs/gsm8k" / config, f"out={out}", *overrides, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def test_sft_then_ppo_with_lora_on_real_rows(tmp_path, model, shared_data):
    data = (f"problems.train.0.path={shared_data / 'gsm8k/train.jsonl.gz'}", "problems.train.0.size=24")
    sft, ppo = tmp_path / "sft", tmp_path / "ppo"
    train("sft.yaml", sft, f"stages.0.model={model}", *data, "stages.0.max_steps=2", "stages.0.batch_size=4")
    adapter = sft / "models/sft/model"
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(model)
    train("ppo.yaml", ppo, f"stages.0.model={adapter}", *data, "stages.0.rounds=2", "stages.0.problems_per_round=4",
          "stages.0.max_tokens=24", "stages.0.drop_uniform=false")  # fmt: skip
    assert (ppo / "models/ppo/model/adapter_model.safetensors").is_file()
    lines = [json.loads(x) for x in (ppo / "metrics.jsonl").read_text().splitlines()]
    assert len([x for x in lines if "ppo/loss" in x]) == 2


def test_trees_and_evaluation_on_real_rows(tmp_path, model, shared_data):
    rows = shared_data / "gsm8k/train.jsonl.gz"
    data = (f"problems.train.0.path={rows}", "problems.train.0.size=3")
    names = [f"stages.{i}.model={model}" for i in range(3)]
    run = tmp_path / "trees"
    train("rollout.yaml", run, *names, *data, "stages.0.max_tokens=24", "stages.0.num_problems=3", how="run")
    assert len(list((run / "records/label/soft").glob("*.parquet"))) == 1
    test = (f"problems.test.0.path={rows}", "problems.test.0.size=3")
    policies = f'stages.0.policies=["{model}"]', "stages.0.sampled=[]"
    train("evaluate.yaml", tmp_path / "eval", *test, *policies, "stages.0.max_tokens=8", how="run")
    found = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert {r["n"] for r in found} == {3}
