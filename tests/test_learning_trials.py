"""The learning benchmark chooses on trials alone, gives each method the same grid, and its intervals are right."""

import pytest

from tests.benchmarks.trials import (
    MIDDLE,
    Cell,
    Choice,
    chosen,
    difference,
    half_width,
    is_trial,
    missing,
    neighbours,
    next_trial,
)


def row(choice: Choice, seed: int, accuracy: float | None, method: str = "a") -> dict:
    of = {"failed": "no"} if accuracy is None else {"accuracy": accuracy}
    return {"method": method, **choice._asdict(), "seed": seed, **of}


def cells(rows, methods=("a",), trials=3, seeds=0, climbers=("a",)):
    return list(missing(rows, list(methods), trials, seeds, "accuracy", climbers))


def test_neighbours_differ_in_one_setting_by_one_place_and_stay_in_the_grid():
    assert neighbours(MIDDLE, True) == [
        Choice(1.0, 3, 2),
        Choice(2.0, 1, 2),
        Choice(1.0, 1, 4),
        Choice(0.5, 1, 2),
    ]
    assert neighbours(Choice(4.0, 3, 4), True) == [Choice(4.0, 1, 4), Choice(2.0, 3, 4), Choice(4.0, 3, 2)]
    assert neighbours(MIDDLE, False) == [Choice(2.0, 1, 2), Choice(0.5, 1, 2)]


def test_trials_climb_from_the_best_and_end_where_all_around_it_were_tried():
    worse = Choice(1.0, 3, 2)
    rows = [row(MIDDLE, 1, 0.5), row(worse, 1, 0.4)]
    assert next_trial(rows, "a", "accuracy", True) == Choice(2.0, 1, 2)
    rows.append(row(Choice(2.0, 1, 2), 1, 0.6))
    assert next_trial(rows, "a", "accuracy", True) == Choice(2.0, 3, 2)
    rows += [row(c, 1, None) for c in neighbours(Choice(2.0, 1, 2), True) if c != MIDDLE]
    assert next_trial(rows, "a", "accuracy", True) is None


def test_test_problems_choose_nothing_and_end_the_trials():
    fast = Choice(2.0, 1, 2)
    rows = [row(MIDDLE, 1, 0.5), row(fast, 1, 0.6)]
    assert chosen(rows, "a", "accuracy") == fast
    assert chosen([*rows, row(fast, 11, 0.1)], "a", "accuracy") == fast
    # a test run fixes the choice: better trials that come after it move nothing
    late = [*rows, row(fast, 11, 0.1), row(Choice(4.0, 1, 2), 1, 0.9)]
    assert chosen(late, "a", "accuracy") == fast
    assert cells(late, trials=9, seeds=2) == [Cell("a", fast, 12)]


def test_the_best_two_trials_are_repeated_with_a_second_seed_and_the_mean_decides():
    fast, slow = Choice(2.0, 1, 2), Choice(0.5, 1, 2)
    rows = [row(MIDDLE, 1, 0.5), row(fast, 1, 0.6), row(slow, 1, 0.4)]
    assert cells(rows, trials=0, seeds=1)[:2] == [Cell("a", fast, 2), Cell("a", MIDDLE, 2)]
    assert chosen([*rows, row(fast, 2, 0.3), row(MIDDLE, 2, 0.5)], "a", "accuracy") == MIDDLE
    assert all(is_trial(seed) for seed in (1, 2)) and not is_trial(11)


def test_without_trials_all_go_with_the_middle():
    assert cells([], ("a", "b"), trials=0, seeds=1) == [Cell("a", MIDDLE, 11), Cell("b", MIDDLE, 11)]
    assert cells([], trials=1, seeds=1) == [Cell("a", MIDDLE, 1)]  # whose run is not there yet


def test_each_seed_meets_the_test_problems_once_also_where_the_run_failed():
    rows = [row(MIDDLE, 1, 0.5), row(MIDDLE, 11, 0.5), row(MIDDLE, 12, None)]
    assert [c.seed for c in cells(rows, trials=0, seeds=4)] == [13, 14]


def test_no_method_gets_more_trials_than_another():
    rows: list[dict] = []
    for cell in missing(rows, ["a", "b"], 4, 0, "accuracy", ["a", "b"]):
        rows.append(row(cell.choice, cell.seed, len(rows) / 100, cell.method))
    assert [r["method"] for r in rows] == ["a", "b"] * 4
    assert cells(rows, ("a", "b"), 4, climbers=("a", "b")) == []  # nor when the command is given again


def test_intervals_against_numbers_worked_out_by_hand():
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.30 / 3**0.5)  # deviation 1, two degrees of freedom
    # variances 2.5 and 10 of five each: standard error sqrt(0.5 + 2), 6.25 / (0.0625 + 1) = 5.88 degrees of freedom
    found, half = difference([1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 2.0, 4.0, 6.0, 8.0])
    assert (found, half) == (-1.0, pytest.approx(2.57 * 2.5**0.5))
    assert difference([2.0, 2.0], [1.0, 1.0]) == (1.0, 0.0)
