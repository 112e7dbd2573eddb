"""What `reasoner doctor` says and how it ends, and what is told at the start of every run."""

import json

import pytest
from typer.testing import CliRunner

from reasoner.cli import app
from reasoner.commands.doctor import tell_quickly
from reasoner.commands.resolve import resolved
from reasoner.config import validate
from reasoner.doctor.checks import DEAR, FREE
from reasoner.doctor.findings import Finding, exit_code, line_of
from reasoner.doctor.machine import this_machine
from reasoner.pipeline import RunConfig
from tests.doctor.faults import stop_inside_solutions


def test_the_command_says_where_and_what_to_do_and_ends_by_severity(plant):
    stop_inside_solutions(plant)
    path = plant.write()
    done = CliRunner().invoke(app, ["doctor", str(path), "stages.1.max_tokens=3"])
    lines = done.output.splitlines()
    assert done.exit_code == 2 and max(map(len, lines)) <= 80
    text = "".join("".join(lines).split())  # wherever a long path was broken
    number = path.read_text().splitlines().index("  stop:") + 1
    for said in (
        f"error: prompt.stop ({path}, line {number}): answers end at '='",
        "stages.1.max_tokens (command line)",
        "do: raise max_tokens",
    ):
        assert said.replace(" ", "") in text
    shown = json.loads(CliRunner().invoke(app, ["doctor", str(path), "--json"]).output)
    assert shown["findings"][0]["check"] == "stops" and shown["findings"][0]["line"].endswith(
        f"line {number}"
    )
    assert set(shown["seconds"]) == {*FREE, *DEAR} and sum(shown["seconds"].values()) < 120


def test_a_model_beside_its_data(plant):
    plant.write()
    data = str(plant.folder / "train.jsonl")
    done = CliRunner().invoke(app, ["doctor", str(plant.model), data, "--json"])
    assert done.exit_code in (0, 1), done.output  # asked as a chat, this model is never right
    assert {f["check"] for f in json.loads(done.output)["findings"]} <= {"reach"}
    from reasoner.registry import UserError

    with pytest.raises(UserError, match="expected one file of problems"):
        CliRunner().invoke(app, ["doctor", str(plant.model)], catch_exceptions=False)


def test_what_costs_nothing_is_told_at_the_start_of_a_run(plant, capfd):
    stop_inside_solutions(plant)
    plant.config["stages"] = [{**plant.config["stages"][0], "max_steps": 1}]
    path = plant.write()
    told = tell_quickly(resolved(path, []))
    assert any("answers end at '='" in " ".join(line.split()) for line in told)
    done = CliRunner().invoke(app, ["train", str(path)])
    assert done.exit_code == 0, done.output
    assert "answers end at '='" in " ".join(done.output.split()) + " ".join(capfd.readouterr().err.split())


def test_an_examination_never_stops_a_run(monkeypatch):
    import reasoner.doctor.checks as checks

    def broken(case):
        raise RuntimeError("broken")

    monkeypatch.setitem(checks.FREE, "template", broken)
    config = {"problems": {}, "stages": [{"kind": "verify", "trees": "t", "model": "m"}], "out": "x"}
    assert tell_quickly(validate(RunConfig, config, "x")) == []


def test_exit_codes_and_lines(tmp_path):
    assert exit_code([]) == 0
    assert exit_code([Finding("a", "note", "", "", ""), Finding("a", "warning", "", "", "")]) == 1
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\nstages:\n  - {kind: init}\n  - kind: ppo\n    lora: {r: 4}\n")
    assert line_of(path, "stages.1.lora.r") == f"{path}, line 5"
    assert line_of(path, "stages.0.max_tokens") == f"{path}, line 3"
    assert line_of(path, "nothing") == ""


def test_this_machine_is_asked(tmp_path):
    found = this_machine(tmp_path / "not" / "there")
    assert found.free_disk > 0 and found.free_memory > 0 and found.outdated == ()
