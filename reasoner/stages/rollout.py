"""Grow trees with a policy, and judge them while they grow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reasoner.config import Config
from reasoner.policy.engine import Sampling
from reasoner.scoring.outcome import judge_while
from reasoner.search.branch import BranchConfig, tree_of
from reasoner.search.grow import Growth, grow
from reasoner.stages.context import Context, make_engine, shuffled
from reasoner.store import write_trees
from reasoner.tree import Tree


class Rollout(Config):
    """Grow trees of chains of thought; each chain is judged as soon as it ends, while others are decoded."""

    kind: Literal["rollout"]
    name: str = "rollout"
    model: str = Field(description="stage, folder or hub name of the policy")
    problems: list[str] = Field(["train"], description="problem sets")
    num_problems: int = Field(1000, ge=1, description="most problems to roll out")
    tree: BranchConfig = BranchConfig(where="every_step", num_points=3, num_children=4)
    max_tokens: int = Field(256, ge=1, description="longest completion")
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    num_slots: int = Field(256, ge=1, description="sequences decoded at once")


def run_rollout(config: Rollout, context: Context) -> None:
    prompting = context.prompting(config.model)
    # another order than on-policy training has, so that reward models also learn problems which it meets late
    problems = shuffled(context.items(config.problems), context.session.seed + 1)[: config.num_problems]
    trees = [Tree.of_prompt(p, prompting.prompt_ids(p.prompt)) for p in problems]
    longest = max(len(t.nodes[0].token_ids) for t in trees) + config.max_tokens
    growth = Growth(
        prompting.mark_steps, config.max_tokens, Sampling(config.temperature), context.session.seed
    )
    engine = make_engine(config.model, context, longest, config.num_slots)

    def growing(on_node) -> None:
        grow(trees, engine, tree_of(config.tree), growth,
             lambda done: context.session.progress(done, len(trees), ""), on_node)  # fmt: skip

    judged = judge_while(growing, trees, prompting.decode)
    num_leaves = sum(len(t.leaves()) for t in trees)
    context.session.ledger.add("policy", trajectories_generated=num_leaves)
    context.session.ledger.add("verifier", verifications=num_leaves)
    found = {f"rollout/{status}": n for status, n in judged.statuses.items()}
    context.session.log({**found, "rollout/verdict_wait": judged.wait_share}, 0)
    write_trees(context.out / "trees" / config.name, trees)
