"""reasoner init writes a YAML that runs as it stands, for each method; what cannot be is one line."""

import json
from pathlib import Path

import pytest
from small_models import save_small_qwen

from reasoner.commands.init import METHODS, yaml_for
from reasoner.config import apply_overrides, read_yaml, validate
from reasoner.pipeline import RunConfig, run
from reasoner.registry import UserError
from tests import warm


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A model, and problems whose answer it writes now and then: one token of a handful."""
    folder = tmp_path_factory.mktemp("given")
    rows = [{"prompt": f"{i}?", "answer": "7", "solution": "7\n7"} for i in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return save_small_qwen(folder / "model", ["7?\n"] * 20, 262), folder / "rows.jsonl"


SMALL = {
    "sft": ["max_steps=1", "batch_size=4"],
    "ppo": ["rounds=1", "problems_per_round=4", "max_tokens=8", "drop_uniform=false"],
    "rollout": ["num_problems=4", "max_tokens=8"],
    "prm": ["epochs=1", "holdout=0"],
    "dpo": ["trl={max_steps: 1}", "batch_size=2"],
    "evaluate": ["max_tokens=4"],
}


@pytest.mark.parametrize("method", METHODS)
def test_the_yaml_of_each_method_is_a_config_of_all_its_stages(given, tmp_path, method):
    model, data = given
    path = tmp_path / "my.yaml"
    path.write_text(yaml_for(str(model), data, method, path, 64))
    config = validate(RunConfig, {**read_yaml(path), "out": str(tmp_path / "run")}, "my.yaml")
    kinds = [stage.kind for stage in config.stages]
    assert (
        kinds[-1] == ("prm" if method == "prm" else "evaluate")
        and {"grpo": "ppo"}.get(method, method) in kinds
    )
    trains = next(s for s in config.stages if s.kind == {"grpo": "ppo"}.get(method, method))
    assert trains.lora.r == 16 and all(
        getattr(s, "max_tokens", 64) == 64 for s in config.stages if s.kind != "import"
    )
    assert config.prompt.chat is False and [s.part for s in config.problems["test"]] == [(0.0, 0.1)]


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_it_runs(given, tmp_path, method):
    model, data = given
    path = tmp_path / "my.yaml"
    done = warm.reasoner("init", path, "--model", model, "--data", data, "--method", method, cwd=tmp_path)
    assert done.returncode == 0 and f"reasoner run {path}" in done.stdout
    raw = read_yaml(path)
    changes = [f"out={tmp_path / 'run'}"]
    changes += [f"stages.{i}.{key}" for i, s in enumerate(raw["stages"]) for key in SMALL[s["kind"]]]
    rows = run(validate(RunConfig, apply_overrides(raw, changes), "my.yaml"))
    assert {row.when for row in rows} == {Path(raw["stages"][-1]["policies"][0]).parent.name, method}


def test_what_cannot_be_is_one_line_and_nothing_is_overwritten(given, tmp_path):
    model, data = given
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"prompt": "1", "answer": "1"}\n')
    for method, path, part in (
        ("grppo", data, "grpo"),
        ("grpo", Path("none.jsonl"), "no file"),
        ("sft", plain, "solution"),
    ):
        with pytest.raises(UserError, match=part):
            yaml_for(str(model), path, method, Path("x.yaml"), 64)
    there = tmp_path / "there.yaml"
    there.write_text("mine")
    done = warm.reasoner("init", there, "--model", model, "--data", data, "--method", "grpo", cwd=tmp_path)
    assert done.returncode == 2 and "which exists" in done.stderr and there.read_text() == "mine"


def test_names_with_signs_of_yaml_stay_what_they_are(given, tmp_path):
    model, data = given
    odd = tmp_path / "a: b #{c}.jsonl"
    odd.write_bytes(data.read_bytes())
    path = tmp_path / "my.yaml"
    path.write_text(yaml_for(str(model), odd, "grpo", path, 64))
    assert read_yaml(path)["problems"]["train"][0]["path"] == str(odd)
