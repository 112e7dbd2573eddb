"""Running rows in groups of like length, so that a step of decoding reads no more of a row than its group's longest has.

All rows grow by one token a step, so their order by length stays until one ends or begins. A new row comes last, where
short ones are; where one ends, the longest of each later group moves up by a group. So the longest gather in front.
"""

from __future__ import annotations

from collections.abc import Sequence

from reasoner.policy.attention import Group

GROUPS = 8
LEAST_BYTES = (
    4 << 20
)  # of keys and values in a layer: below this, more operations cost more than reading less saves
WIDTH_STEP = 8  # key positions are read in multiples of this


def grouped(at: Sequence[int], longest: int, bytes_per_position: float) -> list[Group]:
    """Groups of the rows whose last tokens stand `at` these positions; one where a layer's keys and values are few.

    `longest` is the length of a slot, `bytes_per_position` what a layer keeps of a token.
    """

    def width(rows: Sequence[int]) -> int:
        return min(longest, -(-(max(rows) + 1) // WIDTH_STEP) * WIDTH_STEP)

    whole = Group(0, len(at), width(at))
    if len(at) * whole.width * bytes_per_position < LEAST_BYTES:
        return [whole]
    size = -(-len(at) // GROUPS)
    return [Group(i, min(i + size, len(at)), width(at[i : i + size])) for i in range(0, len(at), size)]


def moves(row: int, at: Sequence[int], size: int) -> list[tuple[int, int]]:
    """(from, to) of the rows that move, in order, where `row` ends and groups have `size` rows: the last place is then free."""
    found = []
    for start in range(0, len(at), size):
        if start > row:
            longest = max(range(start, min(start + size, len(at))), key=at.__getitem__)
            found.append((longest, row))
            row = longest
    last = len(at) - 1
    return found if row == last else [*found, (last, row)]
