"""Problem sources: splits are disjoint, answers are exact, GSM8K rows become problems."""

import json
from fractions import Fraction

import pytest
from small_models import first_rows

from reasoner.config import read_yaml, validate
from reasoner.data.prompting import PromptConfig
from reasoner.data.sources import SourceConfig, load_items
from reasoner.pipeline import RunConfig
from reasoner.registry import UserError
from reasoner.stages.context import Context
from reasoner.trainers.loop import Session
from verifiers import verify


@pytest.fixture(scope="module")
def demo():
    config = validate(RunConfig, read_yaml("configs/demo.yaml"), "configs/demo.yaml")
    return Context(None, config.problems, config.prompt, Session(None))


def test_demo_test_problems_are_in_no_other_set(demo):
    test = {i.problem.prompt for i in demo.items(["test"])}
    assert len(test) >= 1000
    for name in ("demonstrations", "train"):
        assert not test & {i.problem.prompt for i in demo.items([name])}


def test_demo_has_no_demonstration_of_longer_problems(demo):
    lines = [i.problem.prompt.count("+") + i.problem.prompt.count("-") for i in demo.items(["demonstrations"])
             if i.problem.id.startswith("chain_sum")]  # fmt: skip
    assert max(lines) == 3
    longer = [
        i.problem
        for i in demo.items(["train"])
        if i.problem.domain == "longer" and i.problem.id.startswith("chain_sum")
    ]
    assert min(p.prompt.count("+") + p.prompt.count("-") for p in longer) == 4


def test_half_of_the_test_is_short(demo):
    short = [i.problem.domain == "short" for i in demo.items(["test"])]
    assert 0.45 < sum(short) / len(short) < 0.55


def test_solutions_pass_their_own_verifier(demo):
    for item in demo.items(["demonstrations"])[::40]:
        assert verify("math", item.solution, item.problem.reference).status == "correct"
        assert verify("math", "#### 12345", item.problem.reference).status == "incorrect"


def test_answers_agree_with_python_on_chain_sums(demo):
    for item in demo.items(["train"])[::50]:
        if item.problem.id.startswith("chain_sum"):
            # the test's own sums, not text of a model
            total = sum(Fraction(t) for t in item.problem.prompt.replace("-", "+-").split("+") if t)
            assert Fraction(item.problem.reference["answer"]) == total


def test_gsm8k_rows(shared_data):
    path = shared_data / "gsm8k/train.jsonl.gz"
    items = load_items(SourceConfig(name="gsm8k", path=str(path), size=20))
    raw = first_rows(path, 20)
    assert [i.problem.prompt for i in items] == [r["question"] for r in raw]
    assert items[0].problem.reference == {"answer": raw[0]["answer"].rpartition("#### ")[2]}
    assert "<<" not in items[0].solution
    assert all(verify("math", i.solution, i.problem.reference).status == "correct" for i in items)


def test_worked_sets_the_share_of_solutions_that_show_their_working():
    families = {"chain_sum": {"min_terms": 3, "max_terms": 4, "min_digits": 1, "max_digits": 1}}
    of = {
        share: load_items(SourceConfig(name="arithmetic", size=200, families=families, worked=share))
        for share in (0.0, 0.5, 1.0)
    }
    bare = {share: sum(i.solution.startswith("####") for i in items) for share, items in of.items()}
    assert bare[1.0] == 0 and bare[0.0] == len(of[0.0])
    assert 0.35 < bare[0.5] / len(of[0.5]) < 0.65
    assert [i.problem for i in of[0.0]] == [i.problem for i in of[1.0]]


def rows_with_answers(tmp_path, *answers):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"p{i}", "answer": a}) + "\n" for i, a in enumerate(answers))
    )
    return {"mine": [SourceConfig(name="jsonl", path=str(path))]}


def test_problems_whose_answer_cannot_be_read_are_left_out_and_told(tmp_path, capsys, demo):
    logged = []
    session = Session(None, log=lambda metrics, step: logged.append(metrics))
    context = Context(
        None, rows_with_answers(tmp_path, "5", "0/0", r"\frac{1}{", "the second team"), demo.prompt, session
    )
    assert [i.problem.prompt for i in context.items(["mine"])] == ["p0", "p3"]
    assert logged[0]["unreadable"] == 2 and "0/0" in logged[0]["unreadable_problems"][0]["reason"]
    assert (
        "left out" in (told := capsys.readouterr().err)
        and logged[0]["unreadable_problems"][1]["problem_id"] in told
    )


def test_a_set_without_a_readable_answer_is_refused(tmp_path, demo):
    context = Context(None, rows_with_answers(tmp_path, "0/0", "(("), demo.prompt, Session(None))
    with pytest.raises(UserError, match="none of 2 problems"):
        context.items(["mine"])


def jsonl(path, rows, **options):
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    path.write_text(text, encoding="utf-8")
    return load_items(SourceConfig(name="jsonl", path=str(path), **options))


def test_ids_stand_for_one_problem_each(tmp_path):
    rows = [{"id": -1, "prompt": f"1+{i}", "answer": str(i + 1)} for i in range(4)]
    ids = [i.problem.id for i in jsonl(tmp_path / "a.jsonl", rows)]
    assert len(set(ids)) == 4 and all(i.startswith("-1#") for i in ids)
    assert ids == [i.problem.id for i in jsonl(tmp_path / "b.jsonl", rows)]  # the prompt tells, not the place
    bare = [{"prompt": r["prompt"], "answer": r["answer"], "id": None} for r in rows]
    first = [i.problem.id for i in jsonl(tmp_path / "a.jsonl", bare, size=2)]
    later = [i.problem.id for i in jsonl(tmp_path / "a.jsonl", bare, start=2)]
    assert (first, later) == (["a/0", "a/1"], ["a/2", "a/3"])
    (tmp_path / "other").mkdir()
    both = [str(tmp_path / "a.jsonl"), str(tmp_path / "other" / "a.jsonl")]
    jsonl(tmp_path / "other" / "a.jsonl", [{"prompt": "9+9", "answer": "18"}])
    sets = {"train": [SourceConfig(name="jsonl", path=path) for path in both]}
    merged = Context(None, sets, PromptConfig(), Session(None)).items(["train"])
    assert len({i.problem.id for i in merged}) == len(merged) == 5


def test_gsm8k_ids_go_on_where_another_part_ends(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text(
        "".join(json.dumps({"question": f"q{i}", "answer": f"#### {i}"}) + "\n" for i in range(4))
    )
    parts = [load_items(SourceConfig(name="gsm8k", path=str(path), start=start, size=2)) for start in (0, 2)]
    assert [i.problem.id for part in parts for i in part] == [f"gsm8k/train/{i}" for i in range(4)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "q", "answer": NaN}', "has no answer"),
        ({"prompt": "q", "answer": None}, "has no answer"),
        ({"prompt": "q", "answer": " "}, "has no answer"),
        ({"prompt": "q", "answer": True}, "has True as its answer"),
        ({"prompt": "q", "answer": ["1", None]}, "has None as its answer"),
        ({"prompt": "q", "reference": {"answer": ""}}, "has no answer"),
        ({"prompt": "q", "reference": "3"}, "has no answer"),
        ({"prompt": 3, "answer": "1"}, "has no text under prompt"),
        ({"prompt": "q", "answer": "1", "solution": 5}, "has a int as its solution"),
        ("[1]", "a JSON list, expected an object"),
        ('{"prompt": "q"', "broken JSON"),
    ],
)
def test_bad_rows_are_named_with_their_file_and_line(tmp_path, row, message):
    with pytest.raises(UserError, match=message) as told:
        jsonl(tmp_path / "a.jsonl", [{"prompt": "good", "answer": 7.0}, row])
    assert f"line 2 of {tmp_path}/a.jsonl" in str(told.value) and "expected" in str(told.value)


def test_numbers_are_answers_and_csv_and_arrays_are_files(tmp_path):
    rows = [
        {"prompt": "1+1", "answer": 2},
        {"prompt": "x, 1+1.5", "answer": 2.5},
        {"prompt": "2+1", "answer": 3.0},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2), encoding="utf-8-sig")
    (tmp_path / "a.csv").write_text('prompt,answer\n1+1,2\n"x, 1+1.5",2.5\n2+1,3\n', encoding="utf-8-sig")
    for name in ("a.json", "a.csv"):
        items = load_items(SourceConfig(name="jsonl", path=str(tmp_path / name)))
        assert [(i.problem.prompt, i.problem.reference["answer"]) for i in items] == [
            ("1+1", "2"), ("x, 1+1.5", "2.5"), ("2+1", "3"),
        ]  # fmt: skip


def test_long_cells_ragged_rows_and_other_encodings(tmp_path):
    prompt = "1+1 " * 50_000  # beyond the csv module's own limit
    (tmp_path / "long.csv").write_text(f"prompt,answer\n{prompt},2\n")
    (item,) = load_items(SourceConfig(name="jsonl", path=str(tmp_path / "long.csv")))
    assert len(item.problem.prompt) == len(prompt)
    for name, text, message in (
        ("ragged.csv", b"prompt,answer\n1+1,2\n1, 2 and 3,4\n", "line 3 of .*: 3 cells under a header of 2"),
        ("latin.jsonl", '{"prompt": "é", "answer": "1"}\n'.encode("latin-1"), "line 1 of .*: no UTF-8 text"),
        ("latin.csv", "prompt,answer\né,1\n".encode("latin-1"), "no UTF-8 text"),
        ("empty.jsonl", b"\n \n", "empty.jsonl is empty; expected rows"),
    ):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(UserError, match=message):
            load_items(SourceConfig(name="jsonl", path=str(tmp_path / name)))


def test_an_empty_file_among_others_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "1+1", "answer": "2"}\n')
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(UserError, match=r"b\.jsonl is empty"):
        load_items(SourceConfig(name="jsonl", path=str(tmp_path)))
