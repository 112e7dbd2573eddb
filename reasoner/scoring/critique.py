"""A critique model as judge of first errors, and as scorer of steps: what it writes is read and counted, or it is asked how
probable its verdicts are behind what it wrote."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.data.prompting import Prompting
from reasoner.engine.protocol import Engine, Request, Sampling, place_key
from reasoner.registry import lookup
from reasoner.signals.critiques import (
    RIGHT,
    WRONG,
    critique_prompt,
    reasoning,
    verdict_prompts,
)
from reasoner.signals.step_labels import NO_ERROR, UNDECIDED
from reasoner.tree import Tree
from verifiers.critique import read_critique

Votes = list[int]
Critic = Callable[[Sequence[str], Sequence[Sequence[str]]], list[Votes]]
# problems and the steps of their solutions -> a score for each step
StepScorer = Callable[[Sequence[str], Sequence[Sequence[str]]], list[list[float]]]


class CritiqueScores(Config):
    """How a critique model scores steps."""

    reads: Annotated[str, Entry("reading of critiques", "reasoner.scoring.critique:READINGS")] = Field(
        "likelihood",
        description="likelihood (behind what it reasoned, the chance of `right` against `wrong` at each step's verdict, those "
        "before being right) | votes (the share of critiques that find no error up to a step)",
    )
    num_samples: int = Field(
        1, ge=1, description="critiques of a solution, whose scores are averaged; one is greedy"
    )
    max_tokens: int = Field(512, ge=1, description="longest critique")


def written(
    engine: Engine, prompting: Prompting, prompts: Sequence[str], solutions: Sequence[Sequence[str]],
    num_samples: int, max_tokens: int, seed: int,
) -> list[list[str]]:  # fmt: skip
    """`num_samples` critiques of each solution by any engine; one is greedy. Here and below `prompting` is a bare one."""
    sampling = Sampling(0.0 if num_samples == 1 else 1.0)
    requests = [
        Request((i, k), ids, max_tokens, place_key(seed, 0, f"critique {i}", [(len(ids), k)]), sampling)
        for i, (prompt, steps) in enumerate(zip(prompts, solutions, strict=True))
        for ids in [prompting.prompt_ids(critique_prompt(prompt, steps))]
        for k in range(num_samples)
    ]
    texts = iter([prompting.decode(completion.token_ids) for completion in engine.sample(requests)])
    return [[next(texts) for _ in range(num_samples)] for _ in solutions]


def critic(
    engine: Engine, prompting: Prompting, num_samples: int = 1, max_tokens: int = 512, seed: int = 0
) -> Critic:
    """Critiques of each solution as the places of their first errors."""

    def ask(prompts: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[Votes]:
        texts = written(engine, prompting, prompts, solutions, num_samples, max_tokens, seed)
        return [
            [read_critique(t, len(steps)) for t in of_one]
            for of_one, steps in zip(texts, solutions, strict=True)
        ]

    return ask


def step_scorer(engine: Engine, prompting: Prompting, config: CritiqueScores, seed: int = 0) -> StepScorer:
    """A critique model as a reward model of steps (a generative verifier, Zhang et al. 2024)."""
    read = lookup(READINGS, config.reads, "reading of critiques")

    def scores(prompts: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        texts = written(engine, prompting, prompts, solutions, config.num_samples, config.max_tokens, seed)
        return read(engine, prompting, prompts, solutions, texts)

    return scores


def longest_reading(prompting: Prompting, prompt: str, steps: Sequence[str], max_tokens: int) -> int:
    """The most tokens that a critique of a solution and its verdicts take, with all that stands before them."""
    verdicts = "".join(f"[{i}]{WRONG}\n" for i in range(1, len(steps) + 1))
    return (
        len(prompting.prompt_ids(critique_prompt(prompt, steps)))
        + max_tokens
        + len(prompting.encode(verdicts))
    )


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


def by_votes(
    engine: Engine, prompting: Prompting, prompts: Sequence[str], solutions: Sequence[Sequence[str]],
    texts: Sequence[Sequence[str]],
) -> list[list[float]]:  # fmt: skip
    """Scores by where the critiques put the first error."""
    return [
        step_scores([read_critique(t, len(steps)) for t in of_one], len(steps))
        for of_one, steps in zip(texts, solutions, strict=True)
    ]


def by_likelihood(
    engine: Engine, prompting: Prompting, prompts: Sequence[str], solutions: Sequence[Sequence[str]],
    texts: Sequence[Sequence[str]],
) -> list[list[float]]:  # fmt: skip
    """P(right) / (P(right) + P(wrong)) at each step's verdict, a mean over the critiques."""
    words = [prompting.encode(word) for word in (RIGHT, WRONG)]
    asked = [
        [*prompting.prompt_ids(at), *word]
        for prompt, steps, of_one in zip(prompts, solutions, texts, strict=True)
        for text in of_one
        for at in verdict_prompts(prompt, steps, reasoning(text))
        for word in words
    ]
    scored = iter(engine.score(asked))

    def chance() -> float:
        right, wrong = (sum(next(scored)[-len(word) :]) for word in words)
        return 1 / (1 + math.exp(min(wrong - right, 700.0)))

    found = []
    for steps, of_one in zip(solutions, texts, strict=True):
        each = [[chance() for _ in steps] for _ in of_one]
        found.append([sum(of_step) / len(of_step) for of_step in zip(*each, strict=True)])
    return found


Reading = Callable[
    [Engine, Prompting, Sequence[str], Sequence[Sequence[str]], Sequence[Sequence[str]]], list[list[float]]
]
READINGS: dict[str, Reading] = {"likelihood": by_likelihood, "votes": by_votes}


def score_steps(
    scorer: StepScorer, trees: Sequence[Tree], decode: Callable[[Sequence[int]], str], name: str
) -> None:
    """Set `tree.scores[name]`; a step that several trajectories share has the mean of what was said of it."""
    for tree in trees:
        leaves = [leaf for leaf in tree.leaves() if tree.step_ends(leaf)]
        solutions = [[decode(ids) for ids in _step_ids(tree, leaf)] for leaf in leaves]
        said: dict[tuple[int, int], list[float]] = {}
        found = scorer([tree.problem.prompt] * len(leaves), solutions)
        for leaf, of_one in zip(leaves, found, strict=True):
            for end, value in zip(tree.step_ends(leaf), of_one, strict=True):
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
