"""The rounds of a run: each drawn when it is its turn, or some ahead of it in a thread, while earlier ones are learned from.

With `overlap` k the round n is drawn by the weights after n - k rounds of updates, the first k + 1 by those of the
start: which weights draw what does not hang on who is faster, and no round is older than k versions. The thread draws
one round after the other, in their order, and loads weights between two of them only. Every process has its own.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from reasoner.policy.snapshot import Snapshot
from reasoner.trainers.policy_draw import Position, Round

END_WAIT_S = 10.0  # in which a thread that draws has to end once its engine is closed


class Rounds:
    """Draws rounds by `draw(number)`, after `load(version)` has given the engine the weights that it is to draw by.

    `at.ahead` holds what is drawn and not yet taken, in order. With an `overlap` the engine's weights are the `snapshot`'s
    copy, and `end()` makes a draw that is under way end; without one there is no thread. `waited` are the seconds in which
    the last round that was taken was waited for.
    """

    def __init__(
        self,
        draw: Callable[[int], Round],
        load: Callable[[int], None],
        at: Position,
        num_rounds: int,
        overlap: int = 0,
        snapshot: Snapshot | None = None,
        end: Callable[[], Any] | None = None,
    ):
        self.draw, self.load, self.at, self.num_rounds, self.overlap = draw, load, at, num_rounds, overlap
        self.snapshot, self.end = snapshot, end
        self.waited = 0.0
        self.under_way = 0  # rounds that the thread was told to draw and has not
        self.problem: BaseException | None = None
        self.jobs: queue.SimpleQueue[tuple[int, range] | None] = queue.SimpleQueue()
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="rounds", daemon=True) if overlap else None
        if self.thread is not None:
            self.thread.start()

    def offer(self, number: int) -> None:
        """The weights are those that round `number` will be learned with: what is to be drawn by them may be drawn now."""
        with self.changed:
            first = number + len(self.at.ahead) + self.under_way
        new = range(first, min(number + self.overlap + 1, self.num_rounds))
        if not new:
            return
        if self.thread is None:
            self.load(number)
            return
        assert self.snapshot is not None
        self.snapshot.take()
        with self.changed:
            self.under_way += len(new)
        self.jobs.put((number, new))

    def take(self, number: int) -> Round:
        """The round of this number, which was offered; raises what drawing raised, as it is."""
        if self.thread is None and not self.at.ahead:
            self.at.ahead.append(self.draw(number))
        begun = time.monotonic()
        self._wait(lambda: bool(self.at.ahead))
        self.waited = time.monotonic() - begun
        drawn = self.at.ahead.pop(0)
        self.at.generated += drawn.generated
        return drawn

    def rest(self) -> None:
        """Wait until nothing is being drawn: `at` then tells all of it."""
        self._wait(lambda: self.under_way == 0)

    def drop(self) -> None:
        """Let go of what is drawn ahead; it was generated all the same."""
        self.rest()
        self.at.generated += sum(drawn.generated for drawn in self.at.ahead)
        self.at.ahead = []

    def close(self) -> None:
        """End the thread, and a draw that nobody will take."""
        if self.thread is None:
            return
        self.jobs.put(None)
        if self.under_way and self.problem is None and self.end is not None:
            self.end()
        self.thread.join(END_WAIT_S)

    def _wait(self, is_so: Callable[[], bool]) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.problem is not None or is_so())
        if self.problem is not None:
            raise self.problem

    def _work(self) -> None:
        try:
            for version, numbers in iter(self.jobs.get, None):
                self.load(version)
                for number in numbers:
                    drawn = self.draw(number)
                    with self.changed:
                        self.at.ahead.append(drawn)
                        self.under_way -= 1
                        self.changed.notify_all()
        except BaseException as problem:
            with self.changed:
                self.problem = problem
                self.changed.notify_all()
