"""Names of measured policies: short, and never one for two."""

import pytest

from reasoner.stages.evaluate import shown


@pytest.mark.parametrize(
    ("policies", "names"),
    [
        (["base", "sft", "ppo"], ["base", "sft", "ppo"]),
        (["Qwen/Qwen2.5-0.5B", "runs/sft/models/sft/model"], ["Qwen2.5-0.5B", "sft"]),
        (["runs/a/models/ppo/model", "runs/b/models/ppo/model", "sft"], ["a/ppo", "b/ppo", "sft"]),
        (["ppo", "runs/b/models/ppo/model"], ["ppo", "b/ppo"]),
        (["x/runs/a/models/ppo/model", "y/runs/a/models/ppo/model"], ["x/runs/a/ppo", "y/runs/a/ppo"]),
        (["a/models/ppo/model", "a/ppo"], ["a/models/ppo/model", "a/ppo"]),
    ],
)
def test_policies_have_short_names_that_differ(policies, names):
    assert list(shown(policies).values()) == names
    assert list(shown(policies[::-1]).values()) == names[::-1]
