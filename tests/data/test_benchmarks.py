"""Benchmarks and puzzles as problems: gold answers pass their own verifier, and bad rows are one clear line."""

import gzip
import json
from contextlib import suppress

import pytest

from reasoner.config import validate
from reasoner.data.rows import SPLITS
from reasoner.data.sources import SOURCES, SourceConfig, load_items
from reasoner.registry import UserError
from verifiers import verify


def items(name: str, **options):
    return load_items(validate(SourceConfig, {"name": name, **options}, "test"))


@pytest.mark.parametrize(
    ("name", "file", "num"),
    [
        ("math500", "math/MATH_test_minus_MATH500.jsonl.gz", 40),
        ("math_train", "math/MATH_train_problem_answer.jsonl.gz", 40),
        ("aime", "math/aime24__test.jsonl", 30),
        ("aime", "math/aimo-validation-aime.jsonl.gz", 40),
        ("amc", "math/amc23__test.jsonl", 40),
        ("asdiv", "math/asdiv__test.jsonl.gz", 40),
        ("mawps", "math/mawps__addsub.jsonl", 40),
        ("mawps", "math/mawps__multiarith.jsonl", 40),
        ("mawps", "math/mawps__singleeq.jsonl", 40),
        ("mawps", "math/mawps__singleop.jsonl", 38),
        ("olympiadbench", "math/olympiadbench__test.jsonl.gz", 40),
    ],
)
def test_gold_answers_pass_their_verifier(shared_data, name, file, num):
    found = items(name, path=str(shared_data / file), size=40)
    assert len(found) == num
    for item in found:
        gold = item.problem.reference["answer"]
        assert verify("math", rf"so \boxed{{{gold}}}", item.problem.reference).status == "correct", (
            item.problem.id
        )
        assert verify("math", r"so \boxed{-98765}", item.problem.reference).status == "incorrect"


def test_answers_and_questions_as_they_are_asked(shared_data):
    (first, *_) = items("asdiv", path=str(shared_data / "math/asdiv__test.jsonl.gz"), size=1)
    assert first.problem.prompt.startswith(
        "Seven red apples and two green apples are in the basket. How many"
    )
    assert first.problem.reference["answer"] == "9"
    (first, *_) = items("amc", path=str(shared_data / "math/amc23__test.jsonl"), size=1)
    assert first.problem.reference["answer"] == "27"


@pytest.mark.parametrize(
    ("formula", "answer", "solution"),
    [
        ("7+2=9", "9 (apples)", "7 + 2 = 9 apples"),
        ("((36-(10*2))/2)*10=80", "80 (square feet)", "((36 - (10 * 2)) / 2) * 10 = 80 square feet"),
        ("1.5*2=3", "3", "1.5 * 2 = 3"),
        ("n:The unknown number; 5n+7=2n+6", "-(1/3)", None),  # a number in parentheses is no unit
        ("292/16=18 r4", "4 (cookies)", None),  # the result is not the answer
        ("LCM[13,17]=221", "221 (ducks)", None),
        ("56:84=2:3", "2:3", None),
        ("3+4=7; 7*2=14", "14 (cents)", None),
    ],
)
def test_the_formula_of_asdiv_is_its_worked_solution(tmp_path, formula, answer, solution):
    row = {"body": "A story.", "question": "How many?", "formula": formula, "answer": answer}
    (tmp_path / "asdiv.jsonl").write_text(json.dumps(row) + "\n")
    (item,) = items("asdiv", path=str(tmp_path / "asdiv.jsonl"), extract="last_math")
    assert item.solution == solution
    assert item.problem.reference["answer"] == answer.partition(" (")[0]
    if solution:
        assert verify("math", solution, item.problem.reference).status == "correct"


def test_svamp_rows(tmp_path):
    row = {"Body": "There are 5 birds.", "Question": "How many birds are there?", "Answer": "5.0"}
    (tmp_path / "svamp.jsonl").write_text(json.dumps(row) + "\n")
    (item,) = items("svamp", path=str(tmp_path / "svamp.jsonl"))
    assert item.problem.prompt == "There are 5 birds. How many birds are there?"
    assert verify("math", "#### 5", item.problem.reference).status == "correct"


@pytest.mark.parametrize(
    ("name", "file"), [("humaneval", "code/HumanEval.jsonl"), ("mbpp", "code/mbpp.visible.jsonl.gz")]
)
def test_reference_programs_pass(shared_data, name, file):
    path = shared_data / file
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as lines:
        rows = [json.loads(next(lines)) for _ in range(2)]
    for row, item in zip(rows, items(name, path=str(path), size=2), strict=True):
        program = row["prompt"] + row["canonical_solution"] if name == "humaneval" else row["code"]
        assert verify("code", f"```python\n{program}\n```", item.problem.reference).status == "correct"
        assert verify("code", "```python\ndef f(): pass\n```", item.problem.reference).status == "incorrect"


def test_livecodebench_rows(shared_data):
    found = items(
        "livecodebench", path=str(shared_data / "code/livecodebench_rllm_test.visible.jsonl.gz"), size=60
    )
    assert len(found) == 60
    kinds = {"entry_point" in i.problem.reference for i in found}
    assert kinds == {True, False}
    cards = found[0].problem  # at most one swap makes abc: one letter at least stands right
    program = "for _ in range(int(input())):\n s=input().strip()\n print('YES' if any(a==b for a,b in zip(s,'abc')) else 'NO')"
    assert "three cards" in cards.prompt
    assert verify("code", f"```python\n{program}\n```", cards.reference).status == "correct"


def test_game_of_24_and_countdown(shared_data):
    (first, *_) = items("countdown", path=str(shared_data / "countdown_24/24.csv"), size=3)
    assert first.problem.reference == {"puzzle": "countdown", "numbers": [1, 1, 4, 6], "target": 24}
    assert verify("logic", "#### (1 + 1 * 4) * 6 - 6", first.problem.reference).status == "incorrect"
    assert verify("logic", "#### (1 - 1 + 4) * 6", first.problem.reference).status == "correct"
    (other, *_) = items("countdown", path=str(shared_data / "countdown_24/countdown_train.jsonl.gz"), size=1)
    assert verify("logic", "#### 44 + 19 + 35 = 98", other.problem.reference).status == "correct"


def test_the_bracket_puzzle_of_the_qwq_announcement():
    (first, second, *_) = items("bracket_sums", size=30)
    assert first.problem.prompt.startswith(
        "Add one pair of brackets to the expression 1 + 2 * 3 + 4 * 5 + 6 * 7 + 8 * 9 so that it equals 479"
    )
    reference = first.problem.reference
    for answer, status in [
        ("1 + 2 * (3 + 4 * 5 + 6) * 7 + 8 * 9", "correct"),
        ("1 + 2 × (3 + 4 × 5 + 6) × 7 + 8 × 9 = 479", "correct"),
        ("1 + 2 * (3 + 4) * 5 + 6 * 7 + 8 * 9", "incorrect"),
        ("479", "incorrect"),
        ("(1 + 2 * 3 + 4 * 5) + (6 * 7 + 8 * 9)", "incorrect"),
        ("400 + 79 * (1)", "incorrect"),
        ("1 + 2 * (3 + 4 * 5 + 6) * 7 + 8 * 9 = 480", "incorrect"),
    ]:
        assert verify("logic", f"#### {answer}", reference).status == status, answer
    again = items("bracket_sums", start=1, size=1)
    assert again[0].problem == second.problem


def test_every_bracket_puzzle_has_a_solution_and_none_as_it_stands():
    for item in items("bracket_sums", size=25):
        reference = item.problem.reference
        parts = reference["expression"].split()
        texts = [
            " ".join([*parts[:a], "(", *parts[a : b + 1], ")", *parts[b + 1 :]])
            for a in range(0, len(parts), 2)
            for b in range(a + 2, len(parts), 2)
        ]
        assert any(verify("logic", f"#### {t}", reference).status == "correct" for t in texts)
        assert verify("logic", f"#### ({reference['expression']})", reference).status == "incorrect"


def test_any_reasoning_gym_family():
    found = items("gym", families={"simple_equations": {}, "spell_backward": {}}, size=4)
    assert len(found) == 4
    item = next(i for i in found if i.problem.id.startswith("spell"))
    entry = json.loads(item.problem.reference["entry"])
    assert verify("logic", f"#### {entry['answer']}", item.problem.reference).status == "correct"
    with pytest.raises(UserError, match="reasoning-gym family"):
        items("gym", families={"simple_equations": {"no_such_option": 1}})


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("math500", {"problem": "1+1?"}, "has no answer"),
        ("math500", {"answer": "3"}, "has no question"),
        ("math500", {"problem": 3, "answer": "3"}, "has a int as question; expected text"),
        ("mawps", {"input": "1+1?", "target": float("nan")}, "has no answer"),
        (
            "mawps",
            {"input": "1+1?", "target": float("inf")},
            "inf as its answer; expected text or a finite number",
        ),
        ("mawps", {"input": "1+1?", "target": True}, "True as its answer; expected text or a number"),
        ("mawps", {"input": "1+1?", "target": {"value": 3}}, "as its answer; expected text or a number"),
        ("mbpp", {"text": "Write a function"}, "has no test_list"),
        ("countdown", {"nums": [1, 2]}, "has no numbers and target"),
        ("livecodebench", {"problem": "Print x"}, "has no tests"),
    ],
)
def test_rows_without_what_is_needed_are_one_line(tmp_path, name, row, message):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=message) as told:
        items(name, path=str(tmp_path / "rows.jsonl"))
    assert "rows.jsonl" in str(told.value) and "expected" in str(told.value)


def test_an_empty_benchmark_is_one_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(UserError, match="is empty"):
        items("math500", path=str(tmp_path / "rows.jsonl"))


def test_the_problems_of_math_for_training_hold_none_for_testing(tmp_path):
    """MATH-500 says of its rows that they are of the test split; only what the training source keeps can be trained on."""
    rows = [
        {"problem": "1+1?", "answer": "2", "unique_id": "test/algebra/1.json"},
        {"problem": "1+2?", "solution": "It is \\boxed{3}.", "unique_id": "train/algebra/1.json"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.warns(UserWarning, match="1 rows are of MATH's test split"):
        (item,) = items("math_train", path=str(tmp_path / "rows.jsonl"))
    assert (item.problem.prompt, item.problem.reference, item.solution) == (
        "1+2?",
        {"answer": "3"},
        "It is \\boxed{3}.",
    )
    assert len(items("math500", path=str(tmp_path / "rows.jsonl"))) == 2
    with pytest.raises(UserError, match="split 'test'; expected train"):
        items("math_train", split="test")
    with pytest.raises(UserError, match="math_train"):
        items("math")


@pytest.mark.parametrize(
    ("name", "hub", "split"),
    [
        ("math_train", "DigitalLearningGmbH/MATH-lighteval", "train"),
        ("math500", "HuggingFaceH4/MATH-500", "test"),
        ("mawps", "MU-NLPC/Calc-mawps", "train"),
        ("asdiv", "EleutherAI/asdiv", "validation"),
        ("svamp", "ChilleD/SVAMP", "train"),
        ("gsm8k", "openai/gsm8k", "train"),
        ("humaneval", "openai/openai_humaneval", "test"),
        ("livecodebench", "livecodebench/code_generation_lite", "test"),
        ("minif2f", "cat-searcher/minif2f-lean4", "validation"),
    ],
)
def test_without_a_path_the_hub_is_asked_for_the_usual_split(monkeypatch, name, hub, split):
    asked = []

    def load_dataset(hub_name, subset, split):
        asked.append((hub_name, split))
        raise OSError("no network")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(
        UserError, match=rf"cannot get {hub} from the hub \(no network\); expected a network, or path"
    ):
        items(name)
    assert asked == [(hub, split)]


@pytest.fixture
def asked(monkeypatch):
    """(data set, split) of every request to the hub, none of which is answered."""
    found = []

    def load_dataset(hub_name, subset, split):
        found.append((hub_name, split))
        raise OSError("no network")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return found


def test_every_source_that_asks_the_hub_says_its_splits(asked):
    """No source asks for a split that nobody has written down, and none that is written down is never asked for."""
    asking = set()
    for name in SOURCES:
        with suppress(UserError):
            load_items(SourceConfig(name=name, size=1))
        if asked:
            assert asked.pop()[1] == SPLITS[name][0]
            asking.add(name)
    assert asking == set(SPLITS)


@pytest.mark.parametrize("name", sorted(SPLITS))
def test_a_split_that_is_not_on_the_hub_is_told_without_asking(asked, name):
    with pytest.raises(UserError, match=f"source {name} has split 'trian'") as fault:
        load_items(SourceConfig(name=name, split="trian"))
    assert all(split in str(fault.value) for split in SPLITS[name])
    assert asked == []


@pytest.mark.parametrize("split", ["test", "test[:10%]", "train+test"])
def test_a_part_of_a_split_or_two_of_them(asked, split):
    with pytest.raises(UserError, match="no network"):
        load_items(SourceConfig(name="gsm8k", split=split))
    assert asked == [("openai/gsm8k", split)]


def test_svamp_rows_of_the_hub_ask_once(tmp_path):
    row = {"ID": "chal-1", "Body": "There are 5 birds.", "Question": "How many birds are there?", "Answer": "5",
           "question_concat": "There are 5 birds. How many birds are there?"}  # fmt: skip
    (tmp_path / "svamp.jsonl").write_text(json.dumps(row) + "\n")
    (item,) = items("svamp", path=str(tmp_path / "svamp.jsonl"))
    assert (item.problem.id, item.problem.prompt) == ("svamp/chal-1", row["question_concat"])
