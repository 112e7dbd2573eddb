"""Every planted fault is found, by the check that is for it, and nothing is found in what has none."""

import re
from pathlib import Path

import pytest

from reasoner.commands.resolve import resolved
from reasoner.commands.shipped import names
from reasoner.doctor.case import Case
from reasoner.doctor.checks import DEAR, FREE, examine
from reasoner.doctor.findings import Finding, line_of
from tests.doctor.faults import AMPLE, PLANTED, Plant, row, solved_never


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


def test_a_delimiter_matters_where_steps_are_read(plant):
    plant.config["prompt"]["delimiter"] = "\n\n"
    assert [f.severity for f in found_in(plant) if f.check == "delimiter"] == ["warning"]
    plant.config["stages"][1] |= {"tree": {"num_points": 0}, "advantage": {"method": "grpo"}}
    assert [f.severity for f in found_in(plant) if f.check == "delimiter"] == ["note"]
    plant.config["stages"].append({"kind": "label", "trees": "ppo", "model": "ppo"})
    assert [f.severity for f in found_in(plant) if f.check == "delimiter"] == ["warning"]


def test_what_the_run_leaves_out_by_itself_is_a_note_where_it_is_little(plant):
    plant.train += [row(f"{i}+2", str(i + 2)) for i in range(100, 200)]
    again, other = plant.train[:2]
    plant.train += [
        {**again, "prompt": f" {again['prompt']} ."},
        {**row(f"{other['prompt']}.", "77")},
        plant.test[0],
    ]
    plant.test += [
        {**plant.test[1], "prompt": f"{plant.test[1]['prompt']}."},
        *(row(f"{i}*7", str(7 * i)) for i in range(20, 40)),
    ]
    found = [f for f in found_in(plant) if f.check in ("duplicates", "contamination")]
    assert {f.severity for f in found} == {"note"}
    told = sorted((f.key, f.text.partition(":")[0]) for f in found)
    assert told == [
        ("problems.test", "1 of 31 problems equal another but for case, spacing and marks, and are measured beside it"),
        ("problems.train", "1 of 127 problems equal another but for case, spacing and marks, and are left out"),
        ("problems.train", "1 of 127 problems equal another but for case, spacing and marks, with another answer"),
        ("problems.train", "1 of 127 texts hold a problem of test (1 exact), as test/0"),
    ]  # fmt: skip


def test_it_is_told_how_new_problems_made_from_old_ones_are(plant):
    plant.config["problems"]["train"].append(
        {"name": "varied_arithmetic", "of": 20, "size": 50, "ways": {"longer": 1},
         "families": {"chain_sum": {"min_terms": 3, "max_terms": 3, "max_digits": 1}}}
    )  # fmt: skip
    found = found_in(plant)
    assert [f for f in found if f.check == "duplicates"] == []
    (told,) = [f for f in found if f.check == "new_from_old"]
    assert (told.severity, told.key) == ("note", "problems.train")
    assert re.match(
        r"of (4\d|50) problems that varied_arithmetic makes from (19|20) old ones, 0% are an old one again",
        told.text,
    )
    # an expression is there whole where it has one more term
    assert told.text.endswith("of the triples of the nearest old problem 100% are in a new one")
    plant.config["problems"]["train"][1] |= {"ways": {"turned": 1}, "families": {"gcd": {}, "chain_sum": {}}}
    found = found_in(plant)
    assert [f for f in found if f.check == "duplicates"] == []
    dropped, newness = [f.text for f in found if f.check == "new_from_old"]
    assert re.match(
        r"of 50 problems made from old ones \d+ are dropped: \d+ have a value that several", dropped
    )
    assert re.match(
        r"of 1\d problems that varied_arithmetic makes from 20 old ones", newness
    )  # the rest repeat


def test_what_is_only_measured_on_or_never_read_is_not_compared(plant):
    plant.config["problems"]["dev"] = plant.config["problems"]["test"]
    assert [f for f in found_in(plant) if f.check == "contamination"] == []


def test_what_an_earlier_stage_will_have_trained_is_not_judged_by_its_base(plant):
    solved_never(plant)
    plant.config["stages"][1]["model"] = "sft"
    assert [f for f in found_in(plant) if f.check == "reach"] == []


def test_a_few_problems_tell_nothing_of_the_reach(plant, monkeypatch):
    monkeypatch.setattr("reasoner.doctor.models.SECONDS", 0.005)
    solved_never(plant)
    (found,) = [f for f in found_in(plant) if f.check == "reach"]
    assert found.severity == "note" and "of 2 problems" in found.text


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
