"""The stage that lets a model write new problems, on models whose every token is known by its chances."""

import json
from pathlib import Path

import pytest
from small_models import go_by_last_token, small_lm
from typer.testing import CliRunner

from reasoner.cli import app
from reasoner.commands.audit import audit
from reasoner.config import ConfigError, validate
from reasoner.ledger import Ledger
from reasoner.parts import marked
from reasoner.pipeline import RunConfig, check, run
from reasoner.policy.models import save, train_tokenizer
from reasoner.registry import UserError
from reasoner.stages import invent
from reasoner.stages.invent import Invent
from reasoner.store import read_trees
from tests.warm import ranks

ASKS = "Problem:"
END = "<|endoftext|>"
OLD = [f"Old Joe has {n} pens and buys 2 more. How many has he now?" for n in (3, 4, 5)]
AGREED = "Ann has 3 red and 4 blue balls. How many balls has she?"
SPLIT = "Bob finds 5 coins and then 6 more coins. How many are these?"
TESTED = "Tim reads 7 pages a day. How many pages does he read in a week?"
PROSE = "Eve has some cats and some dogs. How many of them are there?"
WORD = "Kim has a ball that is red or blue. Which colour has it?"
FLAT = "Zoe has 3 cats and buys a dog."
BRIEF = "Why so?"
ENDLESS = " and so on"
# how likely each is after "Problem:", and what follows a question
WRITES = {
    AGREED: 0.2, SPLIT: 0.2, TESTED: 0.1, OLD[0]: 0.1, PROSE: 0.1, WORD: 0.08, FLAT: 0.08, BRIEF: 0.06, ENDLESS: 0.05, END: 0.02,
}  # fmt: skip
SEVEN, EIGHT, RED, PROSAIC = "#### 7", "#### 8", "#### red", "I do not know how many"
ANSWERS = {
    AGREED: {SEVEN: 0.999}, SPLIT: {SEVEN: 0.333, EIGHT: 0.333, "#### 9": 0.333}, PROSE: {PROSAIC: 0.999}, WORD: {RED: 0.999},
}  # fmt: skip


def save_policy(folder: Path, writes: dict[str, float], answers: dict[str, dict[str, float]]) -> Path:
    """A model whose last token alone decides on the next; each text here is one token."""
    tokenizer = train_tokenizer(["3+4=7"], 270)
    known = {*writes, *answers, *(text for after in answers.values() for text in after), *OLD, ASKS, SEVEN}
    tokenizer.add_tokens(sorted(known - {END}))
    number = tokenizer.convert_tokens_to_ids
    save(small_lm("llama", vocab_size=len(tokenizer), tie_word_embeddings=False), tokenizer, folder)
    table = {ASKS: writes, **answers, ENDLESS: {ENDLESS: 0.999}}
    ends = {text: {END: 0.999} for text in known - set(table) - {END}}
    rows = {**table, **ends}
    go_by_last_token(
        folder,
        {number(a): {number(b): p for b, p in after.items()} for a, after in rows.items() if a in known},
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("invent")
    save_policy(place / "model", WRITES, ANSWERS)
    for name, prompts in {"train": OLD, "test": [TESTED]}.items():
        rows = [
            json.dumps({"prompt": p, "answer": "7", "reference": {"answer": "7", "extract": "hashes"}})
            for p in prompts
        ]
        (place / f"{name}.jsonl").write_text("\n".join(rows))
    return place


def raw(folder: Path, out: Path, *more: dict, **keys) -> dict:
    stage = {"kind": "invent", "model": str(folder / "model"), "prompt": "{examples}\n\nProblem:", "examples": 2,
             "num_problems": 48, "max_tokens": 8, "num_answers": 4, "agreement": 0.75, "num_slots": 16, **keys}  # fmt: skip
    problems = {n: [{"name": "jsonl", "path": str(folder / f"{n}.jsonl")}] for n in ("train", "test")}
    return {"out": str(out), "problems": problems, "stages": [stage, *more]}


def invented(folder: Path, out: Path, *more: dict, **keys) -> Path:
    run(validate(RunConfig, raw(folder, out, *more, **keys), "test"))
    return out


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def metrics(out: Path) -> dict:
    return {k: v for line in lines(out / "stages/invent/metrics.jsonl") for k, v in line.items()}


ROLLOUT = {
    "kind": "rollout",
    "problems": ["invent"],
    "max_tokens": 4,
    "tree": {"num_roots": 2, "num_points": 0},
}


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> Path:
    """A run whose parts are one, and whose second stage learns from what the first has made."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return invented(folder, out, {**ROLLOUT, "model": str(folder / "model")})


def test_every_try_is_kept_or_counted_by_its_reason(whole):
    tries = lines(whole / "records/invent/tries.jsonl")
    assert [t["number"] for t in tries] == list(range(48))
    reasons: dict[str, set] = {}
    for one in tries:
        reasons.setdefault(one["question"], set()).add(one["dropped"])
    assert (
        reasons[AGREED] == {"", "repeated"}
        and reasons[OLD[0]] == {"old"}
        and reasons[TESTED] == {"contaminated"}
    )
    assert reasons[SPLIT] <= {"", "disagreed", "repeated"} and reasons[PROSE] == {"no_answer", "repeated"}
    assert (
        reasons[WORD] == {"not_plain", "repeated"}
        and reasons[FLAT] == {"no_question"}
        and reasons[BRIEF] == {"short"}
    )
    assert {"cut"} == reasons[(ENDLESS * 8).strip()] and {"empty"} == reasons[""]
    firsts = [t for t in tries if t["question"] in ANSWERS and t["dropped"] != "repeated"]
    assert sorted(t["question"] for t in firsts) == sorted(ANSWERS) and all(
        len(t["answers"]) == 4 for t in firsts
    )
    assert all(not t["answers"] for t in tries if t not in firsts)
    counts = metrics(whole)
    assert counts["invent/tries"] == 48
    for reason in {t["dropped"] for t in tries} - {""}:
        assert counts[f"invent/dropped_{reason}"] == sum(t["dropped"] == reason for t in tries) > 0
    assert counts["invent/kept"] == sum(not t["dropped"] for t in tries)
    assert sum(n for k, n in counts.items() if k.startswith("invent/dropped_")) + counts["invent/kept"] == 48
    assert 0 < counts["invent/distinct_3"] <= 1 and 0 <= counts["invent/nearest"] < 1


def test_a_kept_problem_has_the_voted_answer_and_is_judged_as_the_old_ones(whole):
    (kept,) = [p for p in lines(whole / "records/invent/problems.jsonl") if p["prompt"] == AGREED]
    assert kept["reference"] == {"answer": "7", "extract": "hashes"} and kept["verifier"] == "math"
    assert (
        kept["agreement"] == 1.0
        and kept["id"].startswith("invent/")
        and kept["source"].startswith("written by ")
    )


def test_a_later_stage_learns_from_what_is_kept(whole):
    trees = list(read_trees(whole / "trees/rollout"))
    kept = {p["prompt"]: p["reference"] for p in lines(whole / "records/invent/problems.jsonl")}
    assert {t.problem.prompt: t.problem.reference for t in trees} == kept and AGREED in kept
    (tree,) = [t for t in trees if t.problem.prompt == AGREED]
    assert [tree.verdicts[leaf].status for leaf in tree.leaves()] == ["correct"] * 2
    found = {one.stage: one for one in audit(whole)}
    assert found["rollout"].reads == ["invent"] and not found["invent"].faults
    (whole / "records/invent/problems.jsonl").open("a").write("\n")
    try:
        assert any("damaged" in fault for fault in {one.stage: one for one in audit(whole)}["invent"].faults)
    finally:
        text = (whole / "records/invent/problems.jsonl").read_text()
        (whole / "records/invent/problems.jsonl").write_text(text[:-1])


def test_writer_and_solver_are_booked_apart(whole):
    booked = Ledger.load(whole / "ledger.json").counts["invent"]
    tries = lines(whole / "records/invent/tries.jsonl")
    assert booked["writer"]["trajectories_generated"] == 48
    assert booked["solver"]["trajectories_generated"] == sum(len(t["answers"]) for t in tries) == 16
    assert booked["writer"]["decoded"] > booked["solver"]["decoded"] > 0 and "policy" not in booked


def test_a_place_draws_the_same_in_any_number_of_parts_slots_and_tries(folder, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(invent, "PER_PART", 7)
    parted = invented(folder, tmp_path / "parted", num_slots=3)
    for name in ("problems", "tries"):
        assert (parted / f"records/invent/{name}.jsonl").read_bytes() == (
            whole / f"records/invent/{name}.jsonl"
        ).read_bytes()
    fewer = invented(folder, tmp_path / "fewer", num_problems=20)
    tries = lines(whole / "records/invent/tries.jsonl")
    assert lines(fewer / "records/invent/tries.jsonl") == tries[:20]
    other = validate(RunConfig, raw(folder, tmp_path / "other") | {"seed": 1}, "test")
    run(other)
    assert [t["question"] for t in lines(tmp_path / "other/records/invent/tries.jsonl")] != [
        t["question"] for t in tries
    ]


def test_a_stage_that_is_stopped_goes_on_with_the_parts_that_are_left(folder, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(invent, "PER_PART", 12)
    config = validate(RunConfig, raw(folder, tmp_path / "run"), "test")
    parts = []

    def stop_in_the_third(stage, done, total, note, numbers):
        if note == "parts":
            parts.append((done, total))
            if done == 2:
                raise RuntimeError("made to end here")

    with pytest.raises(RuntimeError, match="made to end here"):
        run(config, stop_in_the_third)
    folder_of_parts = tmp_path / "run/stages/invent/parts"
    assert marked(folder_of_parts) == {0, 1} and parts == [(0, 4), (1, 4), (2, 4)]
    before = [(folder_of_parts / f"tries/{n:05d}.json").stat().st_mtime_ns for n in (0, 1)]
    seen = []

    def look(stage, done, total, note, numbers):
        if note == "parts":
            seen.append(
                (done, total, [(folder_of_parts / f"tries/{n:05d}.json").stat().st_mtime_ns for n in (0, 1)])
            )

    run(config, look)
    assert seen == [(0, 2, before), (1, 2, before)]
    assert (tmp_path / "run/records/invent/tries.jsonl").read_bytes() == (
        whole / "records/invent/tries.jsonl"
    ).read_bytes()
    booked = Ledger.load(tmp_path / "run/ledger.json").counts["invent"]
    assert booked["writer"]["trajectories_generated"] == 48  # what was done before the stop is not lost
    assert not folder_of_parts.exists()


def test_two_processes_write_what_one_does(folder, whole, tmp_path):
    """Parts of 64: a hundred tries are two, one for each."""
    one = invented(folder, tmp_path / "one", num_problems=100)
    given = raw(folder, tmp_path / "two", num_problems=100)
    (tmp_path / "two.yaml").write_text(json.dumps(given))
    processes = ranks(2, "run", tmp_path / "two.yaml", cwd=tmp_path, said=tmp_path / "said")
    assert len(processes) == 2
    for process in processes:
        process.join(300)
    said = "".join(p.read_text()[-2000:] for p in (tmp_path / "said").iterdir())
    assert [p.exitcode for p in processes] == [0, 0], said
    ledger = Ledger.load(tmp_path / "two/ledger.json")
    assert (
        ledger.processes["invent"] == 2 and ledger.counts["invent"]["writer"]["trajectories_generated"] == 100
    )
    for name in ("problems", "tries"):
        file = f"records/invent/{name}.jsonl"
        assert (tmp_path / "two" / file).read_bytes() == (one / file).read_bytes()


def test_another_model_answers_and_what_its_tokenizer_makes_too_long_is_dropped(folder, tmp_path):
    solver = save_policy(tmp_path / "solver", {AGREED: 0.5}, {AGREED: {EIGHT: 0.999}})
    out = invented(folder, tmp_path / "run", solver=str(solver))
    tries = lines(out / "records/invent/tries.jsonl")
    assert {t["dropped"] for t in tries if t["question"] in (SPLIT, PROSE)} == {"long"}
    (kept,) = lines(out / "records/invent/problems.jsonl")
    assert kept["prompt"] == AGREED and kept["reference"]["answer"] == "8"


def test_special_tokens_that_a_model_spells_are_none(folder, tmp_path):
    """Read again, such a text would end a turn of the chat."""
    spelled = f"Ann has 3 red balls.{END} How many balls has she?"
    save_policy(tmp_path / "model", {AGREED: 0.5, "Ann has 3 red balls.<|endof": 0.4},
                {AGREED: ANSWERS[AGREED], "Ann has 3 red balls.<|endof": {"text|> How many balls has she?": 0.999}})  # fmt: skip
    out = invented(folder, tmp_path / "run", model=str(tmp_path / "model"))
    assert {t["dropped"] for t in lines(out / "records/invent/tries.jsonl") if t["question"] == spelled} == {
        "markup"
    }


def test_none_that_is_kept_is_one_clear_line(folder, tmp_path):
    save_policy(tmp_path / "model", {SPLIT: 0.99}, ANSWERS)
    told = "none of the 6 problems that invent tried is kept: 5 repeated, 1 disagreed; expected one at least"
    with pytest.raises(UserError, match=told):
        invented(folder, tmp_path / "run", model=str(tmp_path / "model"), num_problems=6, agreement=1)
    assert lines(tmp_path / "run/stages/invent/metrics.jsonl")[-1]["invent/kept"] == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"examples": 4}, r"3 of the 3 problems of train have a math answer, and 4 are shown"),
        (
            {"problems": ["tran"]},
            r"stages\.invent\.problems is 'tran', which is no problem set; did you mean train\?",
        ),
        (
            {"problems": ["invent"]},
            r"is 'invent', whose problems are made by a stage that does not stand above",
        ),
        (
            {"name": "train"},
            r"stages\.train makes a problem set, and problems\.train is one of the same name",
        ),
        ({"solver": "nobody"}, r"stages\.invent\.solver is 'nobody'"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, tmp_path, change, told):
    with pytest.raises(UserError, match=told):
        invented(folder, tmp_path / "run", **change)


def test_a_prompt_that_shows_nothing_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"got 'Write a problem\.'; expected \{examples\} in it"):
        validate(RunConfig, raw(folder, tmp_path, prompt="Write a problem."), "test")


def test_a_stage_that_stands_before_it_cannot_learn_from_it(folder, tmp_path):
    config = raw(folder, tmp_path / "run", {**ROLLOUT, "model": str(folder / "model")})
    config["stages"].reverse()
    told = r"stages\.rollout\.problems is 'invent', whose problems are made by a stage that does not stand above; .* move invent"
    with pytest.raises(UserError, match=told):
        run(validate(RunConfig, config, "test"))
    assert not (tmp_path / "run").exists()
    config["stages"][0]["problems"] = ["inven"]
    with pytest.raises(UserError, match=r"expected one of: train, test$"):
        run(validate(RunConfig, config, "test"))


def test_nobody_imitates_problems_without_solutions(folder, tmp_path):
    sft = {"kind": "sft", "model": str(folder / "model"), "problems": ["invent"]}
    with pytest.raises(UserError, match="none of the problems of invent has a worked solution to imitate"):
        invented(folder, tmp_path / "run", sft)


def test_rounds_learn_from_the_problems_of_their_own(folder, tmp_path):
    """A problem set that is called as a stage of the rounds stays what it is."""
    learns = {**ROLLOUT, "name": "train", "problems": ["train", "invent"], "model": "M"}
    stages = [raw(folder, tmp_path)["stages"][0], learns]
    given = raw(folder, tmp_path) | {"stages": [{"kind": "repeat", "rounds": 2, "stages": stages}]}
    found = {s.name: s for s in validate(RunConfig, given, "test").stages}
    assert [found[f"r{n}_train"].problems for n in (1, 2)] == [["train", "r1_invent"], ["train", "r2_invent"]]
    assert [found[f"r{n}_invent"].problems for n in (1, 2)] == [["train"], ["train"]]
    # weights of a mixture are of the round's own problems, too
    learns["mixture"] = {"weights": {"train": 1, "invent": 3}}
    mixed = {s.name: s for s in validate(RunConfig, given, "test").stages}
    weights = [mixed[f"r{n}_train"].mixture.weights for n in (1, 2)]
    assert weights == [{"train": 1, "r1_invent": 3}, {"train": 1, "r2_invent": 3}]
    # from the problems of the round before
    given["stages"] = [
        {
            "kind": "repeat",
            "rounds": 2,
            "first": {"invent": "train"},
            "stages": [{**stages[0], "problems": ["invent"]}],
        }
    ]
    found = validate(RunConfig, given, "test")
    assert [s.problems for s in found.stages] == [["train"], ["r1_invent"]]
    check(found)


def test_plan_and_doctor_know_it(folder, tmp_path):
    """48 questions as long as the old ones, four answers each, and trees of as many problems as are tried."""
    model = str(folder / "model")
    given = raw(folder, tmp_path / "run", {**ROLLOUT, "model": model, "num_problems": 1000})
    (tmp_path / "run.yaml").write_text(json.dumps(given))
    done = CliRunner().invoke(
        app, ["plan", str(tmp_path / "run.yaml"), "--json", "--hardware", "laptop"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    plan = json.loads(done.output)
    rows = {row["stage"]: row for row in plan["stages"]}
    assert all(row["planned"] for row in rows.values())
    # an old problem is one token, and answers are as long as may be
    assert rows["invent"]["decoded"] == 48 * 1 + 48 * 4 * 8 and rows["invent"]["prefilled"] == 48 * (2 + 1)
    assert rows["invent"]["trajectories"] == 48 + 48 * 4 and rows["rollout"]["trajectories"] == 48 * 2
    assert {row["role"] for row in plan["placement"] if row["stage"] == "invent"} == {"writer", "solver"}
    done = CliRunner().invoke(app, ["doctor", str(tmp_path / "run.yaml")], catch_exceptions=False)
    assert "Traceback" not in done.output and done.exit_code in (0, 1), done.output
    assert not [line for line in done.output.splitlines() if "stages.0" in line and "error" in line]


def test_every_key_is_explained():
    assert all(
        field.description
        for name, field in Invent.model_fields.items()
        if name not in ("kind", "name", "engine")
    )
