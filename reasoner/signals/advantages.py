"""From scored trees to per-token advantages: one function per method, chosen in the table below.

A token that several trajectories share gets their advantages averaged by path weight. All methods take
errors out: a leaf that our side failed to judge weighs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from reasoner.records import PolicySample
from reasoner.signals.credit import AdvantageConfig
from reasoner.signals.gae import ppo, step_ppo
from reasoner.signals.group import dr_grpo, grpo, grpo_process, maxrl, rloo, shrunk
from reasoner.signals.tree_values import sibling_loo, spo_tree, tree_rl, vineppo
from reasoner.tree import Tree

ADVANTAGES: dict[str, Callable[[Tree, AdvantageConfig], PolicySample]] = {
    "step_ppo": step_ppo,
    "ppo": ppo,
    "rloo": rloo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "maxrl": maxrl,
    "shrunk": shrunk,
    "grpo_process": grpo_process,
    "sibling_loo": sibling_loo,
    "spo_tree": spo_tree,
    "tree_rl": tree_rl,
    "vineppo": vineppo,
}

# the methods that are defined with advantages scaled over the batch (Ouyang et al. 2022's PPO, and ours on its model); the
# others' scale is their own, and a shift by the mean would bias what is unbiased
WHITENED = {"step_ppo", "ppo"}

# the methods that read a critic, and under which name its values are in the tree's scores
CRITIC: dict[str, str] = {"step_ppo": "value", "ppo": "token_value"}
