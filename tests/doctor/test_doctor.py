"""Every planted fault is found, by the check that is for it, and nothing is found in what has none."""

from pathlib import Path

import pytest

from reasoner.commands.resolve import resolved
from reasoner.commands.shipped import names
from reasoner.doctor.case import Case
from reasoner.doctor.checks import DEAR, FREE, examine
from reasoner.doctor.findings import Finding, line_of
from tests.doctor.faults import AMPLE, PLANTED, Plant, solved_never


def found_in(plant: Plant) -> list[Finding]:
    path = plant.write()
    case = Case(resolved(path, []), path=path)
    case.machine = plant.machine  # type: ignore[misc]
    return examine(case).findings


def test_a_config_without_faults_has_no_findings(plant):
    found = found_in(plant)
    assert [f for f in found if f.severity != "note"] == []
    (told,) = [f.text for f in found if f.check == "reach"]
    assert "8 are solved always and 8 never" in told


@pytest.mark.parametrize(
    ("fault", "check", "severity", "key"), PLANTED, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_planted_fault_is_found(plant, fault, check, severity, key):
    fault(plant)
    found = [f for f in found_in(plant) if f.severity != "note"]
    assert (check, severity, key) in [f[:3] for f in found], found
    assert all(f.remedy and "\n" not in f.text for f in found)
    if key:
        assert "line" in line_of(plant.folder / "run.yaml", key) or key.split(".")[0] not in plant.config


def test_a_row_that_comes_twice_alike_is_left_out_and_no_warning(plant):
    plant.train.append(plant.train[0])
    found = found_in(plant)
    assert [f.severity for f in found if f.check == "duplicates"] == ["note"]


def test_what_an_earlier_stage_will_have_trained_is_not_judged_by_its_base(plant):
    solved_never(plant)
    plant.config["stages"][1]["model"] = "sft"
    assert [f for f in found_in(plant) if f.check == "reach"] == []


def test_a_few_problems_tell_nothing_of_the_reach(plant, monkeypatch):
    monkeypatch.setattr("reasoner.doctor.models.SECONDS", 0.005)
    solved_never(plant)
    (found,) = [f for f in found_in(plant) if f.check == "reach"]
    assert found.severity == "note" and "of 4 problems" in found.text


def test_every_check_is_in_the_table_of_faults():
    assert {check for _, check, _, _ in PLANTED} - {"reach"} == {*FREE, *DEAR}


def shipped() -> list[str]:
    return [n for n in names() if "smoke" in n or "demo" in n]


@pytest.mark.parametrize("name", shipped())
def test_nothing_is_found_in_what_is_shipped(name):
    """All of the demo's and the smoke configs; evaluate_demo needs the models of a finished demo, and says so.

    Smoke configs cut answers short, to be quick.
    """
    case = Case(resolved(Path(name), []))
    case.machine = AMPLE  # type: ignore[misc]
    found = [f for f in examine(case).findings if f.severity != "note"]
    if "evaluate" in name:
        assert found and {f.check for f in found} <= {"references"}
    else:
        assert [f for f in found if "smoke" not in name or f.check != "lengths"] == []


def test_nothing_is_found_in_gsm8k_with_a_local_model(shared_data, plant):
    data = f"problems.train.0.path={shared_data / 'gsm8k' / 'train.jsonl.gz'}"
    path = Path("configs/gsm8k/sft.yaml")
    config = resolved(path, [data, f"stages.0.model={plant.model}", "problems.train.0.size=500"])
    case = Case(config, path=path)
    case.machine = AMPLE  # type: ignore[misc]
    found = [f for f in examine(case).findings if f.severity != "note"]
    # the tokenizer of this small model writes letters byte by byte: longer than its 256 positions, and no other finding
    assert {f.check for f in found} <= {"lengths"}


@pytest.mark.real
def test_nothing_is_found_in_gsm8k_with_a_real_model(shared_data, real_model):
    for name in ("sft", "ppo"):
        overrides = [f"problems.train.0.path={shared_data / 'gsm8k' / 'train.jsonl.gz'}", f"stages.0.model={real_model}",
                     "prompt={chat: true}"]  # fmt: skip
        case = Case(resolved(Path(f"configs/gsm8k/{name}.yaml"), overrides))
        case.machine = AMPLE  # type: ignore[misc]
        assert [f for f in examine(case).findings if f.severity != "note"] == []
