"""`reasoner import` and the import stage: what they say, what they write, and that the rows reach a trainer."""

import json

import pytest
from small_models import save_small_qwen

from reasoner.commands.import_labels import import_labels
from reasoner.config import validate
from reasoner.pipeline import RunConfig, run
from reasoner.records import OutcomeLabel, StepLabels
from reasoner.registry import UserError
from reasoner.store import read_json, read_records

GOOD = {"prompt": "1+1?", "completions": ["one and one", "is two"], "labels": [True, False]}
LONG = {"prompt": "1+1?", "completions": ["word " * 2000], "labels": [True]}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join([json.dumps(GOOD), "{broken", json.dumps({**GOOD, "labels": [1]}), json.dumps(LONG)])
    )
    return path


def test_command_says_what_it_took_and_names_the_rest(rows, tmp_path, capsys):
    import_labels(rows, tmp_path / "out", "CC0", None, False)
    shown = capsys.readouterr().out
    assert "TRL stepwise" in shown and "4 rows: 2 taken, 2 left out" in shown and "licence: CC0" in shown
    assert "left out, line 2: broken JSON" in shown and "left out, line 3: 1 labels for 2 steps" in shown
    assert [r["line"] for r in read_json(tmp_path / "out/import.json")["left_out"]] == [2, 3]
    with pytest.raises(UserError, match="holds imported rows already"):
        import_labels(rows, tmp_path / "out", "", None, False)


def test_one_class_is_said_and_nothing_usable_leaves_no_rows(tmp_path, capsys):
    only = tmp_path / "only.jsonl"
    only.write_text(json.dumps({**GOOD, "labels": [True, True]}))
    import_labels(only, tmp_path / "out", "", None, False)
    assert "of one class" in capsys.readouterr().out
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps(GOOD))
    (folder / "b.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"b\.jsonl has no usable row"):
        import_labels(folder, tmp_path / "none", "", None, False)
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError):
        import_labels(folder, tmp_path / "new" / "none", "", None, False)
    assert not (tmp_path / "new").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(UserError):
        import_labels(folder, mine, "", None, False)
    assert [p.name for p in mine.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("is_stored", [False, True])
def test_stage_makes_records_with_the_licence(rows, tmp_path, is_stored, capsys):
    model = str(save_small_qwen(tmp_path / "model", ["one and one is two"] * 5))
    path = str(rows)
    if is_stored:
        path = str(tmp_path / "out")
        import_labels(rows, tmp_path / "out", "CC0", None, False)
    stages = [{"kind": "import", "path": path, "model": model}]
    run(validate(RunConfig, {"out": str(tmp_path / "run"), "problems": {}, "stages": stages}, "test"))
    (record,) = read_records(tmp_path / "run/records/import/hard", StepLabels)
    assert record.labels == [1.0, 0.0] and record.completions == ["one and one\n", "is two"]
    assert record.licence == ("CC0" if is_stored else "not stated")
    left_out = {r["line"]: r["reason"] for r in read_json(tmp_path / "run/stages/import/left_out.json")}
    assert left_out[4].endswith("more than the context of 1024")
    assert set(left_out) == ({4} if is_stored else {2, 3, 4})


def test_stage_writes_outcomes_too(tmp_path):
    model = str(save_small_qwen(tmp_path / "model", ["one and one is two"] * 5))
    path = tmp_path / "monkeys.jsonl"
    path.write_text(json.dumps({"question": "1+1?", "samples": ["2", "3"], "is_corrects": [True, False]}))
    stages = [{"kind": "import", "path": str(path), "model": model}]
    run(validate(RunConfig, {"out": str(tmp_path / "run"), "problems": {}, "stages": stages}, "test"))
    records = list(read_records(tmp_path / "run/records/import/outcome", OutcomeLabel))
    assert [(r.completion, r.label) for r in records] == [("2", True), ("3", False)]
    assert not (tmp_path / "run/records/import/hard").exists()
