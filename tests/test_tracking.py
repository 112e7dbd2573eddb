"""metrics.jsonl line by line, cutting on resume, and a real wandb run without a network."""

import json
import struct
import time

import pytest
from wandb.proto import wandb_internal_pb2

from reasoner.registry import UserError
from reasoner.tracking import Tracker, wandb_run


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
    with Tracker(tmp_path / "run", main=False) as tracker:
        tracker.log({"loss": 1.0}, step=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["step", "time"])
def test_names_of_the_line_are_taken(tmp_path, name):
    with Tracker(tmp_path) as tracker, pytest.raises(ValueError, match=f"metric called '{name}'"):
        tracker.log({name: 1}, step=1)


OFFLINE = {"project": "reasoner-test", "mode": "offline"}


BLOCK, HEAD = 32768, 7  # of LevelDB's log format, which wandb's files have behind as long a head of their own


def in_wandb(folder):
    """What the offline files of a folder's wandb runs hold: one list of records a start."""
    starts = []
    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        data, at, record, records = path.read_bytes(), HEAD, b"", []
        while at + HEAD <= len(data):
            if BLOCK - at % BLOCK < HEAD:  # the rest of a block that no head fits in
                at += BLOCK - at % BLOCK
                continue
            length, kind = struct.unpack_from("<HB", data, at + 4)
            record += data[at + HEAD : at + HEAD + length]
            at += HEAD + length
            if kind in (1, 4):  # a whole record, or its last part
                records.append(wandb_internal_pb2.Record.FromString(record))
                record = b""
        starts.append(records)
    return starts


def values(records):
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]


def test_a_folder_is_one_wandb_run_with_name_group_and_config(tmp_path):
    """Two stages, each from step 1 on, and a second start: one run."""
    out = tmp_path / "demo-1"
    for stage in ("sft", "ppo"):
        with wandb_run(out, OFFLINE, {"seed": 7, "stages": [{"kind": "sft"}]}, "the demo") as run:
            for name in (stage, f"{stage}_continued"):
                with Tracker(out / "stages" / name, run) as tracker:
                    tracker.log({f"{stage}/loss": 0.5, "stage": name, "calibration": [{"n": 1}]}, step=1)
    deadline = time.monotonic() + 60  # wandb's own process writes the files, and is not waited for
    while True:
        starts = in_wandb(out)
        kinds = [{r.WhichOneof("record_type") for r in records} for records in starts]
        if len(starts) == 2 and all({"run", "exit"} <= k for k in kinds):
            break
        assert time.monotonic() < deadline, kinds
        time.sleep(0.2)
    heads = [next(r.run for r in records if r.WhichOneof("record_type") == "run") for records in starts]
    assert {(h.run_id, h.display_name, h.run_group) for h in heads} == {
        ((out / "wandb_id").read_text(), "demo-1", "the demo")
    }
    assert {c.key: json.loads(c.value_json) for c in heads[0].config.update}["seed"] == 7
    logged = [{k: v for k, v in row.items() if not k.startswith("_")} for row in values(starts[0])]
    assert logged == [{"sft/loss": 0.5, "sft/step": 1}, {"sft_continued/loss": 0.5, "sft_continued/step": 1}]


def test_a_wandb_that_cannot_start_is_one_line(tmp_path):
    with (
        pytest.raises(UserError, match=r"wandb did not start .*expected a login"),
        wandb_run(tmp_path, {"mode": "of-line"}, {}, ""),
    ):
        pass


def test_without_options_there_is_no_wandb_run(tmp_path):
    with wandb_run(tmp_path / "run", None, {}, "") as run:
        assert run is None
    assert not (tmp_path / "run").exists()


def test_a_stage_that_starts_again_doubles_no_line(tmp_path):
    """Without a checkpoint all is logged again; with one, what comes before and after the loop is."""

    def stage(resume_step: int, rounds: range) -> None:
        with Tracker(tmp_path, resume_step=resume_step) as tracker:
            tracker.log({"contamination/exact": 0}, 0)
            tracker.log({"contamination/exact": 1}, 0)
            for step in rounds:
                tracker.log({"loss": step}, step)
            tracker.log({"heldout": 0.5}, 4)

    def steps():
        return [(line["step"], *sorted(line.keys() - {"step", "time"})) for line in lines(tmp_path)]

    whole = [(0, "contamination/exact")] * 2 + [(n, "loss") for n in (1, 2, 3, 4)] + [(4, "heldout")]
    stage(0, range(1, 5))
    assert steps() == whole
    stage(0, range(1, 5))  # killed before its first checkpoint
    assert steps() == whole
    stage(2, range(3, 5))  # killed between two
    assert steps() == whole
    stage(4, range(5, 5))  # killed after the last
    assert steps() == whole


def test_a_torn_line_in_the_middle_is_dropped(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.log({"loss": 1}, 1)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 2, "lo\n\0\0\0\n[]\n')
    with Tracker(tmp_path, resume_step=2) as tracker:
        tracker.log({"loss": 3}, 3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 3]
