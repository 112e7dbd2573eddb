"""What a round of on-policy training cost and came to: the ledger's numbers and the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accelerate import Accelerator

from reasoner.scoring.outcome import core_seconds
from reasoner.signals.backup import pruning_report
from reasoner.trainers.gates import SamplerGap
from reasoner.trainers.loop import Session
from reasoner.trainers.policy_batch import Models
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.ranks import highest, summed
from reasoner.tree import ROOT, Tree


def book(
    session: Session, trees: Sequence[Tree], kept: Sequence[Tree], again: Sequence[Tree], models: Models,
    config: PolicyGradientStage, epochs: int, waiting_s: float,
) -> None:  # fmt: skip
    """Count a round's work in the ledger, on this process: `again` are trees of earlier rounds, `epochs` the passes made."""
    leaves = sum(len(t.leaves()) for t in trees)
    fresh = sum(t.num_sampled for t in kept)
    tokens = fresh + sum(t.num_sampled for t in again)
    session.ledger.add(
        "policy", trajectories_generated=leaves, trajectories_kept=sum(len(t.leaves()) for t in kept),
        verifications=leaves, scored=fresh * (config.epochs * config.minibatches > 1) + tokens - fresh,
        trained=tokens * epochs,
    )  # fmt: skip
    session.ledger.add("verifier", verifier_seconds=core_seconds(trees), seconds_waiting=waiting_s)
    if models.critic is not None:
        session.ledger.add("critic", trained=tokens * epochs, scored=tokens)
    read = sum(len(n.token_ids) for t in (*kept, *again) for n in t.nodes)
    for name, net in (("prm", models.prm), ("orm", models.orm)):
        if net is not None:
            session.ledger.add(name, scored=read)
    if models.implicit is not None:  # its reference reads as well, and once more where it learns
        session.ledger.add("implicit_prm", scored=3 * read)


def describe(
    trees: Sequence[Tree],
    statuses: Mapping[str, int],
    kept: Sequence[Tree],
    seen: Mapping[str, float],
    gap: SamplerGap,
    accelerator: Accelerator,
) -> dict[str, float]:
    """A round's numbers, over all processes; `statuses` are the verdicts that tell how good the policy is.

    Of rollouts that began inside a solution no lengths are counted. `prm` is the PRM's mean score at the step ends of
    the kept trees, `prm_sum` the mean over their chains of its sum.
    """
    leaves = [(t, leaf) for t in trees for leaf in t.leaves() if not t.given]
    lengths = [len(t.completion_ids(leaf)) for t, leaf in leaves]
    steps = [len(t.step_ends(leaf)) for t, leaf in leaves]
    entropy = [e for t in trees for n in t.nodes[1:] for e in n.entropy]
    prm = [x for t in kept for i, of_node in t.scores.get("prm", {}).items() if i != ROOT for x in of_node]
    prm_sums = [sum(t.path_scores("prm", leaf)) for t in kept if "prm" in t.scores for leaf in t.leaves()]
    names = ["loss", "value_loss", "clipped", "kl_ref", "ptx_loss"]
    totals = summed(
        [statuses["correct"], statuses["error"], sum(statuses.values()), len(leaves), sum(lengths), sum(steps),
         sum(entropy), len(entropy),
         len(trees), len(kept), sum(prm), len(prm), sum(prm_sums), len(prm_sums), *(seen.get(n, 0.0) for n in names)],
        accelerator,
    )  # fmt: skip
    (
        correct,
        errors,
        judged,
        n,
        length,
        step,
        ent,
        tokens,
        drawn,
        usable,
        prm_sum,
        prm_count,
        chain_sum,
        chains,
    ) = totals[:14]
    updates = max(1, seen.get("updates", 0))
    found = {
        "reward": correct / max(1, judged - errors), "errors": errors, "length": length / max(1, n),
        "num_steps": step / max(1, n),
        "entropy": ent / max(1, tokens), "drawn": drawn, "kept": usable, "grad_norm": seen.get("grad_norm", 0.0) / updates,
        "skipped": seen.get("skipped", 0), "empty": seen.get("empty", 0), "kl_sampler": gap.mean_k3,
        "sampler_p999": gap.p999, "sampler_effective": gap.effective,
    }  # fmt: skip
    if prm_count:
        found |= {"prm": prm_sum / prm_count, "prm_sum": chain_sum / max(1, chains)}
    return found | {name: total / updates for name, total in zip(names, totals[14:], strict=True)}


def pruning(
    trees: Sequence[Tree], kept: Sequence[Tree], config: PolicyGradientStage, accelerator: Accelerator
) -> dict[str, float]:  # fmt: skip
    """What a round's rules cut, over all processes, where there are any: tokens generated and kept, continuations left out,
    drawn all the same, and the share of right answers among these."""
    if not config.prune.rules:
        return {}
    cut = pruning_report(trees)
    generated, learned, dropped, continued, known, lost = summed(
        [sum(t.num_sampled for t in trees), sum(t.num_sampled for t in kept), sum(cut.dropped.values()), cut.continued,
         cut.known, cut.lost],
        accelerator,
    )  # fmt: skip
    found = {
        "generated": generated,
        "kept_tokens": learned,
        "pruned": dropped,
        "pruned_but_continued": continued,
    }
    return found | ({"pruning_error": lost / known} if known else {})


def reuse(
    trees: Sequence[Tree], again: Sequence[Tree], config: PolicyGradientStage, accelerator: Accelerator
) -> dict[str, float]:  # fmt: skip
    """How many trees were learned from again and how many begun inside a solution, over all processes, where any can be."""
    replayed, begun = summed([len(again), sum(bool(t.given) for t in trees)], accelerator)
    found = {"replayed": replayed} if config.replay is not None else {}
    return found | ({"begun_inside": begun} if config.starts is not None else {})


def ages(trees: Sequence[Tree], round: int, waited: float, accelerator: Accelerator) -> dict[str, float]:
    """By how many versions of the weights the trees are older than the round, on average and at most, and the wait for it.

    The version that drew it is in each node.
    """
    old = [round - min(n.weights_version for n in t.nodes[1:]) for t in trees if len(t.nodes) > 1]
    total, count = summed([sum(old), len(old)], accelerator)
    return {
        "staleness": total / max(1, count),
        "staleness_max": highest(max(old, default=0), accelerator),
        "draw_wait": highest(waited, accelerator),
    }


def why_barren(rounds: int, seen: Mapping[str, float], verdicts: Mapping[str, int]) -> str:
    """Why `rounds` rounds in a row made no update, and what to do; `verdicts` are the last round's, by status."""
    statuses = ", ".join(f"{n} {status}" for status, n in verdicts.items()) or "none"
    if seen.get("skipped"):
        return (
            f"the gradient was no number in the last {rounds} rounds; expected finite ones: lower the learning rate, "
            "or check the model; the last checkpoint stays"
        )
    return (
        f"nothing could be learned in {rounds} rounds in a row (verdicts of the last: {statuses}); expected right and "
        "wrong answers side by side: take problems that the policy solves sometimes, or more chains per problem"
    )
