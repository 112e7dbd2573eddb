"""Problem sources: splits are disjoint, answers are exact, GSM8K rows become problems."""

import json
from fractions import Fraction

import pytest
from small_models import first_rows

from reasoner.config import read_yaml, validate
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
