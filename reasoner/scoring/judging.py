"""Judge trees that come one after the other, while others grow: each is handed back once all its leaves have verdicts."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from reasoner.scoring.outcome import Failed, Stream, refuse_share, settle
from reasoner.tree import Node, Tree

MANY_WAITING = max(1024, 64 * (os.cpu_count() or 1))  # responses without a verdict, at which growing waits
ENOUGH = 50  # responses after which the share of failures is told from chance
_PAUSE_S = 0.005


class Settled(NamedTuple):
    """A tree by its number, and the leaves that got their verdicts here."""

    number: int
    tree: Tree
    leaves: list[int]


@dataclass
class _Open:
    """A tree with the texts of its responses, which of its nodes were judged ahead, and those without a verdict."""

    tree: Tree
    texts: dict[int, str] = field(default_factory=dict)
    early: dict[int, Node] = field(default_factory=dict)
    leaves: list[int] = field(default_factory=list)  # that had no verdict once it was grown


class Judging:
    """A context in which trees, known by number, are judged; `statuses`, `failed` and `judged` count as they are settled.

    Too many failures end it with a UserError as soon as they are no chance; `refuse_share` on the sums of all
    processes tells in the end.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self.decode = decode
        self.statuses, self.judged, self.failed = Counter[str](), Counter[str](), Counter[str]()
        self.details: dict[str, str] = {}  # what the first failure of each verifier said
        self.waited_s = 0.0
        self._told_s = 0.0
        self._open: dict[int, _Open] = {}
        self._grown: list[int] = []  # the numbers of trees that grow no more
        self._stream = Stream()

    def __enter__(self) -> Judging:
        self._stream.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.__exit__(*exception)

    def begin(self, t: int, tree: Tree) -> None:
        """A tree that will grow, or is grown."""
        self._open[t] = _Open(tree)

    def on_node(self, t: int, number: int, node: Node) -> None:
        """A continuation, as grow() reports it: judged at once where it ends a trajectory."""
        at = self._open[t]
        if node.is_finished:
            at.early[number] = node
            at.texts[number] = self.decode(
                [*at.tree.completion_ids(node.parent, node.offset), *node.token_ids]
            )
            self._stream.put((t, number), at.tree, at.texts[number])

    def end(self, t: int) -> Iterator[Settled]:
        """A tree that grows no more; yields those whose verdicts are all there by now, and waits where many are not."""
        at = self._open[t]
        at.leaves = [leaf for leaf in at.tree.leaves() if leaf not in at.tree.verdicts]
        for leaf in at.leaves:
            if at.early.get(leaf) is not at.tree.nodes[leaf]:
                at.texts[leaf] = self.decode(at.tree.completion_ids(leaf))
                self._stream.put((t, leaf), at.tree, at.texts[leaf])
        self._grown.append(t)
        yield from self._settled()
        begun = time.monotonic()
        while sum(len(o.texts) for o in self._open.values()) > MANY_WAITING + len(self._stream.found):
            time.sleep(_PAUSE_S)
            self._stream.check()
        self.waited_s += time.monotonic() - begun
        yield from self._settled()

    def rest(self) -> Iterator[Settled]:
        """Those that are left, once their verdicts are there."""
        begun = time.monotonic()
        self._stream.verdicts()
        self.waited_s += time.monotonic() - begun
        yield from self._settled()

    def waited(self) -> float:
        """Seconds of waiting for verdicts since this was last asked."""
        since, self._told_s = self.waited_s - self._told_s, self.waited_s
        return since

    def _settled(self) -> Iterator[Settled]:
        self._stream.check()
        found = self._stream.found
        waiting = []
        for t in self._grown:
            at = self._open[t]
            if any((t, number) not in found for number in at.texts):
                waiting.append(t)
                continue
            self._settle(t, at)
            yield Settled(t, at.tree, at.leaves)
        self._grown = waiting

    def _settle(self, t: int, at: _Open) -> None:
        leaves = at.leaves
        places = [(t, leaf) for leaf in leaves]
        texts = {(t, leaf): at.texts[leaf] for leaf in leaves}
        found = {place: self._stream.found[place] for place in places}
        is_failing = any(v.status == "error" for v in found.values())
        with self._stream.held() if is_failing else nullcontext():
            failed = settle({t: at.tree}, places, texts, found)
        self._count(failed, at.tree.problem.verifier, len(leaves))
        self.statuses.update(at.tree.verdicts[leaf].status for leaf in leaves)
        for number in at.texts:
            self._stream.found.pop((t, number), None)
        del self._open[t]

    def _count(self, failed: Sequence[Failed], verifier: str, num: int) -> None:
        if num:
            self.judged[verifier] += num
        for name, verdict in failed:
            self.failed[name] += 1
            self.details.setdefault(name, verdict.detail)
        if self.failed and self.judged.total() >= ENOUGH:
            refuse_share(self.failed, self.judged, self.details)
