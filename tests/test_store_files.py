"""Markers and small files on disk: valid JSON, whole or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

from reasoner.store import is_done, mark_done, to_json, write_json, write_text

ROOT = Path(__file__).parent.parent


def test_done_marker(tmp_path):
    assert is_done(tmp_path / "stage") is None
    mark_done(tmp_path / "stage", {"trees": 3})
    assert is_done(tmp_path / "stage") == {"trees": 3}
    assert os.listdir(tmp_path / "stage") == ["done"]


def test_write_json_is_valid_json(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"x": [1, float("nan"), (float("inf"), "é")], "ok": True})
    assert json.loads((tmp_path / "a" / "b.json").read_text("utf-8")) == {
        "x": [1, None, [None, "é"]],
        "ok": True,
    }
    assert os.listdir(tmp_path / "a") == ["b.json"]


def test_to_json_takes_array_scalars():
    import numpy as np

    assert to_json(
        {"a": np.float32(0.5), "b": np.int64(3), "c": np.array([2.0]), "d": np.float64("nan")}
    ) == ('{"a": 0.5, "b": 3, "c": 2.0, "d": null}')


def test_write_text_replaces_whole_files(tmp_path):
    code = (
        "import sys\nfrom reasoner.store import write_text\n"
        "for i in range(40):\n    write_text(sys.argv[1], str(i % 10) * 2_000_000)"
    )
    path = tmp_path / "x"
    write_text(path, "first")
    child = subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT)
    seen = set()
    while child.poll() is None:
        text = path.read_text()
        seen.add((len(text), text == text[:1] * len(text)))
    assert child.returncode == 0
    assert seen <= {(5, False), (2_000_000, True)} and len(seen) == 2
