"""Self-critique: the answer is judged, revised where it does not pass, and judged again; the best judged one is given.

Judge and generator are one model: the judge is its verifier's head or adapter (orm, prm), or the model itself
asked in words. A revision goes back to the step where the judge lost faith, or follows on the critique.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from reasoner.config import Entry
from reasoner.registry import UserError, lookup
from reasoner.search.grow import Branch
from reasoner.search.method import (
    TREE,
    AggregateName,
    Choice,
    Sampled,
    Tools,
    choice_among,
    extend,
    force,
    from_end,
    from_root,
    need,
    prm_score,
)
from reasoner.tree import ROOT, Tree


class SelfCritique(Sampled):
    """Answer, judge, revise, judge again."""

    name: Literal["self_critique"]
    num_samples: int = Field(4, ge=1, description="most answers, the first one included")
    judge: Annotated[str, Entry("judge", "reasoner.search.critique:JUDGES")] = Field(
        "prm", description="orm | prm | words (the model is asked) | verifier"
    )
    accept_at: float = Field(0.5, ge=0, le=1, description="judgement at which an answer passes")
    revise: Literal["step", "words"] = Field(
        "step",
        description="step: again from the first step that the PRM doubts; words: go on behind revise_text",
    )
    aggregate: AggregateName = Field("last", description="prm: from step scores to one")
    ask_text: str = Field(
        "\nIs this solution correct? Answer yes or no:", description="question to the judge in words"
    )
    yes_text: str = Field(" yes", description="the judge's word for a pass")
    no_text: str = Field(" no", description="the judge's word against")
    revise_text: str = Field(
        "\nThere is a mistake above. Correct solution:\n", description="text that a revision in words follows"
    )


def self_critique(trees: Sequence[Tree], tools: Tools, config: SelfCritique) -> list[Choice]:
    """The answer that the judge likes best, of as many as it took until one passed."""
    judge = lookup(JUDGES, config.judge, "judge")
    if config.revise == "step":
        need(tools.prm, "prm", "self_critique with revise: step")
    answers: list[list[int]] = [[] for _ in trees]
    judged: list[list[float]] = [[] for _ in trees]
    going = list(range(len(trees)))
    while going:
        growing = [trees[i] for i in going]
        branches = [
            _revision(trees[i], answers[i][-1], tools, config) if answers[i] else from_root(trees[i], 1)
            for i in going
        ]
        new = extend(growing, branches, tools, config.sampling)
        scores = judge(growing, [leaf for (leaf,) in new], tools, config)
        if config.revise == "step" and config.judge != "prm":
            need(tools.prm, "prm", "self_critique")(growing)
        for i, (leaf,), score in zip(going, new, scores, strict=True):
            answers[i].append(leaf)
            judged[i].append(score)
        going = [
            i for i in going if judged[i][-1] < config.accept_at and len(answers[i]) < config.num_samples
        ]
        tools.on_progress(len(trees) - len(going), len(trees))
    return [
        choice_among(t, leaves, s, s.index(max(s)), max(s), tools, TREE)
        for t, leaves, s in zip(trees, answers, judged, strict=True)
    ]


def _revision(tree: Tree, leaf: int, tools: Tools, config: SelfCritique) -> list[Branch]:
    """Where the next answer starts."""
    if config.revise == "words":
        end = len(tree.nodes[leaf].token_ids)
        ended = tree.nodes[leaf].stop_reason == "eos"
        node = force(tree, leaf, end - ended, tools.encode(config.revise_text), tools, "revise")
        return from_end(tree, node)
    before = (ROOT, len(tree.nodes[ROOT].token_ids))
    for end in tree.step_ends(leaf):
        if tree.scores["prm"][end.node][end.ordinal] < config.accept_at:
            break
        before = (end.node, end.index + 1)
    if before == (leaf, len(tree.nodes[leaf].token_ids)):
        before = (ROOT, len(tree.nodes[ROOT].token_ids))  # no step is doubted, so the whole is tried again
    return [Branch(*before, drawn="search")]


def _by_orm(trees: Sequence[Tree], leaves: Sequence[int], tools: Tools, config: SelfCritique) -> list[float]:
    scores = need(tools.orm, "orm", "self_critique with judge orm")(trees)
    return [s[leaf] for s, leaf in zip(scores, leaves, strict=True)]


def _by_prm(trees: Sequence[Tree], leaves: Sequence[int], tools: Tools, config: SelfCritique) -> list[float]:
    need(tools.prm, "prm", "self_critique with judge prm")(trees)
    return [prm_score(t, leaf, config.aggregate, tools) for t, leaf in zip(trees, leaves, strict=True)]


def _by_words(
    trees: Sequence[Tree], leaves: Sequence[int], tools: Tools, config: SelfCritique
) -> list[float]:
    """P(yes) against P(no) as the continuation of the solution and the question."""
    asked, words = tools.encode(config.ask_text), [tools.encode(w) for w in (config.yes_text, config.no_text)]
    if not asked or not all(words):
        raise UserError("self_critique: ask_text, yes_text or no_text is empty; expected some text in each")
    sequences = [
        [*_without_end(tree, leaf), *asked, *word]
        for tree, leaf in zip(trees, leaves, strict=True)
        for word in words
    ]
    scored = tools.engine.score(sequences)
    found = []
    for i in range(len(trees)):
        yes, no = (sum(scored[2 * i + j][-len(words[j]) :]) for j in (0, 1))
        found.append(1 / (1 + math.exp(min(no - yes, 700.0))))
    return found


def _without_end(tree: Tree, leaf: int) -> list[int]:
    ids = tree.token_ids(leaf)
    return ids[:-1] if tree.nodes[leaf].stop_reason == "eos" else ids


def _by_verifier(
    trees: Sequence[Tree], leaves: Sequence[int], tools: Tools, config: SelfCritique
) -> list[float]:
    need(tools.verify, "a verifier", "self_critique with judge verifier")(trees)
    return [float(t.verdicts[leaf].status == "correct") for t, leaf in zip(trees, leaves, strict=True)]


JUDGES: dict[str, Callable[[Sequence[Tree], Sequence[int], Tools, SelfCritique], list[float]]] = {
    "orm": _by_orm,
    "prm": _by_prm,
    "words": _by_words,
    "verifier": _by_verifier,
}
