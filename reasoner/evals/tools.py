"""Give test-time methods their tools: each call is booked in the ledger, so that nothing is for free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from reasoner.data.prompting import Prompting
from reasoner.engine.local import LocalEngine
from reasoner.engine.remote import RemoteEngine
from reasoner.ledger import Ledger
from reasoner.policy.heads import ScoreNet
from reasoner.policy.packing import num_tokens
from reasoner.scoring.aggregate import AGGREGATES
from reasoner.scoring.outcome import judge
from reasoner.scoring.prm import score_leaves, score_steps
from reasoner.scoring.published import PublishedPRM
from reasoner.scoring.token_measures import first_tokens, measure_tokens
from reasoner.search.grow import Growth, StepStop
from reasoner.search.method import Tools
from reasoner.tree import NO_PARENT, ROOT, Tree


@dataclass(frozen=True)
class Solver:
    """A policy with the models that judge for it, and the ledger that they all book in."""

    name: str
    engine: LocalEngine | RemoteEngine
    prompting: Prompting
    ledger: Ledger
    prm: ScoreNet | PublishedPRM | None = None
    orm: ScoreNet | None = None

    @property
    def num_params(self) -> int:
        """Parameters that a token passes through, the embeddings left out."""
        return num_passed(self.engine.model)


def num_passed(lm) -> int:
    embeddings = lm.get_input_embeddings().weight
    return sum(p.numel() for p in lm.parameters() if p is not embeddings) or 1


def tools_of(
    solver: Solver,
    max_tokens: int,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tools:
    """Tools that book what they do; see Tools for what each is."""
    prompting, ledger = solver.prompting, solver.ledger

    @lru_cache(maxsize=1 << 20)
    def decode_once(ids: tuple[int, ...]) -> str:
        return prompting.decode(ids)

    def decode(ids: Sequence[int]) -> str:
        return decode_once(tuple(ids))

    def verify(trees: Sequence[Tree]) -> None:
        ledger.add("verifier", verifications=sum(judge(trees, decode).values()))

    def measure(trees: Sequence[Tree], name: str):
        ledger.add("policy", scored=sum(map(num_tokens, trees)), forwards=1)
        return measure_tokens(solver.engine.model, trees, name)

    def first(prompts: Sequence[Sequence[int]], k: int) -> list[list[int]]:
        ledger.add("policy", scored=sum(map(len, prompts)), forwards=1)
        return first_tokens(solver.engine.model, prompts, k)

    return Tools(
        engine=solver.engine,
        growth=Growth(
            prompting.mark_steps,
            max_tokens,
            seed=seed,
            step_stop=StepStop(prompting.step_stop_ids, prompting.step_stop_tokens, prompting.is_step_end),
        ),
        decode=decode,
        encode=prompting.encode,
        prm=_step_scorer(solver.prm, ledger) if solver.prm is not None else None,
        orm=_leaf_scorer(solver.orm, ledger) if solver.orm is not None else None,
        verify=verify,
        measure=measure,
        first_tokens=first,
        aggregates=AGGREGATES,
        on_progress=on_progress,
    )


def _step_scorer(net: ScoreNet | PublishedPRM, ledger: Ledger) -> Callable[[Sequence[Tree]], None]:
    """Scores the nodes that have no score yet; what is charged is their paths, each shared prefix once a call."""

    def score(trees: Sequence[Tree]) -> None:
        if isinstance(net, PublishedPRM):  # reads the text of every step on the way, which a view has not
            ledger.add("prm", scored=score_steps(net, trees, "prm"), forwards=1)
            return
        open_trees, views, numbers = [], [], []
        for tree in trees:
            known = tree.scores.setdefault("prm", {})
            wanted = {i for i, n in enumerate(tree.nodes) if i != ROOT and n.step_ends and i not in known}
            if wanted:
                view, number = view_of(tree, wanted)
                open_trees.append(tree)
                views.append(view)
                numbers.append(number)
        if not views:
            return
        ledger.add("prm", scored=score_steps(net, views, "prm"), forwards=1)
        for tree, view, number in zip(open_trees, views, numbers, strict=True):
            for new, values in view.scores["prm"].items():
                tree.scores["prm"][number[new]] = values

    return score


def _leaf_scorer(net: ScoreNet, ledger: Ledger) -> Callable[[Sequence[Tree]], list[dict[int, float]]]:
    """Scores the leaves that have no score yet."""
    kept: dict[
        int, tuple[Tree, dict[int, float]]
    ] = {}  # by identity; the tree is held, so that its id stays its own

    def score(trees: Sequence[Tree]) -> list[dict[int, float]]:
        known = [kept.setdefault(id(tree), (tree, {}))[1] for tree in trees]
        wanted = [set(t.leaves()) - set(k) for t, k in zip(trees, known, strict=True)]
        going = [i for i, leaves in enumerate(wanted) if leaves]
        views = [view_of(trees[i], wanted[i]) for i in going]
        if going:
            ledger.add("orm", scored=sum(num_tokens(view) for view, _ in views), forwards=1)
            for i, (_, number), found in zip(
                going, views, score_leaves(net, [v for v, _ in views]), strict=True
            ):
                known[i].update((number[new], value) for new, value in found.items())
        return [{leaf: k[leaf] for leaf in t.leaves()} for t, k in zip(trees, known, strict=True)]

    return score


def view_of(tree: Tree, wanted: set[int]) -> tuple[Tree, list[int]]:
    """The part of a tree that leads to some nodes, and the number that each of its nodes has in the whole.

    Nodes on the way are cut where the last continuation leaves them, and have no step ends.
    """
    end = {node: len(tree.nodes[node].token_ids) for node in wanted}
    for node in sorted(wanted):
        while tree.nodes[node].parent != NO_PARENT:
            parent = tree.nodes[node].parent
            end[parent] = max(end.get(parent, 0), tree.nodes[node].offset)
            node = parent
    numbers = sorted(end)
    place = {node: i for i, node in enumerate(numbers)}
    view = Tree(tree.problem)
    for node in numbers:
        n = tree.nodes[node]
        view.nodes.append(
            replace(
                n,
                parent=place.get(n.parent, NO_PARENT),
                token_ids=n.token_ids[: end[node]],
                logprobs=(),
                logprobs_full=(),
                entropy=(),
                step_ends=n.step_ends if node in wanted else (),
            )
        )
    return view, numbers
