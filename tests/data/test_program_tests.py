"""Every test that a row brings is used: in each source a program that knows what it was shown must fail."""

import json

import pytest

from reasoner.config import validate
from reasoner.data.program_tests import function_under_test
from reasoner.data.sources import SourceConfig, load_items
from verifiers import verify

PLUS_TEST = (
    "import numpy as np\nfrom math import inf\n"
    "def assertion(out, exp, atol):\n    assert out == exp or np.allclose(out, exp, atol=atol)\n"
    "inputs = [[[1, 2]], [[5, 6, 7]]]\nresults = [3, 18]\n"
    "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(total(*inp), exp, 0)\n"
)
MBPP = {"task_id": 2, "text": "Add.", "code": "def total(x):\n    return sum(x)", "test_list": ["assert total([1, 2]) == 3"],
        "test_setup_code": "", "challenge_test_list": []}  # fmt: skip
SHARED = "def shared(a, b):\n    return tuple(set(a) & set(b))"
OLD_MBPP_PLUS = {
    "task_id": "Mbpp/2", "prompt": '"""\nWrite a function to find what two tuples share.\n"""\n', "entry_point": "shared",
    "canonical_solution": SHARED, "base_input": [[[3, 4, 5], [5, 4, 9]]], "plus_input": [[[1, 2], [2, 7]], [[], []]],
    "contract": "", "assertion": "assert set(shared((3, 4, 5), (5, 4, 9))) == set((4, 5))", "atol": 0,
}  # fmt: skip
HUMANEVAL = {"task_id": "HumanEval/0", "prompt": 'def half(x):\n    """Half."""\n', "entry_point": "half",
             "canonical_solution": "    return x / 2\n",
             "test": "def check(candidate):\n    assert candidate(2) == 1\n"}  # fmt: skip
STDIN = [{"input": f"{n}\n", "output": f"{n + 1}\n", "testtype": "stdin"} for n in (1, 2)]
TOTAL, TOTAL_CHEAT = "def total(x): return sum(x)", "def total(x): return 3"
PLUS_ONE, PLUS_ONE_CHEAT = "print(int(input()) + 1)", "print(2)"

# source, row, a right program, one that knows what is shown
SOURCES = {
    "mbpp": ("mbpp", {**MBPP, "test_list": [*MBPP["test_list"], "assert total([4]) == 4"]}, TOTAL, TOTAL_CHEAT),
    "mbpp, challenge": ("mbpp", {**MBPP, "challenge_test_list": ["assert total([4]) == 4"]}, TOTAL, TOTAL_CHEAT),
    "mbpp+": ("mbpp", {**MBPP, "test": PLUS_TEST, "test_imports": []}, TOTAL, TOTAL_CHEAT),
    "mbpp+ 0.1": ("mbpp", OLD_MBPP_PLUS, "def shared(a, b): return [x for x in a if x in b]",
                  "def shared(a, b): return (4, 5)"),
    "humaneval": ("humaneval", {**HUMANEVAL, "test": HUMANEVAL["test"] + "    assert candidate(6) == 3\n"},
                  "def half(x): return x / 2", "def half(x): return 1"),
    "humaneval+ 0.1": ("humaneval", {**HUMANEVAL, "base_input": [[2]], "plus_input": [[5], [1e9]], "atol": 1e-6},
                       "def half(x): return x * 0.5", "def half(x): return 1"),
    "livecodebench, private": ("livecodebench", {"question_content": "Add one.", "question_id": "1",
                               "public_test_cases": json.dumps(STDIN[:1]), "private_test_cases": json.dumps(STDIN[1:])},
                               PLUS_ONE, PLUS_ONE_CHEAT),
    "apps": ("apps", {"problem_id": 1, "question": "Add one.", "solutions": "",
                      "input_output": json.dumps({"inputs": ["1\n", "2\n"], "outputs": ["2\n", "3\n"]})},
             PLUS_ONE, PLUS_ONE_CHEAT),
    **{f"code_contests, {hidden}": ("code_contests", {"name": "a", "description": "Add one.",
        "public_tests": {"input": ["1\n"], "output": ["2\n"]}, hidden: {"input": ["2\n"], "output": ["3\n"]}},
        PLUS_ONE, PLUS_ONE_CHEAT) for hidden in ("private_tests", "generated_tests")},
}  # fmt: skip


def problem_of(tmp_path, source: str, row: dict, **options):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (item,) = load_items(validate(SourceConfig, {"name": source, "path": str(path), **options}, "test"))
    return item.problem


@pytest.mark.parametrize("name", SOURCES)
def test_a_program_that_knows_what_is_shown_fails(tmp_path, name):
    source, row, right, cheating = SOURCES[name]
    problem = problem_of(tmp_path, source, row)
    verdicts = [verify("code", f"```python\n{p}\n```", problem.reference) for p in (right, cheating)]
    assert [v.status for v in verdicts] == ["correct", "incorrect"], verdicts
    assert verdicts[1].score is not None


def test_hidden_tests_are_not_shown(tmp_path):
    plus = problem_of(tmp_path, "mbpp", {**MBPP, "test": PLUS_TEST})
    assert "assert total([1, 2]) == 3" in plus.prompt and "18" not in plus.prompt
    assert plus.reference["entry_point"] == "total"
    old = problem_of(tmp_path, "mbpp", OLD_MBPP_PLUS)
    assert old.id == "mbpp/2" and old.prompt == "Write a function to find what two tuples share."


def test_the_users_tolerance_is_the_verifiers(tmp_path):
    tests = [{"input": "1\n", "output": "0.3333\n", "testtype": "stdin"}]
    row = {"question_content": "A third.", "question_id": "1", "public_test_cases": json.dumps(tests)}
    program = "```python\nprint(1 / 3)\n```"
    exact = problem_of(tmp_path, "livecodebench", row)
    assert verify("code", program, exact.reference).status == "incorrect"  # as its own judge has it
    loose = problem_of(tmp_path, "livecodebench", row, tolerance=1e-3)
    assert verify("code", program, loose.reference).status == "correct"


def test_the_function_under_test():
    solution = "def g(x): return x\ndef f(x): return g(x)\n"
    assert function_under_test(solution, ["assert f(1) == len([1])", "assert sum(f(2)) == 2"]) == "f"
    assert function_under_test(solution, ["assert f(g(1)) == 1"]) is None
    assert function_under_test("def f(:", ["assert f(1)"]) is None
    assert function_under_test("", []) is None


def test_every_published_solution_of_mbpp_passes(shared_data):
    import gzip

    with gzip.open(shared_data / "code" / "mbpp.visible.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines][:60]
    config = {"name": "mbpp", "path": str(shared_data / "code" / "mbpp.visible.jsonl.gz"), "size": 60}
    found = [i.problem for i in load_items(validate(SourceConfig, config, "test"))]
    assert sum("entry_point" in p.reference for p in found) == 60
    for row, problem in zip(rows, found, strict=True):
        assert verify("code", f"```python\n{row['code']}\n```", problem.reference).status == "correct", (
            problem.id
        )
