"""Small trees grown by every branch rule."""

from reasoner.engine.local import LocalEngine
from reasoner.search.branch import (
    BranchConfig,
    tree_of,
)
from reasoner.search.grow import Growth, StepStop, grow
from reasoner.tree import Problem, Tree

PROMPTS = [[3, 1, 4, 1, 5], [2, 7, 1, 8], [1, 6, 1], [3, 1, 4, 1, 6, 6], [9]]


MAX_TOKENS = 14


def mark_steps(tokens, logprobs=(), before=()) -> list[int]:
    """A step ends at each token below 16, and at the last."""
    return [i for i, t in enumerate(tokens) if t < 16 or i == len(tokens) - 1]


def grown(lm, policy, numbers=range(5), num_slots=8, eos_ids=(0, 20), **options) -> list[Tree]:
    trees = [Tree.of_prompt(Problem(f"problem {i}", "", "math", {}), PROMPTS[i]) for i in numbers]
    engine = LocalEngine(lm, eos_ids, num_slots, max_context=64)
    grow(trees, engine, policy, Growth(mark_steps, MAX_TOKENS, **options))
    return trees


def shape(tree: Tree) -> list:
    return [(n.parent, n.offset, n.token_ids, n.step_ends, n.stop_reason) for n in tree.nodes]


STEP_STOP = StepStop(frozenset(range(16)))


RULES = ("entropy", "every_step", "coin", "spread_steps", "highest_entropy")


def branched(where: str, **options):
    config = BranchConfig(num_roots=3, where=where, num_points=2, num_children=2, num_rounds=2)
    return tree_of(config.model_copy(update=options), Growth(mark_steps, MAX_TOKENS, step_stop=STEP_STOP))


POLICIES = [branched(where) for where in RULES]
