"""Verdicts on the ends of trajectories, from the verifier that each problem names.

Trajectories are judged while others are still being decoded: the sandbox has processes of its own, so the
verdicts come from the cores that decoding leaves free. Which verdict a trajectory gets does not depend on when.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from reasoner.registry import UserError
from reasoner.tree import Node, Tree
from verifiers import Verdict, verify, verify_many

_Request = tuple[tuple[int, int], str, str, dict]
Decode = Callable[[Sequence[int]], str]
OnNode = Callable[[int, int, Node], None]  # (tree's number, the node's id, node), as grow() reports them

_FEW_FAILURES = 20
_MAX_FAILED = 0.2


@dataclass(frozen=True)
class Judged:
    """What judging came to: verdicts by status, and seconds of growing and of waiting after it for verdicts."""

    statuses: Counter[str]
    growing_s: float
    waiting_s: float

    @property
    def wait_share(self) -> float:
        """The share of the wall time in which nothing was decoded any more and verdicts were missing."""
        return self.waiting_s / max(1e-9, self.growing_s + self.waiting_s)


def judge_while(grow: Callable[[OnNode], None], trees: Sequence[Tree], decode: Decode) -> Judged:
    """Run `grow(on_node)`, judge each trajectory as soon as it ends, and then the leaves that are left.

    A verdict of our own failure is retried once alone; a second one on the same response makes it
    `incorrect`, since else breaking the checker would pay. Raises UserError where many fail twice.
    """
    texts: dict[tuple[int, int], str] = {}
    early: dict[tuple[int, int], Node] = {}
    with _Stream(trees) as stream:

        def on_node(t: int, number: int, node: Node) -> None:
            if node.is_finished:
                early[t, number] = node
                text = decode([*trees[t].completion_ids(node.parent, node.offset), *node.token_ids])
                texts[t, number] = text
                stream.put((t, number), text)

        start = time.monotonic()
        grow(on_node)
        grown = time.monotonic()
        at = [(t, i) for t, tree in enumerate(trees) for i in tree.leaves() if i not in tree.verdicts]
        for t, leaf in at:
            if early.get((t, leaf)) is not trees[t].nodes[leaf]:
                texts[t, leaf] = decode(trees[t].completion_ids(leaf))
                stream.put((t, leaf), texts[t, leaf])
        found = stream.verdicts()
    statuses = _settle(trees, at, texts, found)
    return Judged(statuses, grown - start, time.monotonic() - grown)


def judge(
    trees: Sequence[Tree], decode: Decode, on_progress: Callable[[int], None] = lambda done: None
) -> Counter[str]:
    """Give every leaf without a verdict one; returns how many got each status. See judge_while."""
    at = [(t, i) for t, tree in enumerate(trees) for i in tree.leaves() if i not in tree.verdicts]
    texts = {(t, i): decode(trees[t].completion_ids(i)) for t, i in at}
    requests = ((place, *_request(trees[place[0]], text)) for place, text in texts.items())
    found = {}
    for done, (place, verdict) in enumerate(verify_many(requests), start=1):
        found[place] = verdict
        on_progress(done)
    return _settle(trees, at, texts, found)


class _Stream:
    """Requests that are judged in a thread as they come; the verdicts at the end."""

    def __init__(self, trees: Sequence[Tree]):
        self._trees = trees
        self._requests: queue.SimpleQueue = queue.SimpleQueue()
        self._found: dict[tuple[int, int], Verdict] = {}
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="judge", daemon=True)

    def __enter__(self) -> _Stream:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._requests.put(None)

    def put(self, place: tuple[int, int], text: str) -> None:
        self._requests.put((place, *_request(self._trees[place[0]], text)))

    def verdicts(self) -> dict[tuple[int, int], Verdict]:
        """Wait for all. Raises what judging raised (UnknownVerifier)."""
        self._requests.put(None)
        self._thread.join()
        if self._problem is not None:
            raise self._problem
        return self._found

    def _work(self) -> None:
        try:
            coming: Iterator[_Request] = iter(self._requests.get, None)
            for place, verdict in verify_many(coming):
                self._found[place] = verdict
        except BaseException as problem:
            self._problem = problem


def _request(tree: Tree, text: str) -> tuple[str, str, dict]:
    return tree.problem.verifier, text, tree.problem.reference


def _settle(
    trees: Sequence[Tree],
    at: Sequence[tuple[int, int]],
    texts: dict[tuple[int, int], str],
    found: dict[tuple[int, int], Verdict],
) -> Counter[str]:
    """Write the verdicts into the trees, in the leaves' order; retry errors alone. Raises UserError."""
    statuses: Counter[str] = Counter()
    failed: list[Verdict] = []
    for t, leaf in at:
        verdict = found[t, leaf]
        if verdict.status == "error":
            first, verdict = verdict, verify(*_request(trees[t], texts[t, leaf]))
            if verdict.status == "error":
                failed.append(verdict)
                verdict = _refused(first, verdict)
        trees[t].verdicts[leaf] = verdict
        statuses[verdict.status] += 1
    if len(failed) >= _FEW_FAILURES and len(failed) > _MAX_FAILED * len(at):
        raise UserError(
            f"verifiers failed twice on {len(failed)} of {len(at)} responses, expected hardly any ({failed[0].detail}); "
            "see `python -m verifiers probe` and the problems' references"
        )
    return statuses


def _refused(first: Verdict, second: Verdict) -> Verdict:
    detail = f"failed twice: {first.detail}; {second.detail}"[:500]
    return replace(second, status="incorrect", reason="refused", detail=detail)


def outcome_reward(verdict: Verdict | None) -> float | None:
    """1 for correct, 0 for incorrect or no answer; None (to be masked) where our side failed or nothing was judged."""
    if verdict is None or verdict.status == "error":
        return None
    return float(verdict.status == "correct")
