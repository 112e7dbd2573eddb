"""Verdicts on the ends of trajectories, from the verifier that each problem names.

Trajectories are judged while others are still being decoded: the sandbox has processes of its own, so the
verdicts come from the cores that decoding leaves free. Which verdict a trajectory gets does not depend on when.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from reasoner.registry import UserError
from reasoner.tree import Node, Tree
from reasoner.watchdog import beat
from verifiers import Verdict, verify_many

Failed = tuple[str, Verdict]  # a verifier, and its verdict on what it could not judge
_Request = tuple[tuple[int, int], str, str, dict]
Decode = Callable[[Sequence[int]], str]
OnNode = Callable[[int, int, Node], None]  # (tree's number, the node's id, node), as grow() reports them

_MAX_FAILED = 0.2  # share of the responses, of all or of one verifier's
_PATIENCE_S = 5.0  # of trying again, before it is asked whether so many have failed already
_UNDECIDED_OF_PROBLEM = 1 / 8  # of a problem's responses, at least one, that may stay undecided
_FEW_OF_ONE = 4  # failures of one verifier that say something about it where others judged most


class TooManyFailed(UserError):
    """Verifiers failed on so many responses that their verdicts are of no use."""


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


def core_seconds(trees: Sequence[Tree]) -> float:
    """CPU seconds of all verdicts of the trees."""
    return sum(v.cpu_ms for t in trees for v in t.verdicts.values()) / 1000


def judge_while(grow: Callable[[OnNode], None], trees: Sequence[Tree], decode: Decode) -> Judged:
    """Run `grow(on_node)`, judge each trajectory as soon as it ends, and then the leaves that are left.

    A verdict of our own failure is retried once alone, and then stays an error, which nothing trains on; but for
    answers that stay undecided beyond an eighth of a problem's, which count as wrong. Raises UserError where a fifth
    of the responses, however few, end so.
    """
    texts: dict[tuple[int, int], str] = {}
    early: dict[tuple[int, int], Node] = {}
    with Stream() as stream:

        def on_node(t: int, number: int, node: Node) -> None:
            if node.is_finished:
                early[t, number] = node
                text = decode([*trees[t].completion_ids(node.parent, node.offset), *node.token_ids])
                texts[t, number] = text
                stream.put((t, number), trees[t], text)

        start = time.monotonic()
        grow(on_node)
        grown = time.monotonic()
        at = [(t, i) for t, tree in enumerate(trees) for i in tree.leaves() if i not in tree.verdicts]
        for t, leaf in at:
            if early.get((t, leaf)) is not trees[t].nodes[leaf]:
                texts[t, leaf] = decode(trees[t].completion_ids(leaf))
                stream.put((t, leaf), trees[t], texts[t, leaf])
        found = stream.verdicts()
    statuses = _settled(trees, at, texts, found)
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
        beat()
        found[place] = verdict
        on_progress(done)
    return _settled(trees, at, texts, found)


class Stream:
    """Requests that are judged in a thread as they come; verdicts by place."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue = queue.SimpleQueue()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="judge", daemon=True)
        self._free = threading.Event()  # unset while something is tried again alone
        self._free.set()
        self.found: dict[tuple[int, int], Verdict] = {}

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._requests.put(None)

    def put(self, place: tuple[int, int], tree: Tree, text: str) -> None:
        self._requests.put((place, *_request(tree, text)))

    def verdicts(self) -> dict[tuple[int, int], Verdict]:
        """Wait for all. Raises what judging raised (UnknownVerifier)."""
        self._requests.put(None)
        self._thread.join()
        self.check()
        return self.found

    def check(self) -> None:
        """Raise what judging raised, if it did."""
        if self._problem is not None:
            raise self._problem

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing new is begun inside."""
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    def _coming(self) -> Iterator[_Request]:
        for request in iter(self._requests.get, None):
            self._free.wait()
            yield request

    def _work(self) -> None:
        try:
            for place, verdict in verify_many(self._coming()):
                beat()
                self.found[place] = verdict
        except BaseException as problem:
            self._problem = problem


def _request(tree: Tree, text: str) -> tuple[str, str, dict]:
    return tree.problem.verifier, text, tree.problem.reference


def _settled(
    trees: Sequence[Tree],
    at: Sequence[tuple[int, int]],
    texts: dict[tuple[int, int], str],
    found: dict[tuple[int, int], Verdict],
) -> Counter[str]:
    """Write the verdicts into the trees; how many got each status. Raises UserError where too many failed."""
    judged = Counter(trees[t].problem.verifier for t, _ in at)
    failed = settle(dict(enumerate(trees)), at, texts, found, lambda failed: refuse_failures(failed, judged))
    refuse_failures(failed, judged)
    return Counter(trees[t].verdicts[leaf].status for t, leaf in at)


def settle(
    trees: Mapping[int, Tree],
    at: Sequence[tuple[int, int]],
    texts: Mapping[tuple[int, int], str],
    found: Mapping[tuple[int, int], Verdict],
    on_slow: Callable[[list[Failed]], None] = lambda failed: None,
) -> list[Failed]:
    """Write the verdicts into the trees, in the leaves' order; retry errors alone. Returns what failed twice.

    `on_slow` is asked at each failure once trying again takes long.
    """
    failed: list[Failed] = []
    started = time.monotonic()
    for t, leaf in at:
        verdict = found[t, leaf]
        if verdict.status == "error":
            first = verdict
            ((_, verdict),) = verify_many([((t, leaf), *_request(trees[t], texts[t, leaf]))], workers=1)
            if verdict.status == "error":
                verdict = replace(verdict, detail=f"failed twice: {first.detail}; {verdict.detail}"[:500])
                failed.append((trees[t].problem.verifier, verdict))
                if time.monotonic() - started > _PATIENCE_S:
                    on_slow(failed)  # the rest would fail as slowly
        trees[t].verdicts[leaf] = verdict
    for t, leaf in _over_the_cap(trees, at):
        verdict = trees[t].verdicts[leaf]
        failed.remove((trees[t].problem.verifier, verdict))
        detail = f"one undecided answer of this problem too many: {verdict.detail}"[:500]
        trees[t].verdicts[leaf] = replace(
            verdict, status="incorrect", reason="refused", score=0.0, detail=detail
        )
    return failed


def _over_the_cap(trees: Mapping[int, Tree], at: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The places of answers whose equality stayed undecided, beyond an eighth of their problem's responses.

    A verdict of `error` that names an answer says that the checker worked and could not decide. Where it decided on
    other answers of the problem, the rest is the answers' doing: else being undecidable would pay.
    """
    of_problem: dict[str, list[tuple[int, int]]] = {}
    for t, leaf in at:
        of_problem.setdefault(trees[t].problem.id, []).append((t, leaf))
    over: list[tuple[int, int]] = []
    for places in of_problem.values():
        verdicts = [trees[t].verdicts[leaf] for t, leaf in places]
        undecided = [place for place, v in zip(places, verdicts, strict=True) if _is_undecided(v)]
        if any(v.status in ("correct", "incorrect") for v in verdicts):
            over += undecided[max(1, int(_UNDECIDED_OF_PROBLEM * len(places))) :]
    return over


def _is_undecided(verdict: Verdict) -> bool:
    return verdict.status == "error" and verdict.reason == "internal_error" and verdict.answer is not None


def refuse_failures(failed: Sequence[Failed], judged: Counter[str]) -> None:
    """Raise UserError where more than a fifth of all responses, or of one verifier's, could not be judged, however few.

    failed: (verifier, its verdict) of each failure; judged: responses by verifier.
    """
    refuse_share(
        Counter(name for name, _ in failed),
        judged,
        {name: verdict.detail for name, verdict in reversed(failed)},
    )


def refuse_share(failed: Counter[str], judged: Counter[str], details: Mapping[str, str]) -> None:
    """As refuse_failures, by numbers of failures; details: what the first of each verifier said."""
    name, count = next(
        ((n, c) for n, c in failed.items() if c >= _FEW_OF_ONE and c > _MAX_FAILED * judged[n]),
        ("", failed.total()),
    )
    total = judged[name] if name else judged.total()
    # One alone says nothing about the others.
    if count == total > 0 or (count > 1 and count > _MAX_FAILED * total):
        detail = details[name or next(iter(details))]
        raise TooManyFailed(
            f"{f'verifier {name!r}' if name else 'verifiers'} failed twice on {count} of {total} responses, "
            f"expected hardly any ({detail}); see `python -m verifiers probe` and the problems' references"
        )
