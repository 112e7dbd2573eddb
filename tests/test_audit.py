"""reasoner audit names what is wrong with a finished run: every file flipped, cut, gone or foreign, data and lineage."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import save_small_qwen

from reasoner import api
from reasoner.commands.audit import audit
from reasoner.config import read_yaml, validate
from reasoner.pipeline import RunConfig
from reasoner.pipeline import run as run_stages
from reasoner.registry import UserError
from reasoner.seal import sha256
from tests import warm


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two stages, import and prm, with its data beside it."""
    folder = tmp_path_factory.mktemp("run")
    model = save_small_qwen(folder / "model", ["p a b c"] * 4, 280)
    rows = [{"prompt": f"p{i}", "completions": ["a", "b"], "labels": [1, 0]} for i in range(4)]
    api.train("prm", model, folder / "run", labels=rows, epochs=1)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, to be damaged."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


def faults(run: Path) -> list[str]:
    return [fault for one in audit(run) for fault in one.faults]


def test_a_run_as_it_was_written_has_no_fault_and_its_lineage_is_told(run):
    first, second = audit(run)
    assert (first.stage, first.reads, first.is_done, first.faults) == ("import", [], True, [])
    assert (second.stage, second.reads, second.is_done, second.faults) == ("prm", ["import"], True, [])
    assert first.wrote["soft"] == 4 and second.wrote["bytes"] > 10_000
    done = warm.reasoner("audit", run, cwd=run.parent)
    assert done.returncode == 0 and "as it was written" in done.stdout


def outputs(run: Path) -> list[Path]:
    return sorted(p for kind in ("models", "records") for p in (run / kind).rglob("*") if p.is_file())


def test_every_file_that_is_flipped_cut_or_gone_is_named(run):
    assert len({p.suffix for p in outputs(run)}) >= 3
    for path in outputs(run):
        whole = path.read_bytes()
        flipped = bytes([whole[len(whole) // 2] ^ 1])
        for damaged in (whole[: len(whole) // 2] + flipped + whole[len(whole) // 2 + 1 :], whole[:-1], None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            assert [str(path) in fault for fault in faults(run)] == [True], (path, damaged is None)
            path.write_bytes(whole)
    assert faults(run) == []


def test_a_label_file_that_was_swapped_is_named_and_not_read(run):
    """A whole Parquet file of the same size and columns, with the labels of other steps."""
    (path,) = (run / "records/import/soft").glob("*.parquet")
    table = pq.read_table(path)
    turned = table.set_column(
        table.column_names.index("labels"),
        "labels",
        pa.array([x[::-1] for x in table["labels"].to_pylist()], table["labels"].type),
    )
    assert turned.schema == table.schema and turned != table
    pq.write_table(turned, path)
    (told,) = faults(run)
    assert str(path) in told and "as the stage import wrote" in told
    (run / "stages/prm/done").unlink()
    raw = read_yaml(run / "config.yaml") | {"out": str(run)}
    with pytest.raises(UserError, match="damaged"):
        run_stages(validate(RunConfig, raw, "test"))


def test_a_foreign_file_and_a_damaged_marker_are_named(run):
    (run / "models/prm/model/extra.bin").write_bytes(b"x")
    (told,) = faults(run)
    assert "extra.bin was not written by the stage" in told
    (run / "models/prm/model/extra.bin").unlink()
    (run / "stages/import/done").write_text("{")
    told = faults(run)
    assert "cannot be read" in told[0] and told[1] == "it is done, and reads import, which is not"
    (run / "stages/import/done").unlink()
    assert faults(run) == ["it is done, and reads import, which is not"]


def test_numbers_that_are_none_are_named_though_the_hash_is_right(run):
    path = run / "models/prm/model/score_head.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    weights[name].view(-1)[0] = torch.nan
    save_file(weights, path)
    marker = run / "stages/prm/done"
    info = json.loads(marker.read_text())
    info["files"]["models/prm/model/score_head.safetensors"] |= {
        "size": path.stat().st_size,
        "sha256": sha256(path),
    }
    marker.write_text(json.dumps(info))
    (told,) = faults(run)
    assert f"NaN or infinity in {name}" in told


def test_data_that_changed_since_are_named(run, finished):
    labels = finished / "run-data/labels.jsonl"
    whole = labels.read_bytes()
    try:
        labels.write_bytes(whole + b"\n")
        assert any("labels.jsonl is another than the stage read" in fault for fault in faults(run))
        labels.unlink()
        assert any("labels.jsonl is gone" in fault for fault in faults(run))
    finally:
        labels.write_bytes(whole)
    done = warm.reasoner("audit", run, "--json", cwd=run.parent)
    assert done.returncode == 0 and [one["stage"] for one in json.loads(done.stdout)] == ["import", "prm"]


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no config\.yaml; expected the folder of a run"):
        audit(tmp_path)
