"""What data and disk tell before the first stage: bad rows and unreadable answers of late stages, and too little room."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from reasoner.config import apply_overrides, read_yaml, validate
from reasoner.pipeline import RunConfig, run
from reasoner.planning.room import check_room, written
from reasoner.registry import UserError
from reasoner.store import is_done
from tests.stages.test_references import SMOKE, of


def config(out: Path, *overrides: str, stages: int | None = None, **sets: list[dict]) -> RunConfig:
    raw = apply_overrides(read_yaml(SMOKE), [f"out={out}", *overrides])
    raw["stages"] = raw["stages"][:stages]
    raw["problems"] |= sets
    return validate(RunConfig, raw, "smoke")


def rows(path: Path, *more: dict) -> list[dict]:
    path.write_text("".join(json.dumps(row) + "\n" for row in more))
    return [{"name": "jsonl", "path": str(path)}]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "2 + 2"}, "line 2 of .* has no answer"),
        ({"prompt": "2 + 2", "answer": "4", "verifier": "meth"}, "unknown verifier 'meth'"),
        (
            {"prompt": "2 + 2", "answer": "4", "verifier": "math:no_such"},
            "asks for a verifier that is not there",
        ),
    ],
)
@pytest.mark.parametrize("name", ["train", "test"])
def test_a_bad_row_of_a_late_stage_is_found_before_the_first(tmp_path, name, row, told):
    good = {"prompt": "1 + 1", "answer": "2"}
    with pytest.raises(UserError, match=told):
        run(config(tmp_path / "run", **{name: rows(tmp_path / "a.jsonl", good, row)}))
    assert not list(tmp_path.glob("run/stages/*"))


def test_an_answer_that_nobody_can_judge_is_told_by_its_id_before_the_first_stage(tmp_path, capsys):
    bad = [{"id": f"bad-{i}", "prompt": f"{i} / 0", "answer": "0/0"} for i in range(7)]
    train = rows(tmp_path / "a.jsonl", {"id": "good", "prompt": "1 + 1", "answer": "2"}, *bad)
    run(config(tmp_path / "run", stages=1, train=train))  # no stage that judges them yet
    assert "bad-0" not in capsys.readouterr().err
    short = config(tmp_path / "run2", stages=3, train=train)
    with pytest.raises(UserError, match="made to end here"):
        run(short, _ends_at("base"))
    told = capsys.readouterr().err
    assert "problems.train: 7 of 8 answers cannot be judged" in told and "bad-4 (gold answer '0/0'" in told
    assert "and 2 more" in told


def _ends_at(name: str):
    def progress(stage: str, *_) -> None:
        if stage == name:
            raise UserError("made to end here")

    return progress


def test_a_set_without_a_single_answer_that_can_be_judged_ends_the_run_before_it_begins(tmp_path):
    train = rows(tmp_path / "a.jsonl", {"id": "bad", "prompt": "0 / 0", "answer": "0/0"})
    with pytest.raises(UserError, match=r"problems\.train: none of the 1 answers can be judged: bad \("):
        run(config(tmp_path / "run", train=train))
    assert not list(tmp_path.glob("run/stages/*"))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"verifier": "math", "reference": {"answr": "4"}}, "answr"),
        ({"verifier": "math", "reference": {"answer": "4", "plaecs": 2}}, "plaecs"),
        ({"verifier": "code", "reference": {}}, "reference has no tests"),
        ({"verifier": "code", "reference": {"asserts": ["assert f(1 == 2"]}}, "code tests"),
        ({"verifier": "code", "reference": {"inputs": ["1"], "outputs": []}}, "1 inputs and 0 outputs"),
        ({"verifier": "logic", "reference": {"puzle": "countdown"}}, "puzle"),
        ({"verifier": "logic", "reference": {"puzzle": "countdown", "target": 24}}, "numbers"),
        ({"verifier": "logic", "reference": {"puzzle": "chain_sum"}}, "entry"),
        ({"verifier": "steps", "reference": {"answer": "0/0"}}, "0/0"),
    ],
)
def test_a_reference_that_its_verifier_does_not_take_is_told_by_the_problems_id(tmp_path, row, told):
    train = rows(tmp_path / "a.jsonl", {"id": "odd", "prompt": "x", **row})
    with pytest.raises(UserError, match=rf"none of the 1 answers can be judged: odd \(.*{told}"):
        run(config(tmp_path / "run", train=train))


def test_solutions_that_a_late_stage_would_imitate_are_missed_before_the_first(tmp_path):
    shown = rows(tmp_path / "a.jsonl", {"prompt": "1 + 1", "answer": "2"}, {"prompt": "2 + 2", "answer": "4"})
    told = r"stages\.sft\.problems: none of the problems of demonstrations has a worked solution to imitate"
    with pytest.raises(UserError, match=told):
        run(config(tmp_path / "run", stages=2, demonstrations=shown))
    assert not list(tmp_path.glob("run/stages/*"))
    one = rows(
        tmp_path / "a.jsonl",
        {"prompt": "1 + 1", "answer": "2"},
        {"prompt": "2 + 2", "answer": "4", "solution": "#### 4"},
    )
    with pytest.raises(UserError, match="made to end here"):
        run(config(tmp_path / "run", stages=2, demonstrations=one), _ends_at("base"))


def test_labels_of_no_known_format_are_found_before_the_first_stage(tmp_path):
    (tmp_path / "labels.jsonl").write_text('{"what": "is this"}\n')
    raw = read_yaml(SMOKE)
    imported = {"kind": "import", "model": "sft", "path": str(tmp_path / "labels.jsonl")}
    raw |= {"out": str(tmp_path / "run"), "stages": [*raw["stages"][:2], imported]}
    with pytest.raises(
        UserError, match=r"stages\.import\.path: .* has no usable row among its 1 \(line 1: keys of no known"
    ):
        run(validate(RunConfig, raw, "smoke"))
    assert not list(tmp_path.glob("run/stages/*"))


def test_a_finished_stage_reads_no_data_again(tmp_path):
    shown = rows(tmp_path / "a.jsonl", {"prompt": "1 + 1", "answer": "2", "solution": "#### 2"})
    one = config(tmp_path / "run", stages=1, demonstrations=shown)
    run(one)
    assert is_done(tmp_path / "run/stages/base")
    run(one)


def test_the_room_that_stages_take_by_hand(tmp_path):
    """A network of hidden 32 and 2 layers; a trainer keeps two checkpoints of weights and two moments, and writes a third."""
    embedding, norms = 320 * 32, 5 * 32
    attention = 32 * 32 + 32 + 2 * (32 * 16 + 16) + 32 * 32
    numbers = embedding + norms + 2 * (attention + 3 * 32 * 64)
    parts = {p.stage: p for p in written(config(tmp_path).stages, {"train": [SimpleNamespace(size=40)]})}
    assert parts["base"].stays == parts["sft"].stays == 4 * numbers
    assert parts["base"].passes == 0 and parts["prm"].passes == 3 * 3 * 4 * numbers
    # two rounds, of which none is saved, and where each is, with a critic beside the policy
    assert parts["ppo"].passes == 0
    saving = config(tmp_path, of("ppo", "save_every", "1")).stages
    (ppo,) = (p for p in written(saving, {}) if p.stage == "ppo")
    assert ppo.passes == 2 * 2 * 3 * 4 * numbers
    # 24 problems with 3 chains from the prompt and 3 x 2 x 2 that begin inside one, of a quarter of 24 tokens
    assert parts["rollout"].stays == parts["verify"].stays == 24 * (3 + 12 / 2) * 6 * 12
    assert parts["evaluate"].stays == 0


def test_too_little_room_is_told_before_the_first_stage_with_the_number_and_the_keys(tmp_path, monkeypatch):
    tight = config(tmp_path / "run", of("ppo", "save_every", "1"))
    parts = list(written(tight.stages, tight.problems))
    names = [p.stage for p in parts]
    stays = [sum(p.stays for p in parts[:i]) for i in range(len(parts))]
    at_once = {p.stage: before + p.stays + p.passes for p, before in zip(parts, stays, strict=True)}

    def too_little(stage: str, remedy: str) -> None:
        done = names[: names.index(stage)] if stage == "ppo" else []
        free = at_once[stage] - (stays[names.index(stage)] if done else 0)
        check_room(tight.stages[: names.index(stage) + 1], tight.problems, tmp_path, done.__contains__, free)
        with pytest.raises(
            UserError, match=rf"by the stage {stage} the run will have written about [\d.]+ .B"
        ) as fault:
            check_room(tight.stages, tight.problems, tmp_path, done.__contains__, free - 1)
        assert "set out= to a larger disk" in str(fault.value) and remedy in str(fault.value)

    too_little("base", "free some")
    too_little("ppo", "or train an adapter by stages.ppo.lora={")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"0\.001 MB are free in"):
        run(tight)
    assert not list(tmp_path.glob("run/stages/*"))


def test_trees_that_have_no_room_are_told_by_the_number_of_problems(tmp_path):
    stages = config(tmp_path).stages[2:3]
    with pytest.raises(UserError, match=r"or lower stages\.rollout\.num_problems"):
        check_room(stages, {"train": [SimpleNamespace(size=40)]}, tmp_path, free=100)


def test_what_a_half_done_run_has_written_already_is_not_asked_for_again(tmp_path):
    stages = config(tmp_path, stages=1).stages
    (part,) = written(stages, {})
    model = tmp_path / "models/base/model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"0" * int(part.stays))
    check_room(stages, {}, tmp_path, free=0)
    with pytest.raises(UserError, match="by the stage base"):
        check_room(stages, {}, tmp_path / "other", free=part.stays - 1)
