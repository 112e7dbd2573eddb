"""Which part of a stage is where: still to do, with which worker, or done; what a lost worker had is to do again.

Nothing here knows of Ray. A part is whole files under its number, so one that is done twice is there once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable

from reasoner.registry import UserError

MOST_LOST = 4  # workers that may end over one part, or one after the other before any is done


class HandOut:
    """Parts by number, handed to workers by number."""

    def __init__(self, numbers: Iterable[int]):
        self.left = deque(numbers)
        self.under_way: dict[int, list[int]] = {}  # by worker
        self.num_done = Counter[int]()  # by worker
        self.lost = 0  # workers
        self._over_part = Counter[int]()
        self._in_a_row = 0

    def give(self, worker: int, most: int) -> list[int]:
        """The next parts, at most so many, to a worker."""
        numbers = [self.left.popleft() for _ in range(min(most, len(self.left)))]
        self.under_way.setdefault(worker, []).extend(numbers)
        return numbers

    def done(self, worker: int, number: int) -> None:
        """A worker has written a part."""
        self.under_way[worker].remove(number)
        self.num_done[worker] += 1
        self._in_a_row = 0

    def gone(self, worker: int, written: Collection[int], why: str) -> list[int]:
        """A worker was lost: what it had goes to others, but for what is `written`, whose numbers come back.

        Workers that go on ending, over one part or before any is done, are a UserError with the last reason.
        """
        had = self.under_way.pop(worker, [])
        kept = [number for number in had if number in written]
        open_ = [number for number in had if number not in written]
        self.lost += 1
        self._in_a_row = 0 if kept else self._in_a_row + 1
        self._over_part.update(open_)
        self.num_done[worker] += len(kept)
        self.left.extendleft(reversed(open_))
        often = [number for number in open_ if self._over_part[number] >= MOST_LOST]
        if often or self._in_a_row >= MOST_LOST:
            over = f"over part {often[0]}" if often else "one after the other, and none did a part"
            raise UserError(
                f"{MOST_LOST} workers ended {over}; expected them to last ({why}): see to it, or give each more room by "
                "the key ray; the same command goes on with the parts that are left"
            )
        return kept
