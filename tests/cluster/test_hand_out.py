"""Parts among workers: each is given once, and what a lost worker had is given again, but for what it had written."""

import pytest

from reasoner.cluster.hand_out import MOST_LOST, HandOut
from reasoner.registry import UserError


def test_parts_are_given_once_and_in_order():
    parts = HandOut([3, 5, 6, 9])
    assert parts.give(0, 1) == [3] and parts.give(1, 2) == [5, 6] and parts.give(0, 4) == [9]
    assert parts.give(1, 1) == []
    parts.done(0, 9)
    assert parts.under_way == {0: [3], 1: [5, 6]} and parts.num_done == {0: 1}


def test_what_a_lost_worker_had_comes_first_but_for_what_it_had_written():
    parts = HandOut(range(6))
    parts.give(0, 3)
    parts.done(0, 0)
    assert parts.gone(0, {0, 2}, "killed") == [2]  # written, and not told any more
    assert list(parts.left) == [1, 3, 4, 5] and parts.num_done == {0: 2} and parts.lost == 1
    assert parts.give(1, 9) == [1, 3, 4, 5]


def test_a_part_that_ends_every_worker_ends_the_run_with_the_reason():
    parts = HandOut([7, *range(100, 200)])
    for worker in range(MOST_LOST - 1):
        assert parts.give(worker, 1) == [7]
        (other,) = parts.give(50 + worker, 1)
        parts.gone(worker, (), "out of memory")
        parts.done(50 + worker, other)  # others work
    parts.give(99, 1)
    with pytest.raises(UserError, match=r"workers ended over part 7; .*out of memory"):
        parts.gone(99, (), "out of memory")


def test_workers_that_end_before_they_do_anything_end_the_run():
    parts = HandOut(range(100))
    for worker in range(MOST_LOST - 1):
        parts.gone(worker, (), "no torch there")
    with pytest.raises(UserError, match=r"none did a part.*no torch there"):
        parts.gone(99, (), "no torch there")


def test_a_part_that_is_done_in_between_shows_that_workers_can():
    parts = HandOut(range(100))
    for worker in range(3 * MOST_LOST):
        parts.give(worker, 2)
        parts.done(worker, parts.under_way[worker][0])
        parts.gone(worker, (), "a machine was taken away")
        parts.left.rotate(-2)  # others each time
    assert parts.lost == 3 * MOST_LOST
