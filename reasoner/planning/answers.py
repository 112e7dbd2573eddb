"""How long the answers of a policy are and where their steps end, before any is drawn: as what it has learned from.

An untrained model writes until max_tokens. One that imitated writes as its demonstrations. One that verdicts rewarded
writes as the solutions of its problems, where they have some; a branch of trees cuts its answers where steps end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reasoner.planning.lengths import ProblemSet
from reasoner.planning.models import model_named
from reasoner.policy.models import TinyModel


@dataclass(frozen=True)
class Answers:
    """Answers as likely as each other: the tokens of each, and how many steps end inside each; none where that is not known."""

    tokens: tuple[float, ...]
    steps: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        return sum(self.tokens) / len(self.tokens)


@dataclass(frozen=True)
class Facts:
    """What the stages of a plan are read with: problem sets, what is usual, and the work of earlier stages.

    `completion` is the mean answer at some max_tokens of a model that no stage makes; of all models where it `is_given`.
    """

    sets: Mapping[str, ProblemSet]
    completion: Callable[[float], float]
    stages: Mapping[str, Any]
    done: Mapping[str, Any]
    is_given: bool = False

    def of(self, stage: Any) -> ProblemSet:
        """The stage's problem sets as one."""
        parts = [self.sets[name] for name in stage.problems] or [ProblemSet(0, 0, 0, 0, 0)]
        total = sum(p.problems for p in parts) or 1.0
        solved = sum(p.solved for p in parts) or 1.0
        prompts = sum(p.prompt * p.problems for p in parts)
        return ProblemSet(
            sum(p.problems for p in parts),
            sum(p.solved for p in parts),
            prompts / total,
            max(p.longest_prompt for p in parts),
            sum(p.solution * p.solved for p in parts) / solved,
            sum(p.fresh * p.prompt * p.problems for p in parts) / (prompts or 1.0),
            tuple(one for p in parts for one in p.shown),
        )

    def answers(self, policy: str, most: float) -> Answers:
        """Of a stage's policy, or of a folder's or hub's model, none longer than `most`."""
        stage = self.stages.get(policy)
        if self.is_given or stage is None:
            return Answers((self.completion(most),))
        if isinstance(stage, TinyModel):
            return Answers((most,))
        if hasattr(stage, "problems") and not hasattr(stage, "teacher"):
            shown = self.of(stage).shown
            if shown:
                return Answers(tuple(min(most, n) for n, _ in shown), tuple(inner for _, inner in shown))
        earlier = model_named(stage)
        return self.answers(earlier, most) if earlier != policy else Answers((self.completion(most),))

    def mean(self, policies: Iterable[str], most: float) -> float:
        """The mean answer of several."""
        lengths = [self.answers(p, most).mean for p in policies]
        return sum(lengths) / len(lengths)
