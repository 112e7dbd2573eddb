"""How many tokens a stage moves, read from the fields that it declares, in the ledger's counters.

Where only the run itself can tell (how long answers get, how many trees are of use), the most is taken, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasoner.planning.answers import Answers, Facts
from reasoner.planning.models import model_named
from reasoner.signals.advantages import CRITIC
from reasoner.trainers.policy_config import uses
from reasoner.trainers.pruning import reads

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
    asked: float = 0.0  # tokens of the prompts of its problems, each once
    rooted: float = (
        0.0  # of the decoded tokens, those of chains from the prompt and of chains that were gone on from
    )

    @property
    def forward(self) -> float:
        """Tokens that go forward through a model."""
        return self.prefilled + self.decoded + self.scored + self.trained + self.prompts


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


def branched(tree: Any, answers: Answers) -> tuple[float, float, float, float]:
    """(whole chains, their tokens, chains that begin inside one, their tokens) of a tree whose chains are as `answers`.

    A chain that branches where steps end has no more points than inner steps.
    """
    whole, inside = chains_of(tree)
    if not answers.steps or not hasattr(tree, "num_roots") or tree.where == ANYWHERE:
        return whole, whole * answers.mean, inside, inside * answers.mean / 2
    points = [min(tree.num_points, inner) for inner in answers.steps]
    mean = sum(points) / len(points)
    rest = sum(p * t for p, t in zip(points, answers.tokens, strict=True)) / 2 / max(1, sum(points))
    inside, newest = 0.0, float(tree.num_roots)
    for _ in range(tree.num_rounds):
        newest *= mean * tree.num_children
        inside += newest
    return whole, whole * answers.mean, inside, inside * rest


ANYWHERE = "entropy"  # the branch rule that asks for no end of a step


def _drawn(stage: Any, facts: Facts, problems: float, answers: Answers, fresh: float) -> Work:
    """One tree for each of the problems; of their prompts the share `fresh` is computed."""
    given = facts.of(stage)
    whole, of_whole, inside, of_inside = branched(stage.tree, answers)
    most = getattr(getattr(stage, "budget", None), "max_nodes", None)
    if most:
        kept, begun = min(whole, most), max(0.0, min(inside, most - whole))
        of_whole, of_inside = of_whole * kept / whole, of_inside * begun / max(1.0, inside)
        whole, inside = kept, begun
    chains = problems * (whole + inside)
    asked = problems * given.prompt
    goes_on = getattr(stage.tree, "num_rounds", 1) > 1
    return Work(
        prefilled=asked * fresh,
        reused=chains * given.prompt - asked * fresh + problems * inside * answers.mean / 2,
        decoded=problems * (of_whole + of_inside),
        verifications=chains,
        trajectories=chains,
        sequence=given.prompt + answers.mean,
        at_once=min(stage.num_slots, max(1.0, chains)),
        asked=asked,
        rooted=problems * (of_whole + of_inside * goes_on),
    )


def rollout(stage: Any, facts: Facts) -> Work:
    given = facts.of(stage)
    answers = facts.answers(stage.model, stage.max_tokens)
    work = _drawn(stage, facts, min(stage.num_problems, given.problems), answers, given.fresh)
    models = sum(bool(getattr(stage, name, None)) for name in ("prm", "orm"))
    return replace(work, scored=models * (work.decoded + work.asked))


def inventing(stage: Any, facts: Facts) -> Work:
    """A question for every try, as long as the old ones, and answers to all of them, which is the most."""
    given = facts.of(stage)
    tries, answers = float(stage.num_problems), facts.answers(stage.solver or stage.model, stage.max_tokens)
    chains = tries * stage.num_answers
    shown = given.prompt * stage.examples
    return Work(
        prefilled=tries * (shown + given.prompt),
        reused=(chains - tries) * given.prompt,
        decoded=tries * given.prompt + chains * answers.mean,
        trajectories=tries + chains,
        sequence=max(shown, given.prompt + answers.mean),
        at_once=min(stage.num_slots, chains),
    )


def on_policy(stage: Any, facts: Facts) -> Work:
    """Every round draws, scores and trains; that all trees are of use is the most."""
    given = facts.of(stage)
    # it begins as its model and learns to answer as its problems' own solutions, which takes few of the rounds
    answers = facts.answers(stage.name, stage.max_tokens)
    a_round = _drawn(
        stage, facts, stage.problems_per_round, answers, 1.0
    )  # a few prompts, and new weights each round
    rounds = float(stage.rounds)
    if stage.generated_tokens:
        rounds = min(rounds, stage.generated_tokens / max(1.0, a_round.decoded))
    critic = stage.advantage.method in CRITIC
    read = sum(
        bool(getattr(stage, name))
        * (uses(stage, name) + reads(stage.prune, name) * (1 + stage.tree.num_rounds))
        for name in ("prm", "orm")
    )
    again = stage.epochs * stage.minibatches > 1
    implicit = stage.implicit_prm is not None  # scored by two models, and by its reference where it learns
    tokens = a_round.decoded * rounds
    prompts = a_round.asked * rounds
    shown = rounds * stage.epochs * stage.minibatches * stage.ptx_batch if stage.ptx_weight else 0.0
    return replace(
        a_round,
        prefilled=a_round.prefilled * rounds,
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
    answers = given.prompt if getattr(stage, "two_tasks", None) else 0.0  # asked for once more; they are short
    tokens = _updates(stage, given.solved) * stage.batch_size * (length + answers)
    return Work(trained=0.0 if seconds else tokens, seconds=seconds, sequence=length)


def distilling(stage: Any, facts: Facts) -> Work:
    """Every problem of an update is answered by the student, and the answer read by the teacher."""
    given, length = facts.of(stage), facts.answers(model_named(stage), stage.max_tokens).mean
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
    """The labelled trees, each of whose tokens is computed once in an epoch; what chains of a problem share is not known.

    Of chains that only tell what a state is worth, steps have no labels of their own (signals/step_labels).
    """
    source = _judged(stage.labels, facts)
    label = facts.stages.get(stage.labels)
    of_steps = hasattr(stage, "label_kind") and getattr(label, "ends", "all") == "prompt"
    tokens = (source.rooted if of_steps else source.decoded) + source.asked
    return Work(trained=tokens * stage.epochs * (1 - stage.holdout), sequence=source.sequence)


def completion(stage: Any, facts: Facts) -> Work:
    """Continuations from the steps of stored chains, STEPS of them, each half as long as a chain."""
    source = _judged(stage.trees, facts)
    length = facts.answers(model_named(stage), stage.max_tokens).mean
    drawn = source.trajectories * STEPS * stage.probe.num_continuations
    return Work(
        prefilled=source.decoded,
        reused=drawn * source.sequence / 2,
        decoded=drawn * length / 2,
        verifications=drawn,
        trajectories=drawn,
        sequence=source.sequence,
        at_once=min(stage.num_slots, max(1.0, drawn)),
        asked=source.asked,
        rooted=source.decoded,
    )


def evaluation(stage: Any, facts: Facts) -> Work:
    """Greedy and sampled answers of each policy, or each method at each budget."""
    given = facts.of(stage)
    if stage.methods:
        each = sum(
            float(budget or getattr(method, "num_samples", 1))
            for method in stage.methods
            for budget in (stage.budgets if hasattr(method, "num_samples") and stage.budgets else [0])
        )
        chains = dict.fromkeys(stage.policies, each)
        ranked = chains
    else:
        ranked = dict.fromkeys(stage.sampled, float(stage.num_samples))
        chains = {policy: 1.0 + ranked.get(policy, 0.0) for policy in stage.policies}
    length = {p: facts.answers(p, stage.max_tokens).mean for p in stage.policies}
    models, of_all = bool(stage.prm) + bool(stage.orm), sum(chains.values())
    prefilled = given.problems * given.prompt * given.fresh * len(stage.policies)
    return Work(
        prefilled=prefilled,
        reused=given.problems * given.prompt * of_all - prefilled,
        decoded=given.problems * sum(n * length[p] for p, n in chains.items()),
        scored=models * given.problems * sum(n * length[p] + given.prompt for p, n in ranked.items()),
        verifications=given.problems * of_all,
        trajectories=given.problems * of_all,
        sequence=given.prompt + sum(length.values()) / len(length),
        at_once=min(stage.num_slots, max(1.0, given.problems * of_all)),
    )


def correction(stage: Any, facts: Facts) -> Work:
    """Of each policy a greedy answer, samples, and what follows three beginnings of half a chain."""
    given, length = facts.of(stage), facts.mean(stage.policies, stage.max_tokens)
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
    given, length = facts.of(stage), facts.mean(stage.models, stage.max_tokens)
    chains = len(stage.models) * given.problems
    return Work(
        prefilled=chains * given.prompt,
        decoded=chains * length,
        verifications=chains,
        trajectories=chains,
        sequence=given.prompt + length,
        at_once=min(stage.num_slots, max(1.0, given.problems)),
    )


def _judged(name: str, facts: Facts) -> Any:
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
    (("num_problems", "num_answers", "max_tokens", "problems"), inventing),
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
