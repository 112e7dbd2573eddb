"""How many tokens a stage moves, read from the fields that it declares, in the ledger's counters.

Where only the run itself can tell (how long answers get, how many trees are of use), the most is taken, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasoner.planning.lengths import ProblemSet
from reasoner.signals.advantages import CRITIC

STEPS = 8.0  # of a solution, where each is continued


@dataclass(frozen=True)
class Work:
    """Tokens and counts of one stage, over all its models."""

    prefilled: float = 0.0
    reused: float = 0.0
    decoded: float = 0.0
    scored: float = 0.0
    trained: float = 0.0
    verifications: float = 0.0
    trajectories: float = 0.0
    prompts: float = 0.0  # tokens of prompts that are computed beside the trained ones
    seconds: float | None = None  # where the config gives time and no amount
    sequence: float = 0.0  # tokens of one prompt and its completion
    at_once: float = 1.0  # sequences decoded together

    @property
    def forward(self) -> float:
        """Tokens that go forward through a model."""
        return self.prefilled + self.decoded + self.scored + self.trained + self.prompts


@dataclass(frozen=True)
class Facts:
    """What the stages of a plan are read with: problem sets, the mean completion, and the work of earlier stages."""

    sets: Mapping[str, ProblemSet]
    completion: Callable[[float], float]  # of a stage with this max_tokens
    stages: Mapping[str, Any]
    done: Mapping[str, Work]

    def of(self, stage: Any) -> ProblemSet:
        """The stage's problem sets as one."""
        parts = [self.sets[name] for name in stage.problems] or [ProblemSet(0, 0, 0, 0, 0)]
        total = sum(p.problems for p in parts) or 1.0
        solved = sum(p.solved for p in parts) or 1.0
        return ProblemSet(
            sum(p.problems for p in parts),
            sum(p.solved for p in parts),
            sum(p.prompt * p.problems for p in parts) / total,
            max(p.longest_prompt for p in parts),
            sum(p.solution * p.solved for p in parts) / solved,
        )


def chains_of(tree: Any) -> tuple[float, float]:
    """(whole chains from the prompt, chains that begin inside one and are half as long) of a tree by its config."""
    if hasattr(tree, "num_roots"):
        inside, newest = 0.0, float(tree.num_roots)
        for _ in range(tree.num_rounds):
            newest *= tree.num_points * tree.num_children
            inside += newest
        return float(tree.num_roots), inside
    if hasattr(tree, "depth"):  # a full tree: what is below the depth is drawn to the end
        return float(tree.num_children), float(sum(tree.num_children**d for d in range(2, tree.depth + 1)))
    if hasattr(tree, "num_simulations"):
        return float(tree.num_children), float((tree.num_simulations - 1) * tree.num_children)
    if hasattr(tree, "num_rollouts"):
        return float(tree.num_rollouts), float(tree.num_rollouts * getattr(tree, "num_searches", 1))
    return 1.0, 0.0


def _drawn(stage: Any, facts: Facts, problems: float, tree: Any, prompt: float) -> Work:
    """One tree for each of the problems."""
    length = facts.completion(stage.max_tokens)
    whole, inside = chains_of(tree)
    most = getattr(getattr(stage, "budget", None), "max_nodes", None)
    if most:
        whole, inside = min(whole, most), max(0.0, min(inside, most - whole))
    chains = problems * (whole + inside)
    return Work(
        prefilled=problems * prompt,
        reused=chains * prompt - problems * prompt + problems * inside * length / 2,
        decoded=problems * (whole + inside / 2) * length,
        verifications=chains,
        trajectories=chains,
        sequence=prompt + length,
        at_once=min(stage.num_slots, max(1.0, chains)),
    )


def rollout(stage: Any, facts: Facts) -> Work:
    given = facts.of(stage)
    work = _drawn(stage, facts, min(stage.num_problems, given.problems), stage.tree, given.prompt)
    models = sum(bool(getattr(stage, name, None)) for name in ("prm", "orm"))
    return replace(work, scored=models * (work.decoded + work.prefilled))


def on_policy(stage: Any, facts: Facts) -> Work:
    """Every round draws, scores and trains; that all trees are of use is the most."""
    given = facts.of(stage)
    a_round = _drawn(stage, facts, stage.problems_per_round, stage.tree, given.prompt)
    rounds = float(stage.rounds)
    if stage.generated_tokens:
        rounds = min(rounds, stage.generated_tokens / max(1.0, a_round.decoded))
    critic = stage.advantage.method in CRITIC
    reward = stage.advantage.reward
    read = (bool(stage.prm) and reward.prm_weight > 0) + (bool(stage.orm) and reward.orm_weight > 0)
    again = stage.epochs * stage.minibatches > 1
    implicit = stage.implicit_prm is not None  # scored by two models, and by its reference where it learns
    tokens = a_round.decoded * rounds
    prompts = a_round.prefilled * rounds
    shown = rounds * stage.epochs * stage.minibatches * stage.ptx_batch if stage.ptx_weight else 0.0
    return replace(
        a_round,
        prefilled=prompts,
        reused=a_round.reused * rounds,
        decoded=tokens,
        scored=tokens * (critic + bool(stage.kl_weight) + again) + (tokens + prompts) * (read + 3 * implicit),
        trained=tokens * (stage.epochs * (1 + critic) + implicit) + shown * (given.prompt + given.solution),
        prompts=prompts * (stage.epochs * (1 + critic) + implicit),
        verifications=a_round.verifications * rounds,
        trajectories=a_round.trajectories * rounds,
    )


def _updates(stage: Any, rows: float) -> float:
    """Updates of a trainer: max_steps where it says so, else by epochs."""
    given = getattr(stage, "max_steps", None) or stage.trl.get("max_steps")
    epochs = stage.trl.get("num_train_epochs", stage.epochs)
    return float(given) if given else max(1.0, epochs * rows / stage.batch_size)


def imitation(stage: Any, facts: Facts) -> Work:
    given = facts.of(stage)
    length = given.prompt + given.solution
    if getattr(stage, "traces", None):
        source = _judged(stage.traces, facts)
        length = length or source.sequence
    seconds = getattr(stage, "max_seconds", None)
    if getattr(stage, "seconds_of", None):
        return Work(seconds=-1.0, sequence=length)  # as long as other stages: known when these are
    tokens = _updates(stage, given.solved) * stage.batch_size * length
    return Work(trained=0.0 if seconds else tokens, seconds=seconds, sequence=length)


def distilling(stage: Any, facts: Facts) -> Work:
    """Every problem of an update is answered by the student, and the answer read by the teacher."""
    given, length = facts.of(stage), facts.completion(stage.max_tokens)
    drawn = _updates(stage, given.problems) * stage.batch_size
    tokens = drawn * (given.prompt + length)
    return Work(
        prefilled=drawn * given.prompt,
        decoded=drawn * length,
        scored=tokens,
        trained=tokens,
        trajectories=drawn,
        sequence=given.prompt + length,
        at_once=stage.batch_size,
    )


def preferences(stage: Any, facts: Facts) -> Work:
    """Every chain in one pair, which is the most; both sides pass through the reference as well."""
    source = _judged(stage.labels, facts)
    pairs = source.trajectories / 2
    tokens = _updates(stage, pairs) * stage.batch_size * 2 * source.sequence
    return Work(trained=tokens, scored=tokens, sequence=source.sequence)


def reward_model(stage: Any, facts: Facts) -> Work:
    """The labelled trees, each of whose tokens is computed once in an epoch."""
    source = _judged(stage.labels, facts)
    tokens = (source.decoded + source.prefilled) * stage.epochs
    return Work(trained=tokens, sequence=source.sequence)


def completion(stage: Any, facts: Facts) -> Work:
    """Continuations from the steps of stored chains, STEPS of them, each half as long as a chain."""
    source = _judged(stage.trees, facts)
    length = facts.completion(stage.max_tokens)
    drawn = source.trajectories * STEPS * stage.probe.num_continuations
    return Work(
        prefilled=source.decoded,
        reused=drawn * source.sequence / 2,
        decoded=drawn * length / 2,
        verifications=drawn,
        trajectories=drawn,
        sequence=source.sequence,
        at_once=min(stage.num_slots, max(1.0, drawn)),
    )


def evaluation(stage: Any, facts: Facts) -> Work:
    """Greedy and sampled answers of each policy, or each method at each budget."""
    given, length = facts.of(stage), facts.completion(stage.max_tokens)
    if stage.methods:
        chains = len(stage.policies) * sum(
            float(budget or getattr(method, "num_samples", 1))
            for method in stage.methods
            for budget in (stage.budgets if hasattr(method, "num_samples") and stage.budgets else [0])
        )
        ranked = chains
    else:
        ranked = float(len(stage.sampled) * stage.num_samples)
        chains = len(stage.policies) + ranked
    models = bool(stage.prm) + bool(stage.orm)
    return Work(
        prefilled=given.problems * given.prompt * len(stage.policies),
        reused=given.problems * given.prompt * max(0.0, chains - len(stage.policies)),
        decoded=given.problems * chains * length,
        scored=models * given.problems * ranked * (length + given.prompt),
        verifications=given.problems * chains,
        trajectories=given.problems * chains,
        sequence=given.prompt + length,
        at_once=min(stage.num_slots, max(1.0, given.problems * chains)),
    )


def correction(stage: Any, facts: Facts) -> Work:
    """Of each policy a greedy answer, samples, and what follows three beginnings of half a chain."""
    given, length = facts.of(stage), facts.completion(stage.max_tokens)
    chains = len(stage.policies) * given.problems * (1.0 + stage.num_samples + 3.0)
    begun = len(stage.policies) * given.problems * 3.0
    return Work(
        prefilled=given.problems * given.prompt * len(stage.policies) + begun * (given.prompt + length / 2),
        decoded=chains * length - begun * length / 2,
        verifications=chains,
        trajectories=chains,
        sequence=given.prompt + length,
        at_once=min(stage.num_slots, max(1.0, chains)),
    )


def choice(stage: Any, facts: Facts) -> Work:
    """A greedy answer of each model."""
    given, length = facts.of(stage), facts.completion(stage.max_tokens)
    chains = len(stage.models) * given.problems
    return Work(
        prefilled=chains * given.prompt,
        decoded=chains * length,
        verifications=chains,
        trajectories=chains,
        sequence=given.prompt + length,
        at_once=min(stage.num_slots, max(1.0, given.problems)),
    )


def _judged(name: str, facts: Facts) -> Work:
    """The work of the stage whose trees a stage rests on in the end; none where they come from a file."""
    while name in facts.stages:
        if facts.done.get(name, Work()).trajectories:
            return facts.done[name]
        stage = facts.stages[name]
        name = getattr(stage, "trees", "") or getattr(stage, "labels", "")
    return Work()


# which fields a stage declares -> how its work is read; the first that fits counts
READINGS: tuple[tuple[Sequence[str], Callable[[Any, Facts], Work]], ...] = (
    (("rounds", "problems_per_round", "tree", "max_tokens", "problems"), on_policy),
    (("num_problems", "tree", "max_tokens", "problems"), rollout),
    (("trees", "probe", "max_tokens"), completion),
    (("policies", "methods", "max_tokens", "problems"), evaluation),
    (("policies", "link", "num_samples", "max_tokens", "problems"), correction),
    (("models", "max_tokens", "problems"), choice),
    (("teacher", "batch_size", "epochs", "trl", "max_tokens"), distilling),
    (("problems", "batch_size", "epochs", "trl"), imitation),
    (("labels", "batch_size", "epochs", "trl"), preferences),
    (("labels", "batch_size", "epochs", "tokens_per_batch"), reward_model),
)
NO_MODEL = ("init", "import", "verify", "label", "critiques")  # kinds that move no tokens, or few


def work_of(stage: Any, facts: Facts) -> Work | None:
    """What a stage moves; None for a stage of fields that no reading knows."""
    for fields, reading in READINGS:
        if all(hasattr(stage, field) for field in fields):
            return reading(stage, facts)
    return Work() if stage.kind in NO_MODEL else None
