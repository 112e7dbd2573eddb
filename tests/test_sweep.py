"""A sweep runs every combination in a folder of its own, tells all in one table, and outlives one that fails."""

import json
import math

import pytest
import yaml
from small_models import TINY

from reasoner.commands.sweep import run_sweep, settings, table
from reasoner.config import ConfigError
from reasoner.registry import UserError


def test_every_combination_has_its_overrides_and_a_folder_of_its_own():
    found = settings(["stages.1.optimizer.lr=[1e-5, 0.001]", "seed=[0, 1]"])
    assert [s.overrides for s in found] == [
        ["stages.1.optimizer.lr=1e-05", "seed=0"],
        ["stages.1.optimizer.lr=1e-05", "seed=1"],
        ["stages.1.optimizer.lr=0.001", "seed=0"],
        ["stages.1.optimizer.lr=0.001", "seed=1"],
    ]
    assert [s.folder for s in found] == [
        "lr=1e-05,seed=0", "lr=1e-05,seed=1", "lr=0.001,seed=0", "lr=0.001,seed=1",
    ]  # fmt: skip


def test_values_that_look_alike_as_names_do_not_share_a_folder():
    found = settings(['prompt.template=["a/{prompt}", "a?{prompt}", "../../b"]'])
    assert [s.folder for s in found] == ["template=a_prompt", "template=a_prompt-2", "template=.._.._b"]
    weights = settings(["stages.1.mixture.weights=[{a: 1, b: 3}, {a: 3, b: 1}]"])
    assert [json.loads(s.overrides[0].partition("=")[2]) for s in weights] == [
        {"a": 1, "b": 3},
        {"a": 3, "b": 1},
    ]


@pytest.mark.parametrize("swept", [["seed=3"], ["seed"], ["seed=[]"], ["=[1]"], ["seed=[0]", "seed=[1]"]])
def test_what_is_no_list_of_values_is_refused(swept):
    with pytest.raises(ConfigError, match="expected a list of values of a key that is swept once"):
        settings(swept)


def config_at(folder):
    for name, first in (("demonstrations", 0), ("shown", 20)):
        rows = [
            {"id": str(i), "prompt": f"{i}+1=", "answer": str(i + 1), "solution": str(i + 1)}
            for i in range(first, first + 8)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "out": str(folder / "out"),
        "problems": {
            n: [{"name": "jsonl", "path": str(folder / f"{n}.jsonl")}] for n in ("demonstrations", "shown")
        },
        "stages": [
            {"kind": "init", **TINY},
            {"kind": "sft", "model": "base", "batch_size": 8, "max_steps": 1},
            {"kind": "evaluate", "policies": ["sft"], "problems": ["shown"], "max_tokens": 2, "num_samples": 1},
        ],
    }  # fmt: skip
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_sweep_tells_all_settings_and_goes_on_behind_one_that_fails(tmp_path, capsys):
    asked = (config_at(tmp_path), [], ["stages.1.optimizer.lr=[1e38, 0.001]"], False, "")
    with pytest.raises(UserError, match="1 of 2 settings ended with an error"):
        run_sweep(*asked)
    failed, done = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert "error" in failed and "rows" not in failed
    assert [r["metric"] for r in done["rows"] if r["subset"] == "all"] == ["pass@1"]
    shown = capsys.readouterr()
    assert "setting 2 of 2: stages.1.optimizer.lr=0.001" in shown.err
    assert "failed" in shown.out and "evaluate sft greedy" in shown.out
    model = tmp_path / "out" / "lr=0.001" / "models" / "sft" / "model" / "config.json"
    made = model.stat().st_mtime_ns
    with pytest.raises(UserError, match="1 of 2"):
        run_sweep(*asked)
    assert model.stat().st_mtime_ns == made  # what is done is not done again


def test_the_table_has_a_line_for_each_setting():
    row = {
        "stage": "evaluate",
        "metric": "pass@1",
        "method": "greedy",
        "when": "sft",
        "subset": "all",
        "n": 8,
    }
    results = [
        {"values": {"seed": 0}, "seconds": 12.4, "rows": [{**row, "value": 0.25, "low": 0.1, "high": 0.5}]},
        {"values": {"seed": 1}, "seconds": 3.0, "error": "got nothing"},
        {"values": {"seed": 2}, "seconds": 5.0, "rows": [{**row, "value": 0.5, "low": math.nan, "high": math.nan}]},
    ]  # fmt: skip
    made = table(results)
    assert [c.header for c in made.columns] == ["seed", "seconds", "evaluate sft greedy"]
    assert [list(c.cells) for c in made.columns] == [
        ["0", "1", "2"], ["12", "3", "5"], ["25.0 10.0–50.0", "failed", "50.0"],
    ]  # fmt: skip
