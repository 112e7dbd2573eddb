"""Puzzles: countdown, brackets, and reasoning-gym's scorers in the sandbox."""

import csv
import json

import pytest

from verifiers import verify


def countdown(answer, numbers, target, **rules):
    reference = {"puzzle": "countdown", "numbers": numbers, "target": target, **rules}
    return verify("logic", rf"\boxed{{{answer}}}", reference)


@pytest.mark.parametrize(
    ("answer", "numbers", "target"),
    [
        ("(1 + 2 + 3) * 4", [1, 2, 3, 4], 24),
        ("8 / (3 - 8 / 3)", [3, 3, 8, 8], 24),
        (r"(1+2+3)\times 4 = 24", [4, 3, 2, 1], 24),
        (r"\frac{8}{3-\frac{8}{3}}", [3, 3, 8, 8], 24),
        ("5 × 5 − 1", [5, 5, 1], 24),
        ("-3 + 27", [3, 27], 24),
    ],
)
def test_countdown_solutions(answer, numbers, target):
    assert countdown(answer, numbers, target).status == "correct"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("1 + 2 + 3 + 4", "wrong"),
        ("4 * 3 * 2", "wrong"),
        ("4 * 6", "wrong"),
        ("24", "wrong"),
        ("4 * 3 * 2 * 1 = 25", "wrong"),
        ("4 / (1 - 1) * 3 * 2", "wrong"),
        ("4^3 * 2 * 1", "unparseable"),
        ("four times six", "unparseable"),
        ("+".join("1" for _ in range(100)), "refused"),
    ],
)
def test_countdown_failures(answer, reason):
    verdict = countdown(answer, [1, 2, 3, 4], 24)
    assert (verdict.status, verdict.reason) == ("incorrect", reason), verdict


def test_countdown_with_some_of_the_numbers():
    assert countdown("4 * 6", [4, 6, 7], 24, use_all=False).status == "correct"
    assert countdown("4 * 6", [4, 6, 7], 24).status == "incorrect"


def test_countdown_without_numbers_is_our_error():
    assert countdown("4 * 6", [], 24).status == "error"
    assert verify("logic", "4*6", {"puzzle": "countdown"}).status == "error"
    assert verify("logic", "4*6", {}).status == "error"


@pytest.mark.parametrize(
    ("tail", "status"),
    [("] )", "correct"), ("])", "correct"), ("([ ] )", "correct"), ("]", "incorrect"), (")]", "incorrect"),
     ("]))", "incorrect"), ("] x", "incorrect"), ("", "no_answer")],
)  # fmt: skip
def test_brackets(tail, status):
    assert verify("logic", tail, {"puzzle": "brackets", "prefix": "( [", "extract": "whole"}).status == status


def test_dyck_words_of_bigbench(shared_data):
    import gzip

    with gzip.open(shared_data / "bigbench_mistake" / "dyck_languages.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    checked = 0
    for row in rows:
        prefix = row["input"].rsplit("Input:", 1)[-1].strip()
        if not prefix or set(prefix) - set("()[]{}<> "):
            continue
        reference = {"puzzle": "brackets", "prefix": prefix, "extract": "whole"}
        assert verify("logic", row["target"], reference).status == "correct", row
        checked += 1
    print(f"{checked} of {len(rows)} rows")
    assert checked > 0.9 * len(rows)


def test_the_24_puzzles_have_no_one_number_answer(shared_data):
    with open(shared_data / "countdown_24" / "24.csv") as file:
        puzzles = [[int(n) for n in row["Puzzles"].split()] for row in csv.DictReader(file)]
    assert len(puzzles) == 1362
    assert all(countdown("24", numbers, 24).status == "incorrect" for numbers in puzzles)
    sums = [numbers for numbers in puzzles if sum(numbers) == 24]
    assert sums and all(countdown("+".join(map(str, n)), n, 24).status == "correct" for n in sums)


def test_reasoning_gym_scorers_run_in_the_sandbox():
    entry = {"question": "q", "answer": "1 2 3", "metadata": {"solution": [1, 2, 3]}}
    reference = {"puzzle": "spiral_matrix", "entry": entry, "extract": "whole"}
    right = verify("logic", "1 2 3", reference)
    assert (right.status, right.score, right.isolation) == ("correct", 1.0, "A"), right
    assert verify("logic", "3 2 1", reference).status == "incorrect"
    payload = "__import__('os').fork()"
    assert verify("logic", payload, reference).status == "incorrect"
    assert verify("logic", "1", {**reference, "puzzle": "no_such_family"}).status == "error"
    assert verify("logic", "1", {**reference, "entry": "{"}).status == "error"


def test_a_gym_scorer_that_hangs_is_stopped():
    entry = {"question": "q", "answer": "x", "metadata": {"numbers": [9, 9], "target": 5, "expression": "9"}}
    verdict = verify("logic", "9**9**9**9", {"puzzle": "puzzle24", "entry": entry, "extract": "whole"})
    assert verdict.status == "incorrect"
    assert verdict.cpu_ms < 6000
