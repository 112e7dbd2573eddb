"""Labelled solutions as tasks of a critic: which are taken, how many of each kind, and what a lazy critic earns."""

import math
from collections import Counter

import pytest
from small_models import save_small_qwen

from reasoner.data.golds import why_unreadable
from reasoner.data.prompting import PromptConfig, load_prompting
from reasoner.data.rows import Item, SourceConfig
from reasoner.records import CritiqueTask, SFTExample, StepLabels
from reasoner.registry import UserError
from reasoner.signals.critiques import as_problem, critique_prompt, critique_tasks, to_criticise
from reasoner.stages.context import Context
from reasoner.stages.critiques import Critiques, run_critiques
from reasoner.store import read_records, write_records
from reasoner.trainers.loop import Session
from verifiers import verify


def record(number: int, first_error: int, num_steps: int = 3, votes=None) -> StepLabels:
    """A solution with its first error at a place; -1 for none, -2 where that is not known."""
    labels = [math.nan if first_error == -2 else float(first_error < 0 or i < first_error) for i in range(num_steps)]  # fmt: skip
    steps = [f"{number}+{i}={number + i}\n" for i in range(num_steps)]
    ends = list(range(num_steps))
    return StepLabels(f"sum/{number}", f"{number}+", steps, labels, [1], ends, ends, first_errors=votes or [first_error],
                      source="hand", licence="cc0")  # fmt: skip


MANY_RIGHT = [record(i, -1) for i in range(9)] + [record(10 + i, i % 3) for i in range(3)]


def test_always_saying_the_same_is_right_about_half():
    """Of nine right solutions and three wrong ones, three of each stay, spread over the list."""
    kept, left_out = to_criticise(MANY_RIGHT, balance=True)
    assert [r.problem_id for r in kept] == [f"sum/{i}" for i in (0, 3, 6, 10, 11, 12)]
    assert left_out == {"undecided": 0, "repeated": 0, "disputed": 0, "surplus": 6}
    problems = [as_problem(task) for task in critique_tasks(kept)]
    lazy = [verify(p.verifier, "First error: none", p.reference).status == "correct" for p in problems]
    assert sum(lazy) / len(lazy) == 0.5
    assert Counter(p.domain for p in problems) == {"right": 3, "wrong": 3}
    # without the rule it would earn three quarters
    everything, left_out = to_criticise(MANY_RIGHT, balance=False)
    assert len(everything) == 12 and left_out["surplus"] == 0
    assert sum(task.first_error == -1 for task in critique_tasks(everything)) == 9


def test_what_is_not_known_is_left_out_and_counted():
    records = [
        record(0, -2),  # no label tells
        record(1, 1, votes=[1, 2]),  # two labellers differ
        record(2, 0), record(2, 0), record(2, 0),  # one solution three times
        record(3, 0), record(3, -1), record(3, 1),  # one solution labelled in three ways
        record(4, -1),
    ]  # fmt: skip
    kept, left_out = to_criticise(records, balance=True)
    assert [r.problem_id for r in kept] == ["sum/2", "sum/4"]
    assert left_out == {"undecided": 2, "repeated": 4, "disputed": 1, "surplus": 0}
    # nothing to balance with
    assert to_criticise([record(0, -1), record(1, -1)], balance=True)[1]["surplus"] == 2


def test_a_task_is_a_problem_that_tells_where_it_comes_from():
    task = next(critique_tasks([record(7, 2, num_steps=4)]))
    problem = as_problem(task)
    assert problem.prompt == "7+\n[1] 7+0=7\n[2] 7+1=8\n[3] 7+2=9\n[4] 7+3=10\nCritique:\n"
    assert (problem.verifier, problem.reference) == ("critique", {"first_error": 2, "num_steps": 4})
    assert (problem.domain, problem.source, problem.licence) == ("wrong", "hand", "cc0")
    assert problem.id.startswith("sum/7#") and problem == as_problem(task)
    # another solution of the same problem is another task, of the same problem
    other = as_problem(next(critique_tasks([record(7, 2, num_steps=3)])))
    assert other.id != problem.id and other.id.partition("#")[0] == problem.id.partition("#")[0] == "sum/7"
    assert why_unreadable(Item(problem, None)) == ""


@pytest.fixture
def folder(tmp_path):
    save_small_qwen(tmp_path / "model", ["[1] right\n[2] wrong\nFirst error: none"], 300)
    return tmp_path


def written(folder, records, **keys):
    """The stage's tasks and traces, and what it logged, of records that a stage `label` left."""
    write_records(folder / "records/label/spread", records)
    logged: dict[str, float] = {}
    (folder / "test.jsonl").write_text('{"prompt": "11+", "answer": "3"}\n')
    test = SourceConfig(name="jsonl", path=str(folder / "test.jsonl"))
    session = Session(folder, log=lambda metrics, step: logged.update(metrics))
    context = Context(folder, {"test": [test]}, PromptConfig(template="{prompt}=\n"), session)
    run_critiques(Critiques(kind="critiques", model=str(folder / "model"), **keys), context)
    tasks = list(read_records(folder / "records/critiques/tasks", CritiqueTask))
    return tasks, list(read_records(folder / "records/critiques/traces", SFTExample)), logged


def test_the_stage_writes_what_is_imitated_and_what_is_asked_of_the_same_solutions(folder):
    """And of no problem of the test set: sum/11 is one."""
    tasks, traces, logged = written(folder, MANY_RIGHT)
    assert [t.problem_id for t in tasks] == ["sum/0", "sum/4", "sum/10", "sum/12"]
    assert [t.prompt for t in traces] == [t.prompt for t in tasks]
    assert tasks[0].prompt == critique_prompt("0+", MANY_RIGHT[0].completions)
    assert traces[0].prompt_ids == load_prompting(str(folder / "model"), PromptConfig()).encode(
        tasks[0].prompt
    )
    assert logged["critiques/tasks"] == logged["critiques/traces"] == 4
    assert (logged["critiques/surplus"], logged["contamination/exact"]) == (7, 1)


def test_solutions_of_one_kind_alone_are_an_error_that_says_what_to_do(folder):
    with pytest.raises(UserError, match=r"9 surplus; expected .* balance=false"):
        written(folder, MANY_RIGHT[:9])


def test_without_balance_all_of_them_stay(folder):
    assert len(written(folder, MANY_RIGHT[:9], balance=False)[0]) == 9
