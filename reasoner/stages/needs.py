"""What the parts of a stage ask of each other: judges, step ends that can be told; all of it checked before the first stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reasoner.data.steps import WHILE_SAMPLING
from reasoner.registry import UserError
from reasoner.search.branch import BY_SCORES, BranchConfig
from reasoner.search.first_error import BisectConfig
from reasoner.search.mcts import MCTSConfig
from reasoner.search.methods import goes_by_step, judges_of
from reasoner.search.places import AT_STEP_ENDS
from reasoner.search.prune import BY_VERDICTS
from reasoner.trainers.policy_config import PolicyGradientStage, check_step_rule


def check_needs(stages: Sequence[Any], rule: str) -> None:
    """The first stage that asks for a judge which it does not name, or for step ends that `rule` cannot tell, is a UserError."""
    for stage in stages:
        for key, judge in judges_asked(stage):
            if not getattr(stage, judge, None):
                remedy = (
                    f"{judge}=true" if judge == "verify" else f"{judge} to the stage, or the folder, of one"
                )
                raise UserError(
                    f"stages.{stage.name}.{key} goes by {_SPOKEN[judge]}, and the stage has none; expected one: set "
                    f"stages.{stage.name}.{remedy}, or choose what needs none"
                )
        for key in asked_step_by_step(stage):
            if rule not in WHILE_SAMPLING:
                raise UserError(
                    f"stages.{stage.name}.{key} has to know where steps end while chains are drawn, and prompt.steps.rule "
                    f"{rule} does not tell; expected {' or '.join(WHILE_SAMPLING)}, or what goes by whole chains"
                )
        if isinstance(stage, PolicyGradientStage):
            check_step_rule(stage, rule, f"stages.{getattr(stage, 'name', '')}")


_SPOKEN = {
    "prm": "the scores of a PRM",
    "orm": "the scores of an ORM",
    "verify": "verdicts on what is drawn so far",
}


def judges_asked(stage: Any) -> Iterator[tuple[str, str]]:
    """(key, which of prm, orm and verify it needs) of a stage's search."""
    tree, prune = getattr(stage, "tree", None), getattr(stage, "prune", None)
    if isinstance(tree, BranchConfig) and tree.where in BY_SCORES:
        yield "tree.where", "prm"
    if isinstance(tree, BisectConfig):
        yield "tree.policy", "verify"
    if isinstance(tree, MCTSConfig) and not (getattr(stage, "prm", None) or getattr(stage, "orm", None)):
        yield "tree.evaluate", "prm" if tree.evaluate == "score" else "verify"
    for name in getattr(prune, "rules", ()):
        if name in BY_VERDICTS and not isinstance(stage, PolicyGradientStage):  # which always judges
            yield f"prune.rules ({name})", "verify"
        if name == "low_score" and prune is not None:
            yield "prune.score", prune.score
    for i, method in enumerate(getattr(stage, "methods", ())):
        yield from ((f"methods.{i} ({method.name})", judge) for judge in judges_of(method))


def asked_step_by_step(stage: Any) -> Iterator[str]:
    """The keys of a stage's search that pause or branch at step ends."""
    tree = getattr(stage, "tree", None)
    if isinstance(tree, BranchConfig) and tree.where in AT_STEP_ENDS:
        yield "tree.where"
    if isinstance(tree, MCTSConfig) and tree.evaluate == "score":
        yield "tree.evaluate"
    yield from (f"methods.{i}" for i, m in enumerate(getattr(stage, "methods", ())) if goes_by_step(m))
