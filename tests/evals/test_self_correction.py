"""Planted errors, the first wrong step, and the shares that are noticed and mended, of chains typed by hand."""

from random import Random

import pytest

from reasoner.evals.self_correction import (
    Ending,
    first_error,
    gain_in_own,
    gains,
    planted,
    rows_of,
)
from reasoner.signals.consensus import arithmetic, working


def all_planted(steps: list[str]) -> set[tuple[str, ...]]:
    return {tuple(found) for seed in range(200) if (found := planted(steps, Random(seed))) is not None}


def test_a_true_result_becomes_one_near_by_and_the_chain_ends_there():
    steps = ["1+2=3\n", "3+3=6\n", "#### 6"]
    found = all_planted(steps)
    assert {p for p in found if len(p) == 1} == {(f"1+2={n}\n",) for n in (1, 2, 4, 5, 13)}
    assert {p for p in found if len(p) == 2} == {("1+2=3\n", f"3+3={n}\n") for n in (4, 5, 7, 8, 16)}
    assert len(found) == 10
    assert all(working(["1+2+3"], [list(p)]) == [len(p) - 1] for p in found)


def test_decimals_signs_and_copies_keep_their_form():
    ends = ["\n", "#### x"]
    assert {p[0] for p in all_planted(["0.4-0.3=0.1", *ends])} == {f"0.4-0.3=0.{n}" for n in (0, 2, 3)} | {
        "0.4-0.3=1.1"
    }
    assert {p[0] for p in all_planted(["2-4=-2", *ends])} == {f"2-4=-{n}" for n in (1, 3, 4, 12)}
    words = "He has 48/2 = <<48/2=24>>24 clips, not 240."
    assert {p[0] for p in all_planted([words, *ends])} == {
        words.replace("=24>>24", f"={n}>>{n}") for n in (14, 22, 23, 25, 26, 34)
    }


@pytest.mark.parametrize(
    "steps",
    [
        ["1+2=4\n", "#### 4"],  # false as it is
        ["1+2=3"],  # the last step
        ["so it is three\n", "#### 3"],
        ["1+2+3=6\n", "#### 6"],  # 2+3=6 alone would be false
        ["7/0=0\n", "#### 0"],
        [],
    ],
)
def test_where_no_calculation_is_true_nothing_is_planted(steps):
    assert planted(steps, Random(0)) is None


def test_the_first_wrong_step_is_looked_for_before_any_doubt():
    def cut(*steps: str):
        return first_error("1+2+3", steps, "no\n", working)

    assert cut("1+2=3\n", "3+3=6\n", "#### 6") is None
    assert cut("1+2=3\n", "3+3=7\n", "#### 7") == (["1+2=3\n", "3+3=7\n"], False)
    assert cut("1+2=4\n", "no\n", "1+2=3\n", "3+3=6\n", "#### 6") == (["1+2=4\n"], True)
    # a false alarm, after which the same calculation comes again, is no wrong step
    assert cut("1+2=3\n", "no\n", "1+2=3\n", "3+3=6\n", "#### 6") is None
    # part of a word is no doubt
    assert first_error("1 2", ["we know 1+2=4\n", "4"], "no", arithmetic) is None
    assert first_error("1 2", ["1+2=4\n", "we know\n", "no, it is 3"], "no", arithmetic) == (
        ["1+2=4\n"],
        True,
    )


def ending(problem: str, is_noticed: bool, is_right: bool | None) -> Ending:
    return Ending(problem, is_noticed, is_right)


def test_shares_of_wrong_steps_and_paired_differences():
    before = [ending(f"p{i}", False, i == 0) for i in range(4)] + [ending("p4", True, None)]
    after = [ending(f"p{i}", i < 3, i < 2) for i in range(4)] + [ending("p4", True, True)]
    rows = {row.metric: row for row in rows_of("s", "planted", "after", after)}
    assert (rows["noticed"].value, rows["mended"].value, rows["mended"].n) == (4 / 5, 3 / 5, 5)
    assert rows["mended"].low == pytest.approx(0.2307, abs=1e-4)  # Wilson, 3 of 5
    found = {row.metric: row for row in gains("s", "planted", "after", "before", after, before)}
    assert found["noticed_gain"].value == pytest.approx(3 / 4)  # p4 was not judged before
    assert found["mended_gain"].value == pytest.approx(1 / 4) and found["mended_gain"].n == 4
    assert found["mended_gain"].when == "after over before"


def test_own_errors_are_counted_by_problem():
    one = [ending("a", True, True), ending("a", False, False), ending("b", True, True)]
    rows = {row.metric: row for row in rows_of("s", "own error", "after", one)}
    assert rows["mended"].value == pytest.approx(2 / 3) and rows["mended"].n == 2
    other = [ending("b", False, False), ending("c", False, True), ending("c", False, False)]
    gain = gain_in_own("s", "own error", "after", "before", one, other)
    assert gain is not None and gain.value == pytest.approx(2 / 3 - 1 / 3) and gain.n == 3
    assert gain.low < gain.value < gain.high
    assert gain_in_own("s", "own error", "after", "before", one, []) is None
