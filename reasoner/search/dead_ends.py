"""What verifiers say of unfinished chains: that no continuation can be right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reasoner.registry import lookup
from reasoner.search.prune import DeadEndFn
from reasoner.tree import Problem, Tree
from verifiers.arithmetic_steps import check_steps
from verifiers.proof import dead_end


def has_wrong_step(text: str, problem: Problem) -> bool:
    """True where a whole line of the text is a calculation with a wrong result."""
    whole_lines = text[: text.rfind("\n") + 1]  # of a line under way nothing is known
    return any(step.right is False for step in check_steps(whole_lines))


def has_failed_proof(text: str, problem: Problem) -> bool:
    """True where a whole step of a proof under way already fails."""
    return problem.verifier == "proof" and dead_end(text, **problem.reference)


DEAD_ENDS: dict[str, Callable[[str, Problem], bool]] = {"steps": has_wrong_step, "proof": has_failed_proof}


def dead_end_by(name: str, decode: Callable[[Sequence[int]], str]) -> DeadEndFn:
    """The verifier of that name, or module:function, asked about the text of a state."""
    is_hopeless = lookup(DEAD_ENDS, name, "verifier of unfinished chains")

    def is_dead_end(tree: Tree, node: int, offset: int) -> bool:
        return is_hopeless(decode(tree.completion_ids(node, offset)), tree.problem)

    return is_dead_end
