"""Parts of a stage's work: marks of what is done, what they sum up to, and work that is another's."""

import pytest

from reasoner.parts import (
    are_of,
    begin_parts,
    costs_so_far,
    files_of,
    give_up_parts,
    mark,
    marked,
    marks,
    trees_per_part,
    unmark_damaged,
)


def facts(rank: str, seconds: float, decoded: int) -> dict:
    return {"rank": rank, "seconds": seconds, "costs": {"policy": {"decoded": decoded}}, "counts": {}}


def test_marks_are_known_in_the_order_of_the_parts_and_add_up(tmp_path):
    begin_parts(tmp_path, "work")
    for number, of_part in ((100_000, facts("0", 2.0, 5)), (3, facts("1", 4.0, 7)), (12, facts("0", 1.5, 1))):
        mark(tmp_path, number, of_part)
    assert marked(tmp_path) == {3, 12, 100_000}
    assert [m["costs"]["policy"]["decoded"] for m in marks(tmp_path)] == [7, 1, 5]
    # processes work at the same time: the seconds are those of the one that took the most
    assert costs_so_far(tmp_path) == ({"policy": {"decoded": 13}}, 4.0)


def test_marks_of_other_work_go(tmp_path):
    assert not are_of(tmp_path / "parts", "work") and marked(tmp_path / "parts") == set()
    begin_parts(tmp_path / "parts", "work")
    mark(tmp_path / "parts", 1, facts("0", 1.0, 1))
    assert are_of(tmp_path / "parts", "work") and not are_of(tmp_path / "parts", "other")
    begin_parts(tmp_path / "parts", "other")
    assert marked(tmp_path / "parts") == set() and costs_so_far(tmp_path / "parts") == ({}, 0.0)


def test_what_is_given_up_is_not_gone_on_with_whatever_is_still_written(tmp_path):
    begin_parts(tmp_path, "work")
    mark(tmp_path, 0, facts("0", 1.0, 1))
    give_up_parts(tmp_path)
    mark(tmp_path, 1, facts("1", 1.0, 1))  # by another process that knows nothing of it
    assert not are_of(tmp_path, "work")


def test_a_part_of_which_a_bit_has_changed_is_done_again(tmp_path):
    """Of the mark and of each file, cut, flipped or gone."""
    parts = tmp_path / "stages/label/parts"
    written = [
        tmp_path / "trees/label/00003.parquet",
        tmp_path / "records/label/soft/00003.parquet",
        parts / "points/3.json",
    ]
    for path in written:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"rows")
    (tmp_path / "trees/label/00030.parquet").write_bytes(b"of another part")
    mark(parts, 3, facts("0", 1.0, 1) | {"files": files_of(parts, 3)})
    mark(parts, 4, facts("0", 0.1 + 0.2, 1) | {"files": {}})
    assert set(next(marks(parts))["files"]) == {p.relative_to(tmp_path).as_posix() for p in written}
    assert unmark_damaged(parts) == []
    of_mark = (parts / "00003.json").read_bytes()
    for path in (*written, parts / "00003.json"):
        whole = path.read_bytes()
        middle = len(whole) // 2
        for damaged in (whole[:-2], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            if path != parts / "00003.json" or damaged is not None:
                assert unmark_damaged(parts) == [3], (path, damaged)
            path.write_bytes(whole)
            (parts / "00003.json").write_bytes(of_mark)
    assert unmark_damaged(parts) == [] and marked(parts) == {3, 4}


@pytest.mark.parametrize(
    ("total", "size"), [(0, 4), (1, 4), (256, 4), (257, 5), (640, 10), (4096, 64), (10**7, 64)]
)
def test_many_problems_make_parts_of_64_and_few_make_64_parts(total, size):
    assert trees_per_part(total) == size
