"""Live pruning of on-policy rounds: which rules leave which gradients exact, and what rules are shown while trees grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from reasoner.data.prompting import Prompting
from reasoner.registry import UserError
from reasoner.scoring.outcome import judge
from reasoner.scoring.prm import score_steps
from reasoner.search.dead_ends import dead_end_by
from reasoner.search.grow import BranchPolicy
from reasoner.search.places import AT_STEP_ENDS
from reasoner.search.prune import BY_VERDICTS, PruneConfig, pruned
from reasoner.tree import Tree

Observe = Callable[[Sequence[Tree]], None]

# A chain that was pruned and drawn all the same stands for those that were not (Node.propensity), which leaves a sum over
# chains as it is in expectation. What is subtracted must not hang on the tokens that it is subtracted from: a baseline of
# other chains does, where a rule looks at these tokens before it leaves out one of the others.
_CRITICS = ("step_ppo", "ppo")  # the baseline is a function of the state: whatever the rule looks at
_OTHER_PROMPT_DRAWS = (*_CRITICS, "rloo", "shrunk")  # whatever the rule looks at in the state's own chain
_ALL = (
    *_OTHER_PROMPT_DRAWS,
    "sibling_loo",
    "vineppo",
)  # where the rule looks at the tokens before the state alone

# the methods whose expected gradient a rule leaves exact (tests/signals/test_pruned_gradient.py); of other rules: _CRITICS
UNBIASED: dict[str, tuple[str, ...]] = {
    "dead_end": _ALL,
    "low_score": _ALL,
    "loop": _ALL,
    "unlikely": _OTHER_PROMPT_DRAWS,
    "duplicate": _CRITICS,
    "solved": _CRITICS,
}


def check_prune(prune: PruneConfig, method: str, where: str, options: dict[str, bool]) -> None:
    """ValueError for a rule that changes what `method` learns in expectation, and beside one of `options` that is set.

    Where a chain branches must not hang on other chains either, as it does by entropy, whose threshold they set: the
    weight of what was pruned in them would.
    """
    for rule in prune.rules:
        allowed = UNBIASED.get(rule, _CRITICS)
        if method not in allowed:
            raise ValueError(
                f"got prune.rules with {rule} and advantage.method {method}, whose expected gradient it would change; expected "
                f"advantage.method {' or '.join(allowed)}, or prune.rules without {rule}"
            )
    if prune.rules and method not in _CRITICS and where not in AT_STEP_ENDS:
        raise ValueError(
            f"got prune.rules with advantage.method {method} and tree.where {where}, which may look at other chains; expected "
            f"tree.where {' or '.join(AT_STEP_ENDS)}, or advantage.method {' or '.join(_CRITICS)}"
        )
    for option, is_set in options.items():
        if prune.rules and is_set:
            raise ValueError(
                f"got prune.rules with {option}, which do not go together; expected one of the two: leave out {option}, "
                "or the rules"
            )


def reads(prune: PruneConfig, name: str) -> bool:
    """Whether a rule reads the scores of the `prm` or the `orm`."""
    return "low_score" in prune.rules and prune.score == name


def scorer(prune: PruneConfig, models: Any, ledger: Any) -> Observe:
    """Scores of what has just come back, by the model that rules read; charged in the ledger, nothing where none is read."""

    def score(trees: Sequence[Tree]) -> None:
        for name in ("prm", "orm"):
            if reads(prune, name):
                for tree in trees:
                    tree.scores.pop(name, None)
                net = getattr(models, name)
                # its wrapper would wait for processes that score as often
                net = net.module if isinstance(net, DistributedDataParallel) else net
                ledger.add(name, scored=score_steps(net, trees, name))

    return score


def check_scorers(prune: PruneConfig, paths: dict[str, str | None]) -> None:
    """A UserError where a rule reads a model that is not there."""
    for name, path in paths.items():
        if reads(prune, name) and not path:
            raise UserError(
                f"prune.rules low_score reads the {name} and there is none; expected {name}: a stage's name"
            )


def live(
    policy: BranchPolicy, prune: PruneConfig, dead_end: str, prompting: Prompting, seed: int, round: int, score: Observe
) -> tuple[BranchPolicy, Observe]:  # fmt: skip
    """`policy` without what the rules are against, and what is to be set on trees before it is asked."""
    by_verdicts = any(rule in BY_VERDICTS for rule in prune.rules)

    def observe(trees: Sequence[Tree]) -> None:
        if by_verdicts:
            judge(trees, prompting.decode)
        score(trees)

    return pruned(policy, prune, seed, round, dead_end_by(dead_end, prompting.decode)), observe
