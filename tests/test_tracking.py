"""metrics.jsonl line by line, cutting on resume, and a real wandb run without a network."""

import json
import time

import pytest

from reasoner.tracking import Tracker


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def test_each_line_is_on_disk_at_once(tmp_path):
    start = time.time()
    with Tracker(tmp_path / "run") as tracker:
        tracker.log({"loss": 0.5, "kl": float("nan"), "top": float("inf")}, step=1)
        (line,) = lines(tmp_path / "run")
        assert start <= line.pop("time") <= time.time()
        assert line == {"step": 1, "loss": 0.5, "kl": None, "top": None}
        tracker.log({"loss": 0.25}, step=2)
        assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2]


def test_tensors_are_numbers(tmp_path):
    import torch

    with Tracker(tmp_path) as tracker:
        tracker.log({"loss": torch.tensor(0.5)}, step=0)
    assert lines(tmp_path)[0]["loss"] == 0.5


def test_resume_cuts_lines_beyond_the_step(tmp_path):
    with Tracker(tmp_path) as tracker:
        for step in range(1, 6):
            tracker.log({"loss": step}, step)
    with Tracker(tmp_path, resume_step=3) as tracker:
        tracker.log({"loss": 40}, 4)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]


def test_a_torn_last_line_is_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 0}\n{"step": 2, "ti')
    with Tracker(tmp_path) as tracker:
        tracker.log({}, 2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_without_a_resume_step_lines_are_kept(tmp_path):
    for step in (7, 8):
        with Tracker(tmp_path) as tracker:
            tracker.log({}, step)
    assert [line["step"] for line in lines(tmp_path)] == [7, 8]


def test_other_ranks_are_silent(tmp_path):
    with Tracker(tmp_path / "run", wandb={"mode": "offline"}, main=False) as tracker:
        tracker.log({"loss": 1.0}, step=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["step", "time"])
def test_names_of_the_line_are_taken(tmp_path, name):
    with Tracker(tmp_path) as tracker, pytest.raises(ValueError, match=f"metric called '{name}'"):
        tracker.log({name: 1}, step=1)


def test_wandb_offline_writes_a_run_and_resumes_it(tmp_path):
    options = {"project": "reasoner-test", "mode": "offline", "config": {"lr": 0.001}}
    with Tracker(tmp_path, wandb=options) as tracker:
        tracker.log({"loss": 0.5}, step=1)
    id_ = (tmp_path / "wandb_id").read_text()
    (run,) = (tmp_path / "wandb").glob(f"offline-run-*-{id_}")
    assert (run / f"run-{id_}.wandb").stat().st_size > 0
    with Tracker(tmp_path, wandb=options, resume_step=1) as tracker:
        tracker.log({"loss": 0.25}, step=2)
    assert (tmp_path / "wandb_id").read_text() == id_
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
