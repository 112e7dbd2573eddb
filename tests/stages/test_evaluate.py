"""Names of measured policies: short, and never one for two; at which temperature they are sampled."""

import json

import pytest
from small_models import save_small_qwen

from reasoner.config import validate
from reasoner.pipeline import RunConfig, run
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


def test_samples_are_drawn_at_the_temperature_that_is_asked_for(tmp_path):
    model = save_small_qwen(tmp_path / "model", ["one two three four five six seven eight nine ten"] * 8, 300)
    rows = ({"prompt": f"{word}?", "answer": "1"} for word in ["one", "two", "three", "four", "five"])
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def evaluated(name: str, **keys) -> dict:
        return {"kind": "evaluate", "name": name, "policies": [str(model)], "max_tokens": 12, **keys}

    sampled = {"sampled": [str(model)], "num_samples": 2}
    raw = {
        "out": str(tmp_path / "run"),
        "problems": {"test": [{"name": "jsonl", "path": str(tmp_path / "test.jsonl")}]},
        "stages": [
            evaluated("greedy"),
            evaluated("cold", **sampled, temperature=1e-3),
            evaluated("hot", **sampled),
        ],
    }
    run(validate(RunConfig, raw, "test"))
    shown = {
        name: [s["steps"] for s in json.loads((tmp_path / "run/stages" / name / "samples.json").read_text())]
        for name in ("greedy", "cold", "hot")
    }
    booked = json.loads((tmp_path / "run/ledger.json").read_text())["counts"]
    assert [booked[n]["verifier"]["verifications"] for n in ("greedy", "hot")] == [5, 5 + 5 * 2]
    assert len(shown["greedy"]) == 5 and all(shown["greedy"])
    assert shown["cold"] == shown["greedy"]
    assert all(hot != cold for hot, cold in zip(shown["hot"], shown["cold"], strict=True))
