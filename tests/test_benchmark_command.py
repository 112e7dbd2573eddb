"""The command that runs all benchmarks names files that are there, and makes a table of what they print."""

import importlib
from pathlib import Path

import pytest

runner = importlib.import_module("tests.benchmarks.__main__")


def test_every_name_is_a_benchmark():
    folder = Path(runner.__file__).parent
    assert [name for name in runner.NAMES if not (folder / f"{name}.py").is_file()] == []


def test_the_table_shows_each_row_and_nothing_for_what_is_unknown():
    rows = [{"name": "a", "ours": 3.0, "peer": 1.5, "peer_name": "b|c", "ratio": 2.0, "target": 1, "unit": "/s"},
            {"name": "d", "ours": 7, "peer": None, "peer_name": "", "ratio": None, "target": None, "unit": "s"}]  # fmt: skip
    assert runner.table(rows).splitlines()[2:] == [
        "| a | 3.0 | b\\|c 1.5 | 2.0 | 1 | /s |",
        "| d | 7 |  |  |  | s |",
    ]


def test_an_unknown_name_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "verifi"])
    with pytest.raises(SystemExit):
        runner.main()
    assert "'verifi', expected some of verify" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(Path(runner.__file__).parent.glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_every_benchmark_finds_what_it_imports(path):
    assert importlib.import_module(f"tests.benchmarks.{path.stem}").__doc__
