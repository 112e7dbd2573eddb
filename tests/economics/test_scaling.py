"""The scaling page: its table is the script's, its units are those that were measured, and its sums are right by hand."""

from pathlib import Path

import pytest

from reasoner.economics.scaling import UNITS, Unit, Workload, column, decoded_per_second, hours, tables

ROOT = Path(__file__).parent.parent.parent


def test_the_table_in_the_document_is_the_scripts():
    assert tables(Workload(), [8, 64, 1024]) in (ROOT / "reasoner/economics/README.md").read_text("utf-8")


def test_measured_units_stand_among_what_was_measured():
    told = (ROOT / "tests/benchmarks/README.md").read_text("utf-8")
    rows = [line for line in told.splitlines() if "tests.benchmarks.units" in line]
    measured = {name: unit for name, unit in UNITS.items() if unit.source == "measured, units"}
    assert len(measured) >= 7
    for unit in measured.values():
        shown = f"{unit.value:,.0f}" if unit.value >= 1000 else f"{unit.value:.3g}"
        assert any(shown in row for row in rows), unit.what


def test_hours_by_hand(monkeypatch):
    values = {
        "own": 0.5, "programs": 0.25, "cores": 10, "disk": 1e6, "code": 4e-3, "math": 1e-3, "stored": 8, "records": 16,
        "written": 1e6, "read": 2e6, "labelled": 5e5, "prepared": 1e-3, "handed": 0.1,
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setitem(UNITS, name, Unit(value, "", ""))
    work = Workload(problems=6400, trajectories=1000, completion=100)  # 100 parts, 320 million tokens
    assert work.tokens == 3.2e8 and work.parts == 100
    found = {s: {n: h * 3600 for n, h in of.items()} for s, of in hours(work, 2, 1000.0).items()}
    assert found["rollout"] == pytest.approx(
        # 6.4 million verdicts at 1.75 ms and 320 s of writing, on 20 cores
        {"GPUs": 160_000, "cores": (11_200 + 320) / 20, "shared folder": 2560, "driver": 10 + 6.4}
    )
    assert found["verify"] == pytest.approx({"cores": (160 + 320) / 20, "shared folder": 5120, "driver": 10})
    assert found["label"] == pytest.approx({"cores": (160 + 640) / 20, "shared folder": 7680, "driver": 10})


def test_a_gpu_decodes_as_its_roofline_says():
    """7.6 G parameters in 16 bits read at 3,350 GB/s, with the keys and values of as many sequences as fit."""
    per_second, batch = decoded_per_second(Workload())
    weights, kv_token = 7_615_616_512 * 2, 28 * 2 * 4 * 128 * 2
    assert batch == int((0.9 * 80e9 - weights) // (1150 * kv_token))
    read = weights - 152064 * 3584 * 2 + batch * 650 * kv_token
    assert per_second == pytest.approx(0.5 * batch / (read / 3.35e12), rel=0.01)


def test_what_is_short_changes_with_the_number_of_gpus():
    few, many = column(Workload(), 8), column(Workload(), 1_000_000)
    assert few["short first"] == "GPUs" and many["short first"] == "shared folder"
