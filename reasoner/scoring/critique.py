"""A critique model as judge of first errors, and as scorer of steps: it writes verdicts, which are read and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from reasoner.data.prompting import Prompting
from reasoner.engine.protocol import Engine, Request, Sampling, place_key
from reasoner.signals.critiques import critique_prompt, read_critique
from reasoner.signals.step_labels import NO_ERROR, UNDECIDED
from reasoner.tree import Tree

Votes = list[int]
Critic = Callable[[Sequence[str], Sequence[Sequence[str]]], list[Votes]]


def critic(
    engine: Engine, prompting: Prompting, num_samples: int = 1, max_tokens: int = 512, seed: int = 0
) -> Critic:
    """`num_samples` critiques of each solution by any engine, as the places of their first errors; one is greedy."""
    sampling = Sampling(0.0 if num_samples == 1 else 1.0)

    def ask(prompts: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[Votes]:
        requests = [
            Request((i, k), ids, max_tokens, place_key(seed, 0, f"critique {i}", [(len(ids), k)]), sampling)
            for i, (prompt, steps) in enumerate(zip(prompts, solutions, strict=True))
            for ids in [prompting.encode(critique_prompt(prompt, steps))]
            for k in range(num_samples)
        ]
        votes: list[Votes] = [[] for _ in solutions]
        for request, completion in zip(requests, engine.sample(requests), strict=True):
            i = request.id[0]  # pyright: ignore[reportIndexIssue]
            votes[i].append(read_critique(prompting.decode(completion.token_ids), len(solutions[i])))
        return votes

    return ask


def majority(votes: Votes) -> int:
    """The place that most critiques name, the earliest of equals; UNDECIDED where none can be read."""
    counted = Counter(v for v in votes if v != UNDECIDED)
    return max(sorted(counted), key=lambda v: counted[v]) if counted else UNDECIDED


def judge_with(ask: Critic) -> Callable[[Sequence[str], Sequence[Sequence[str]]], list[int]]:
    """The critic as a second labeller (signals/consensus)."""
    return lambda prompts, solutions: [majority(v) for v in ask(prompts, solutions)]


def step_scores(votes: Votes, num_steps: int) -> list[float]:
    """Per step the share of readable critiques that find no error up to it; one half where none can be read."""
    read = [v for v in votes if v != UNDECIDED]
    if not read:
        return [0.5] * num_steps
    return [sum(v == NO_ERROR or v > i for v in read) / len(read) for i in range(num_steps)]


def score_steps(
    ask: Critic, trees: Sequence[Tree], decode: Callable[[Sequence[int]], str], name: str
) -> None:
    """Set `tree.scores[name]`; a step that several trajectories share has the mean of what was said of it."""
    for tree in trees:
        leaves = [leaf for leaf in tree.leaves() if tree.step_ends(leaf)]
        solutions = [[decode(ids) for ids in _step_ids(tree, leaf)] for leaf in leaves]
        said: dict[tuple[int, int], list[float]] = {}
        votes = ask([tree.problem.prompt] * len(leaves), solutions)
        for leaf, of_one, steps in zip(leaves, votes, solutions, strict=True):
            for end, value in zip(tree.step_ends(leaf), step_scores(of_one, len(steps)), strict=True):
                said.setdefault((end.node, end.ordinal), []).append(value)
        tree.scores[name] = {
            i: [sum(said[i, k]) / len(said[i, k]) if (i, k) in said else 0.5 for k in range(len(n.step_ends))]
            for i, n in enumerate(tree.nodes)
            if i and n.step_ends
        }


def _step_ids(tree: Tree, leaf: int) -> list[list[int]]:
    """The token ids of each step of a trajectory."""
    ends = [len(tree.completion_ids(e.node, e.index + 1)) for e in tree.step_ends(leaf)]
    ids = tree.completion_ids(leaf)
    return [ids[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
