"""Methods over independent samples: draw n answers, score them, choose one (votes, best of n, Borda, DeepConf)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from reasoner.config import Entry
from reasoner.registry import UserError, lookup
from reasoner.search.choose import PICKS, PickConfig
from reasoner.search.confidence import lowest_group, mean, path_measure, tail
from reasoner.search.method import (
    AggregateName,
    Choice,
    LeafScores,
    Sampled,
    Tools,
    choice_among,
    classes_of,
    extend,
    from_root,
    need,
    prm_score,
)
from reasoner.tree import Tree


class OfSamples(Sampled, PickConfig):
    """Choose one of `num_samples` independent answers."""

    name: Literal["majority", "weighted_majority", "best_of", "borda", "deepconf"]
    num_samples: int = Field(8, ge=1, description="answers drawn per problem")
    scorer: Annotated[str, Entry("scorer", "reasoner.search.samples:SCORERS")] = Field(
        "",
        description="what ranks or weighs: orm | prm | verifier | logprob | certainty | lowest_group | tail; empty: by method",
    )
    aggregate: AggregateName = Field(
        "min",
        description="prm: from step scores to one: min (the weakest step) | last (an outcome's) | product | mean",
    )
    measure: Annotated[
        str,
        Entry("token measure", "reasoner.scoring.token_measures:MEASURES", "reasoner.search.confidence:FREE"),
    ] = Field(
        "negentropy", description="confidences: per-token measure, negentropy | logprob | certainty | top_k"
    )
    window: int = Field(16, ge=1, description="confidences: tokens in a group, or in the tail")


DEFAULT_SCORER = {
    "majority": "equal", "weighted_majority": "prm", "best_of": "prm", "borda": "certainty", "deepconf": "lowest_group",
}  # fmt: skip


class Greedy(Sampled):
    """One answer, each token the most probable one."""

    name: Literal["greedy"]
    temperature: float = Field(0.0, ge=0, le=0, description="always 0")


def greedy(trees: Sequence[Tree], tools: Tools, config: Greedy) -> list[Choice]:
    new = extend(trees, [from_root(t, 1) for t in trees], tools, config.sampling)
    return [
        choice_among(t, leaves, [1.0], 0, 1.0, tools, "independent")
        for t, leaves in zip(trees, new, strict=True)
    ]


def of_samples(trees: Sequence[Tree], tools: Tools, config: OfSamples) -> list[Choice]:
    """Draw `num_samples` answers per problem and choose by the method's rule."""
    check(config, tools)
    new = extend(trees, [from_root(t, config.num_samples) for t in trees], tools, config.sampling)
    scores = score_samples(trees, tools, config)
    return [
        choose_of(t, leaves, [s[leaf] for leaf in leaves], tools, config)
        for t, leaves, s in zip(trees, new, scores, strict=True)
    ]


def choose_of(
    tree: Tree, leaves: Sequence[int], scores: Sequence[float], tools: Tools, config: OfSamples
) -> Choice:
    """The method's choice among some leaves that are scored already."""
    _, classes = classes_of(tree, leaves, tools)
    pick = PICKS[config.name](classes, scores, config)
    weights = [1.0] * len(leaves) if config.name == "majority" else [max(s, 0.0) for s in scores]
    return choice_among(tree, leaves, weights, pick.index, pick.confidence, tools, "independent")


def scorer_of(config: OfSamples) -> str:
    return config.scorer or DEFAULT_SCORER[config.name]


def check(config: OfSamples, tools: Tools) -> None:
    """A UserError for a scorer that does not exist or whose model is not there."""
    name = scorer_of(config)
    lookup(SCORERS, name, "scorer")
    if name == "prm":
        lookup(tools.aggregates, config.aggregate, "aggregate")
    if config.name == "majority" and config.scorer:
        raise UserError(f"majority has scorer {config.scorer!r}; expected none, or use weighted_majority")
    tool = {"orm": tools.orm, "prm": tools.prm, "verifier": tools.verify}.get(name, tools)
    need(tool, {"verifier": "a verifier"}.get(name, name), config.name)


def score_samples(trees: Sequence[Tree], tools: Tools, config: OfSamples) -> LeafScores:
    """One score per leaf, higher is better."""
    return SCORERS[scorer_of(config)](trees, tools, config)


def _equal(trees: Sequence[Tree], tools: Tools, config: OfSamples) -> LeafScores:
    return [dict.fromkeys(t.leaves(), 1.0) for t in trees]


def _by_orm(trees: Sequence[Tree], tools: Tools, config: OfSamples) -> LeafScores:
    return need(tools.orm, "orm", config.name)(trees)


def _by_prm(trees: Sequence[Tree], tools: Tools, config: OfSamples) -> LeafScores:
    need(tools.prm, "prm", config.name)(trees)
    return [{leaf: prm_score(t, leaf, config.aggregate, tools) for leaf in t.leaves()} for t in trees]


def _by_verifier(trees: Sequence[Tree], tools: Tools, config: OfSamples) -> LeafScores:
    need(tools.verify, "a verifier", config.name)(trees)
    return [{leaf: float(t.verdicts[leaf].status == "correct") for leaf in t.leaves()} for t in trees]


def _confidence(reduce: Callable[[Sequence[float], int], float]):
    def score(trees: Sequence[Tree], tools: Tools, config: OfSamples) -> LeafScores:
        measured = path_measure(trees, config.measure, tools)
        return [{leaf: reduce(values, config.window) for leaf, values in m.items()} for m in measured]

    return score


def _by_logprob(trees: Sequence[Tree], tools: Tools, config: OfSamples) -> LeafScores:
    """The likelihood per token, exp of the mean log-probability, in (0, 1]."""
    measured = path_measure(trees, "logprob", tools)
    return [{leaf: math.exp(mean(values)) for leaf, values in m.items()} for m in measured]


def _by_certainty(trees: Sequence[Tree], tools: Tools, config: OfSamples) -> LeafScores:
    """Self-certainty: the mean divergence of the next-token distributions from the uniform one (Kang et al. 2025)."""
    measured = path_measure(trees, "certainty", tools)
    return [{leaf: mean(values) for leaf, values in m.items()} for m in measured]


SCORERS: dict[str, Callable[[Sequence[Tree], Tools, OfSamples], LeafScores]] = {
    "equal": _equal,
    "orm": _by_orm,
    "prm": _by_prm,
    "verifier": _by_verifier,
    "logprob": _by_logprob,
    "certainty": _by_certainty,
    "lowest_group": _confidence(lowest_group),
    "tail": _confidence(tail),
}
