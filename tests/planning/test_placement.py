"""Where the models of a stage are said to live, and what a run's ledger says that each took."""

import pytest

from reasoner.config import validate
from reasoner.ledger import Ledger
from reasoner.planning.placement import ROLES, placement, rows, told
from reasoner.planning.text import _placement
from reasoner.run_config import RunConfig
from reasoner.stages import EVERYWHERE

ADAPTER = "in this process, an adapter on a frozen base"
OWN = "in this process, weights of its own"
WALLS = "processes of the sandbox, on the CPU"


def stage(**keys):
    return validate(RunConfig, {"problems": {}, "stages": [{"model": "M", **keys}]}, "test").stages[0]


REWARD = {"reward": {"prm_weight": 0.5, "orm_weight": 0.0}}


@pytest.mark.parametrize(
    ("keys", "roles"),
    [
        (
            {"kind": "ppo", "prm": "P", "orm": "O", "kl_weight": 0.1, "advantage": {"method": "step_ppo", **REWARD}},
            {"policy": "in this process", "sampler": "the policy itself", "critic": OWN, "ref": f"{OWN}, a frozen copy",
             "prm": OWN, "verifier": WALLS},  # the ORM has no weight: it is not loaded
        ),
        (
            {"kind": "ppo", "prm": "P", "orm": "O", "prune": {"rules": ["low_score"]}},
            {"policy": "in this process", "sampler": "the policy itself", "critic": OWN, "prm": OWN, "verifier": WALLS},
        ),  # pruning reads the PRM, and nothing the ORM
        (
            {"kind": "ppo", "lora": {}, "kl_weight": 0.1, "advantage": {"method": "step_ppo"},
             "engine": {"kind": "vllm", "urls": ["http://a", "http://b"]}},
            {"policy": ADAPTER, "sampler": "2 vllm servers at http://a, http://b, new weights each round",
             "critic": "adapter on the policy's base", "ref": "the policy's base, or a frozen adapter on it", "verifier": WALLS},
        ),
        (
            {"kind": "ppo", "implicit_prm": {}, "advantage": {"method": "rloo"}},
            {"policy": "in this process", "sampler": "the policy itself", "implicit_prm": f"{OWN}, with a frozen reference",
             "verifier": WALLS},
        ),
        (
            {"kind": "ppo", "shard": {}, "advantage": {"method": "grpo"}},
            {"policy": "in this process, cut over all processes", "sampler": "in this process, a whole copy on each",
             "verifier": WALLS},
        ),
        (
            {"kind": "rollout", "prm": "P", "engine": {"kind": "sglang", "spawn": 1}},
            {"policy": "1 sglang server of its own", "prm": OWN, "verifier": WALLS},
        ),
        ({"kind": "distill", "teacher": "T"}, {"policy": "in this process", "teacher": OWN}),
        ({"kind": "dpo", "labels": "L", "lora": {}}, {"policy": ADAPTER, "ref": "the policy's base, adapter off"}),
        ({"kind": "dpo", "labels": "L"}, {"policy": "in this process", "ref": "in this process, a frozen copy"}),
        ({"kind": "prm", "labels": "L", "name": "mine"}, {"prm": "in this process"}),
        ({"kind": "label", "critic": "C"}, {"critique": "in this process"}),
        ({"kind": "verify"}, {"verifier": WALLS}),
        ({"kind": "label"}, {}),
    ],
)  # fmt: skip
def test_roles_and_places(keys, roles):
    assert {p.role: p.where for p in placement([stage(**keys)])} == roles


def test_the_log_says_it_in_one_line_where_there_is_more_than_one_place():
    assert told(stage(kind="rollout", prm="P")) == (
        f"rollout: policy: in this process; prm: {OWN}; verifier: {WALLS}"
    )
    assert told(stage(kind="sft")) == ""


def test_every_kind_of_stage_that_runs_models_has_its_roles():
    assert set(EVERYWHERE) - set(ROLES) == {"evaluate"}  # which has as many policies as it compares


def test_what_each_role_took():
    ledger = Ledger(
        {
            "ppo": {
                "policy": {"flops": 60}, "critic": {"flops": 30}, "prm": {"flops": 10}, "verifier": {"verifier_seconds": 2.5},
                "disk": {"bytes_written": 7},
            }
        }
    )  # fmt: skip
    found = rows([stage(kind="ppo", prm="P", advantage={"method": "step_ppo", **REWARD})], ledger)
    shares = {r["role"]: r.get("share_of_operations", r.get("core_seconds")) for r in found}
    assert shares == {"policy": 0.6, "sampler": None, "critic": 0.3, "prm": 0.1, "verifier": 2.5}
    shown = " ".join(" ".join(_placement(found)).split())
    assert "policy (60% of the operations): in this process" in shown
    assert (
        f"critic (30% of the operations), prm (10% of the operations): {OWN}; verifier (2.5 core seconds)"
        in shown
    )
