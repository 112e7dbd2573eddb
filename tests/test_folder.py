"""A run's folder: one run at a time, nothing removed but what a run made, finished stages as their markers say."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reasoner import folder as run_folder
from reasoner.folder import begin, check_name, claimed, withdraw
from reasoner.registry import UserError
from reasoner.seal import changed, check_seal, fingerprint, seal
from reasoner.store import is_done, write_text

ROOT = Path(__file__).parent.parent
HOLD = """
import os, sys, time
from pathlib import Path
from reasoner.folder import claimed, held_by, in_use
with claimed(Path(sys.argv[1])):
    if sys.argv[2] == "looks":  # as a run does once it has begun
        held_by(Path(sys.argv[1])), in_use(Path(sys.argv[1]))
    if sys.argv[2] == "fork" and os.fork() == 0:
        os.write(1, b"child %d\\n" % os.getpid())
        time.sleep(60)
    os.write(1, b"held\\n")  # at once, whatever buffers: a child writes too
    time.sleep(60)
"""


def holder(out: Path, how: str = "plain") -> tuple[subprocess.Popen, list[str]]:
    """A process that holds the folder, and what it said until it did."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out), how], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(2 if how == "fork" else 1)]
    assert "held\n" in said
    return process, said


def files_in(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_folder_that_no_run_made_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "models" / "sft").mkdir(parents=True)
    (tmp_path / "models" / "sft" / "thesis.txt").write_text("years of work")
    before = files_in(tmp_path)
    with pytest.raises(UserError, match=r"holds models and no run\.json.*set out="), claimed(tmp_path):
        pass
    assert files_in(tmp_path) == before


def test_only_what_a_run_made_is_removed(tmp_path):
    with claimed(tmp_path):
        begin(tmp_path, "sft")
        write_text(tmp_path / "models/sft/model/weights", "half")
        write_text(tmp_path / "stages/sft/metrics.jsonl", "{}\n")
    write_text(tmp_path / "notes.txt", "mine")
    write_text(tmp_path / "models/other/mine", "mine")
    with claimed(tmp_path):
        withdraw(tmp_path, "sft")
        withdraw(tmp_path, "other")
        with pytest.raises(UserError, match=r"models/other, which this run did not make"):
            begin(tmp_path, "other")
    kept = files_in(tmp_path)
    assert set(kept) == {"run.json", "notes.txt", "models/other/mine", "stages/sft/metrics.jsonl"}
    assert json.loads(kept["run.json"])["made"] == [
        f"{k}/sft" for k in ("models", "records", "stages", "trees")
    ]


def test_a_link_in_the_place_of_a_folder_is_not_followed(tmp_path):
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    write_text(elsewhere / "precious", "mine")
    with claimed(out):
        begin(out, "sft")
        (out / "models").mkdir()
        (out / "models" / "sft").symlink_to(elsewhere, target_is_directory=True)
        with pytest.raises(UserError, match="did not make"):
            begin(out, "sft")
    assert (elsewhere / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../..", "/etc", "a/b", "a\\b", ".hidden", "~", "a\x00b", "a\nb", " a", "a ", "con", "NUL.txt",
             "a.", "x" * 101, "é" * 60, "a\udc80", "C:"],
)  # fmt: skip
def test_stage_names_that_are_no_folder_name(name):
    with pytest.raises(ValueError, match="expected the name of one folder"):
        check_name(name)


@pytest.mark.parametrize("name", ["sft", "sft_2", "ppo-lr.1e-5", "模型", "a b", "x" * 100, "console"])
def test_stage_names_that_are(name):
    assert check_name(name) == name


def test_a_bad_stage_name_never_reaches_the_disk(tmp_path):
    from reasoner.config import ConfigError, validate
    from reasoner.pipeline import RunConfig

    raw = {"out": str(tmp_path / "run"), "problems": {}, "stages": [{"kind": "init", "name": "../../x"}]}
    with pytest.raises(ConfigError, match=r"stages\.0\.name: got the stage name '\.\./\.\./x'"):
        validate(RunConfig, raw, "test")


@pytest.mark.parametrize("how", ["plain", "looks"])
def test_two_runs_in_one_folder(tmp_path, how):
    first, _ = holder(tmp_path, how)
    try:
        with pytest.raises(UserError) as refused, claimed(tmp_path):
            pass
        assert f"in use by process {first.pid} on {socket.gethostname()}" in str(refused.value)
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    with claimed(tmp_path):  # the killed one's lock is no lock
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".lock").exists()


def test_a_child_that_outlives_its_run_does_not_hold_the_folder(tmp_path):
    first, said = holder(tmp_path, "fork")
    child = int(next(line for line in said if line.startswith("child")).split()[1])
    try:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        os.kill(child, 0)  # it is still there
        with claimed(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_an_owner_on_another_machine_holds_the_folder_while_it_gives_signs_of_life(tmp_path):
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps({"host": "node-17.elsewhere", "pid": 1, "since": "today"}))
    with pytest.raises(UserError, match=r"process 1 on node-17\.elsewhere since today"), claimed(tmp_path):
        pass
    long_ago = time.time() - run_folder.SILENT_S - 1
    os.utime(lock, (long_ago, long_ago))
    with claimed(tmp_path):
        pass


def test_an_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "BEAT_S", 0.05)
    with claimed(tmp_path):
        lock = tmp_path / ".lock"
        os.utime(lock, (1, 1))
        deadline = time.monotonic() + 20
        while lock.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert time.time() - lock.stat().st_mtime < 25


def test_a_claim_that_cannot_be_read_is_one_line_and_nothing_is_removed(tmp_path):
    with claimed(tmp_path):
        begin(tmp_path, "sft")
        write_text(tmp_path / "models/sft/weights", "x")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json, which cannot be read"), claimed(tmp_path):
        pass
    assert (tmp_path / "models/sft/weights").exists()


def finished(out: Path) -> dict:
    with claimed(out):
        begin(out, "sft")
        write_text(out / "models/sft/model/weights", "w" * 1000)
        write_text(out / "trees/sft/00000.parquet", "t" * 10)
        write_text(out / "stages/sft/rows.json", "[]")
        seal(out, "sft", {"seconds": 1.5})
    info = is_done(out / "stages" / "sft")
    assert info is not None
    return info


def test_a_marker_vouches_for_every_file(tmp_path):
    info = finished(tmp_path)
    assert info["seconds"] == 1.5
    assert {name: f["size"] for name, f in info["files"].items()} == {
        "models/sft/model/weights": 1000, "trees/sft/00000.parquet": 10, "stages/sft/rows.json": 2,
    }  # fmt: skip
    check_seal(tmp_path, "sft", info)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: path.write_text("w" * 500 + "v" + "w" * 499), "1,000 bytes of other content"),
        (lambda path: path.write_text("w" * 999), "999 bytes"),
        (lambda path: path.write_text(""), r"\(0 bytes"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_damage_to_a_finished_stage_is_named_with_a_remedy(tmp_path, damage, what):
    info = finished(tmp_path)
    damage(tmp_path / "models/sft/model/weights")
    with pytest.raises(
        UserError, match=rf"weights damaged.*{what}.*remove .*stages/sft/done to run sft again"
    ):
        check_seal(tmp_path, "sft", info)


def test_files_are_on_disk_before_the_marker(tmp_path, monkeypatch):
    """What the operating system is asked, in order; the calls themselves are made."""
    asked: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        asked.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def watched_replace(source, target):
        asked.append(("name", str(target)))
        replace(source, target)

    with claimed(tmp_path):
        begin(tmp_path, "sft")
        model = tmp_path / "models/sft/model"
        model.mkdir(parents=True)
        (model / "weights").write_text("not synced by whoever wrote it")
        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(os, "replace", watched_replace)
        seal(tmp_path, "sft", {})
    marked = asked.index(("name", str(tmp_path / "stages/sft/done")))
    before = [path for what, path in asked[:marked] if what == "sync"]
    assert {str(p) for p in (model / "weights", model, model.parent, tmp_path / "models", tmp_path)} <= set(
        before
    )


def test_a_damaged_marker_is_one_line(tmp_path):
    finished(tmp_path)
    (tmp_path / "stages/sft/done").write_text('{"seconds": 1')
    with pytest.raises(
        UserError, match=r"stages/sft/done, which cannot be read .* remove it to run the stage again"
    ):
        is_done(tmp_path / "stages" / "sft")


def test_data_that_changed_is_found_and_data_that_was_only_touched_is_not(tmp_path):
    write_text(tmp_path / "data/a.jsonl", "one\n")
    write_text(tmp_path / "data/b.jsonl", "two\n")
    known = fingerprint([tmp_path / "data"])
    os.utime(tmp_path / "data/a.jsonl", (1, 1))
    assert changed(known, [tmp_path / "data"]) is None
    write_text(tmp_path / "data/a.jsonl", "uno\n")
    assert changed(known, [tmp_path / "data"]) == str(tmp_path / "data/a.jsonl")
    (tmp_path / "data/a.jsonl").unlink()
    assert changed(known, [tmp_path / "data"]) == str(tmp_path / "data/a.jsonl")
