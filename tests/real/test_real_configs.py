"""Configurations for real models, two steps of each, with a real chat model in the place of every model they name."""

import json
from pathlib import Path

import pytest

from reasoner.config import apply_overrides, read_yaml, validate
from reasoner.pipeline import RunConfig, run
from reasoner.store import is_done

pytestmark = pytest.mark.real

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted([*CONFIGS.glob("gsm8k/*.yaml"), *CONFIGS.glob("smollm2/*.yaml")])
FILES = {
    "gsm8k": "gsm8k/train.jsonl.gz",
    "asdiv": "math/asdiv__test.jsonl.gz",
    "mawps": "math/mawps__singleop.jsonl",
}
TWO_STEPS = {
    "ppo": {"rounds": 2, "problems_per_round": 2, "max_tokens": 16, "tree.num_roots": 2},
    "sft": {"max_steps": 2, "batch_size": 2},
    "dpo": {"batch_size": 2, "trl.max_steps": 2},
    "rollout": {"num_problems": 8, "max_tokens": 8, "tree.num_roots": 6},
    "label": {"step_pairs.confidence": 0.5, "step_pairs.min_edits": 1},  # few continuations prove little
    "evaluate": {"max_tokens": 16, "num_samples": 2},
    "prm": {"batch_size": 6, "epochs": 1, "holdout": 0},
    "orm": {"batch_size": 6, "epochs": 1, "holdout": 0},
}  # fmt: skip


def sums(folder: Path) -> Path:
    """Problems of which the model gets some answers right and some wrong, as pairs need them."""
    rows = ({"prompt": f"What is {a} + {b}?", "answer": str(a + b)} for a in (1, 2, 5) for b in (1, 2, 3, 4))
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "sums.jsonl"


def short(path: Path, model: str, data: Path, out: Path) -> RunConfig:
    """The shipped run with the model's folder, local files and sizes that end soon; all other keys stay."""
    raw = read_yaml(path)
    own = {s.get("name", s["kind"]) for s in raw["stages"]}
    if any(s["kind"] in ("dpo", "prm", "orm") or "traces" in s for s in raw["stages"]):
        raw["problems"]["train"] = [{"name": "jsonl", "path": str(sums(out.parent)), "extract": "last_math"}]
    changes = [f"out={out}"]
    for name, sources in raw["problems"].items():
        for i, source in enumerate(s for s in sources if s["name"] in FILES):
            size = 40 if "part" in source else 8
            changes += [
                f"problems.{name}.{i}.path={data / FILES[source['name']]}",
                f"problems.{name}.{i}.size={size}",
            ]
    for i, stage in enumerate(raw["stages"]):
        if "model" in stage and stage["model"] not in own:
            changes.append(f"stages.{i}.model={model}")
        for key in ("policies", "sampled"):
            if key in stage:
                named = [p if p in own else model for p in stage[key]]
                changes.append(f"stages.{i}.{key}=[{', '.join(dict.fromkeys(named))}]")
        changes += [f"stages.{i}.{key}={value}" for key, value in TWO_STEPS.get(stage["kind"], {}).items()]
    return validate(RunConfig, apply_overrides(raw, changes), str(path))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_two_steps_of_a_shipped_run(path, real_model, shared_data, tmp_path):
    config = short(path, real_model, shared_data, tmp_path / "run")
    run(config)
    for stage in config.stages:
        assert is_done(tmp_path / "run" / "stages" / stage.name), stage.name
        if stage.kind in ("ppo", "sft", "dpo", "prm", "orm"):
            saved = list((tmp_path / "run" / "models" / stage.name / "model").glob("*.safetensors"))
            assert saved, stage.name
