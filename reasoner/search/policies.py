"""The branch policies by name, and the config that chooses one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from reasoner.search.branch import BranchConfig, tree_of
from reasoner.search.first_error import BisectConfig, bisect
from reasoner.search.grow import BranchPolicy, Growth
from reasoner.search.kary import KaryConfig, kary
from reasoner.search.mcts import MCTSConfig, ValueFn, mcts


def _policy_name(config: Any) -> str:
    """`policy` of a config or of its YAML; `branch` where nothing is said."""
    return config.get("policy", "branch") if isinstance(config, dict) else getattr(config, "policy", "branch")


TreeConfig = Annotated[
    Annotated[BranchConfig, Tag("branch")]
    | Annotated[KaryConfig, Tag("kary")]
    | Annotated[MCTSConfig, Tag("mcts")]
    | Annotated[BisectConfig, Tag("bisect")],
    Discriminator(_policy_name),
]

POLICIES: dict[str, Callable[[Any, ValueFn, Growth], BranchPolicy]] = {
    "branch": lambda config, value, growth: tree_of(config, growth),
    "kary": lambda config, value, growth: kary(config),
    "mcts": lambda config, value, growth: mcts(config, value),
    "bisect": lambda config, value, growth: bisect(config),
}


def policy_of(config: TreeConfig, value: ValueFn, growth: Growth) -> BranchPolicy:
    """The policy that a config describes; `value` says what a node is worth where the policy asks."""
    return POLICIES[config.policy](config, value, growth)
