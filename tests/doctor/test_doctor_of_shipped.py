"""Nothing is found in the configs for real models, with a model on this machine and the data that they are for."""

from pathlib import Path

import pytest

from reasoner.commands.resolve import resolved
from reasoner.config import read_yaml
from reasoner.doctor.case import Case
from reasoner.doctor.checks import examine
from reasoner.doctor.findings import Finding
from tests.doctor.faults import AMPLE

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted([*CONFIGS.glob("gsm8k/*.yaml"), *CONFIGS.glob("smollm2/*.yaml")])


@pytest.fixture(scope="module")
def files(shared_data, tmp_path_factory) -> dict[str, Path]:
    """By source, where its rows lie; MAWPS is in four files."""
    mawps = tmp_path_factory.mktemp("mawps")
    for path in (shared_data / "math").glob("mawps__*.jsonl"):
        (mawps / path.name).symlink_to(path)
    assert len(list(mawps.iterdir())) == 4
    return {
        "gsm8k": shared_data / "gsm8k" / "train.jsonl.gz",
        "asdiv": shared_data / "math" / "asdiv__test.jsonl.gz",
        "mawps": mawps,
    }


def put_in(path: Path, model: str, files: dict[str, Path]) -> list[str]:
    """Overrides that put a model's folder and local files where the config names those of the hub."""
    raw = read_yaml(path)
    own = {s.get("name", s["kind"]) for s in raw["stages"]}
    changes = [
        f"problems.{name}.{i}.path={files[source['name']]}"
        for name, sources in raw["problems"].items()
        for i, source in enumerate(sources)
    ]
    for i, stage in enumerate(raw["stages"]):
        if "model" in stage and stage["model"] not in own:
            changes.append(f"stages.{i}.model={model}")
        for key in ("policies", "sampled"):
            if key in stage:
                named = dict.fromkeys(p if p in own else model for p in stage[key])
                changes.append(f"stages.{i}.{key}=[{', '.join(named)}]")
    return changes


def found_in(path: Path, overrides: list[str]) -> list[Finding]:
    case = Case(resolved(path, overrides), path=path)
    case.machine = AMPLE  # type: ignore[misc]
    return [f for f in examine(case).findings if f.severity != "note"]


@pytest.mark.parametrize("name", ["gsm8k/sft", "smollm2/grpo"])
def test_nothing_is_found_with_a_small_model(name, files, plant):
    path = CONFIGS / f"{name}.yaml"
    own = (
        ["problems.train.0.size=500"] if "gsm8k" in name else ['prompt.stop=["\\n"]']
    )  # it has no token of two lines' ends
    found = found_in(path, [*put_in(path, str(plant.model), files), *own])
    # the tokenizer of this small model writes letters byte by byte: longer than its 256 positions, and no other finding
    assert {f.check for f in found} <= {"lengths"}, found


@pytest.mark.real
@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_nothing_is_found_with_a_real_model(path, files, real_model, monkeypatch):
    monkeypatch.setattr("reasoner.doctor.models.SECONDS", 1.0)  # of drawing answers: two problems
    assert found_in(path, put_in(path, real_model, files)) == []
