"""A stage on every process: its parts are shared out, a killed stage goes on with those that are left, and all is summed.

A part is some trees that stay together: what it writes is called by its number, so that the same files come out of any
number of processes and of any number of starts, in the order of the problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from accelerate import PartialState

from reasoner.parts import costs_so_far, files_of, mark, marked, marks
from reasoner.scoring.judging import Judging, Settled
from reasoner.scoring.outcome import refuse_share
from reasoner.search.grow import BranchPolicy, Growth, grow
from reasoner.trainers.loop import Session
from reasoner.trainers.ranks import from_everyone, wait_for_everyone
from reasoner.tree import Tree

R = TypeVar("R")
AHEAD = 4  # continuations asked for, in slots, before another tree is begun
JUDGED, FAILED = "judged by ", "failed by "  # before a verifier's name, among the counts of a part


class Own:
    """Part numbers that are done here, and the marks of those that are; `num` says how many, 0 where that shows later."""

    def __init__(self, session: Session, rank: int, numbers: Iterable[int], num: int = 0):
        assert session.parts is not None
        self.session, self.folder = session, session.parts
        self.rank, self.numbers, self.num = rank, numbers, num
        self._booked, self._seconds = session.ledger.spent()

    def done(self, number: int, counts: Mapping[str, float], notes: Mapping[str, str] | None = None) -> None:
        """A part is done and written; `counts` are what it adds to the stage's sums."""
        booked, seconds = self.session.ledger.spent()
        costs = {
            model: {c: n - self._booked.get(model, {}).get(c, 0) for c, n in counters.items()}
            for model, counters in booked.items()
        }
        facts = {
            "rank": str(self.rank), "seconds": seconds - self._seconds, "costs": costs, "counts": dict(counts),
            "notes": dict(notes or {}), "files": files_of(self.folder, number),
        }  # fmt: skip
        mark(self.folder, number, facts)
        self._booked, self._seconds = booked, seconds


class Share(Own):
    """This process's part numbers of a stage that has `total` parts; all processes make one together.

    With `together` false the first process has them all.
    """

    numbers: list[int]

    def __init__(self, session: Session, stage: str, total: int, together: bool = True):
        assert session.parts is not None
        state = PartialState()
        done = marked(session.parts)
        if state.is_main_process:
            counts, seconds = costs_so_far(session.parts)
            session.ledger.resume({"counts": {stage: counts}}, seconds)
        wait_for_everyone()  # else a fast process's first marks would change what a slow one finds
        left = [number for number in range(total) if number not in done]
        of_first = left if state.process_index == 0 else []
        own = left[state.process_index :: state.num_processes] if together else of_first
        super().__init__(session, state.process_index, own, len(own))

    def work(self, do: Callable[..., R], config: Any, context: Any, *facts: Any) -> list[R]:
        """What `do(config, context, own, *facts)` returns on each process, or on each of the session's workers elsewhere.

        `do` stands at the top of a module, so that workers find it by its name; `facts` are what is known of all parts.
        """
        if self.session.crew is not None:
            return self.session.crew(do, self.numbers, facts)
        return from_everyone(do(config, context, self, *facts))

    def conclude(self) -> Counter[str]:
        """The sums over all parts, once every process is done with its own.

        Where verifiers failed on too many of all responses: UserError, on every process.
        """
        wait_for_everyone()
        total, notes = Counter[str](), dict[str, str]()
        if PartialState().is_main_process:
            for facts in marks(self.folder):
                total.update(facts["counts"])
                notes = facts["notes"] | notes
        total, notes = from_everyone((total, notes))[0]
        refuse_share(_named(total, FAILED), _named(total, JUDGED), notes)
        return Counter({name: n for name, n in total.items() if not name.startswith((JUDGED, FAILED))})


def _named(counts: Counter[str], before: str) -> Counter[str]:
    return Counter({k.removeprefix(before): int(n) for k, n in counts.items() if k.startswith(before)})


def verdict_counts(settled: Iterable[Settled], stage: str) -> tuple[Counter[str], dict[str, str]]:
    """What a part's new verdicts add to the sums, and what the first failure of each verifier said."""
    counts, notes = Counter[str](), dict[str, str]()
    for _, tree, leaves in settled:
        name = tree.problem.verifier
        for verdict in (tree.verdicts[leaf] for leaf in leaves):
            counts[f"{stage}/{verdict.status}"] += 1
            counts[JUDGED + name] += 1
            if verdict.status == "error":
                counts[FAILED + name] += 1
                notes.setdefault(name, verdict.detail)
    return counts, notes


def verdict_costs(settled: Iterable[Settled]) -> dict[str, int | float]:
    """What new verdicts cost, for the ledger: their number, and the core seconds that they took."""
    verdicts = [tree.verdicts[leaf] for _, tree, leaves in settled for leaf in leaves]
    return {"verifications": len(verdicts), "verifier_seconds": sum(v.cpu_ms for v in verdicts) / 1000}


Finish = Callable[[int, list[Tree], list[Settled]], None]


def trees_of_parts(
    parts: Iterable[tuple[int, list[Tree]]], finish: Finish
) -> tuple[Iterator[Tree], Callable[[Settled], None]]:
    """The trees of all parts as one stream, and what has to hear of each that is done, by its number in the stream.

    `finish(number, trees, settled)` is called once all trees of a part are done.
    """
    part_of: dict[int, int] = {}
    under_way: dict[int, tuple[list[Tree], list[Settled]]] = {}

    def stream() -> Iterator[Tree]:
        t = 0
        for number, trees in parts:
            under_way[number] = trees, []
            for tree in trees:
                part_of[t] = number
                t += 1
                yield tree

    def on_done(settled: Settled) -> None:
        number = part_of.pop(settled.number)
        trees, done = under_way[number]
        done.append(settled)
        if len(done) == len(trees):
            del under_way[number]
            finish(number, trees, done)

    return stream(), on_done


def grow_and_judge(
    trees: Iterator[Tree],
    on_done: Callable[[Settled], None],
    judging: Judging,
    engine: Any,
    policy: BranchPolicy,
    growth: Growth,
    ahead: int,
    **hooks: Any,
) -> None:
    """Grow a stream of trees, judge their ends while others grow, and tell of each once it has all its verdicts."""

    def begun() -> Iterator[Tree]:
        for t, tree in enumerate(trees):
            judging.begin(t, tree)
            yield tree

    def ended(t: int, tree: Tree) -> None:
        for settled in judging.end(t):
            on_done(settled)

    with judging:
        grow(begun(), engine, policy, growth, on_node=judging.on_node, on_done=ended, ahead=ahead, **hooks)
        for settled in judging.rest():
            on_done(settled)
