"""Problems that repeat a prompt, rows without a solution: left out with a word, or an error where nothing is left."""

import json

import pytest

from reasoner.config import validate
from reasoner.data.prompting import PromptConfig
from reasoner.data.repeats import one_per_prompt
from reasoner.data.rows import Item, SourceConfig
from reasoner.registry import UserError
from reasoner.stages.context import Context, examples
from reasoner.trainers.loop import Session
from reasoner.tree import Problem


def items(*pairs):
    return [Item(Problem(str(i), p, "math", {"answer": a}), None) for i, (p, a) in enumerate(pairs)]


def test_repeats_are_counted_and_contradictions_told():
    rows = items(("a", "1"), ("b", "2"), ("a", "1"), ("a", "3"), ("c", "1"))
    said = (
        "2 of 5 problems of rows.jsonl repeat the prompt of another and are left out; for 1 prompts the answers differ, "
        "and the first counts"
    )
    with pytest.warns(UserWarning, match=f"^{said}$"):
        kept = list(one_per_prompt(rows, "rows.jsonl", False))
    assert [(i.problem.prompt, i.problem.reference["answer"]) for i in kept] == [
        ("a", "1"),
        ("b", "2"),
        ("c", "1"),
    ]


def test_one_prompt_for_all_is_an_error():
    rows = items(*[("Solve it.", str(i)) for i in range(40)])
    with pytest.raises(
        UserError, match=r"all 40 problems of x have the prompt 'Solve it\.'; expected different"
    ):
        list(one_per_prompt(rows, "x", False))
    assert len(list(one_per_prompt(items(("a", "1")), "x", False))) == 1


def test_what_is_generated_repeats_in_silence(recwarn):
    assert len(list(one_per_prompt(items(("a", "1"), ("a", "1")), "arithmetic", True))) == 1
    assert list(recwarn) == []


def context(folder, rows, logged=None):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = validate(SourceConfig, {"name": "jsonl", "path": str(folder / "rows.jsonl")}, "test")
    log = (lambda metrics, step: logged.append(metrics)) if logged is not None else lambda metrics, step: None
    return Context(folder, {"shown": [source]}, PromptConfig(), Session(folder, log=log))


class Characters:
    """A tokenizer of characters."""

    def prompt_ids(self, text):
        return list(map(ord, text))

    completion_ids = prompt_ids


def test_a_file_says_what_it_leaves_out(tmp_path):
    rows = [{"prompt": p, "answer": "1"} for p in ("a", "b", "a")]
    with pytest.warns(UserWarning, match="1 of 3 problems of"):
        assert len(context(tmp_path, rows).items(["shown"])) == 2
    with pytest.raises(UserError, match=r"all 2 problems of .*rows\.jsonl"):
        context(tmp_path, [{"prompt": "a", "answer": str(i)} for i in range(2)]).items(["shown"])


def test_one_problem_in_two_ways_of_writing_is_learned_from_once_and_measured_as_published(tmp_path):
    asked = (
        ("How many is 1 + 2?", "3"),
        ("how many is 1+2 .", "3"),
        ("how many is 1+2", "4"),
        ("How many is 2+2?", "3"),
    )
    rows = [{"prompt": p, "answer": a} for p, a in asked]
    logged = []
    shown = context(tmp_path, rows, logged)
    kept = [i.problem.prompt for i in shown.items(["shown"])]
    assert kept == [
        p for n, (p, _) in enumerate(asked) if n != 1
    ]  # with another answer it may be another problem
    assert {"alike": 1, "alike_problems": ["rows/1"]} in logged
    shown.measured_on = ("shown",)
    assert len(shown.items(["shown"])) == 4


def test_imitation_needs_solutions(tmp_path):
    rows = [{"prompt": p, "answer": "1"} for p in ("a", "b", "c")]
    with pytest.raises(UserError, match=r'none of the 3 problems of shown has a worked solution.*"solution"'):
        examples(["shown"], context(tmp_path, rows), Characters())
    logged = []
    rows[1]["solution"] = "so 1"
    (shown,) = examples(["shown"], context(tmp_path, rows, logged), Characters())
    assert shown.prompt == "b" and shown.completion_ids == list(map(ord, "so 1"))
    assert {"without_solution": 2} in logged
