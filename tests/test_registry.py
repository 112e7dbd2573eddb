"""Lookup by name, by import path, and the errors a config's author sees."""

import sys

import pytest

from reasoner.registry import UserError, lookup, nearest

TABLE = {"beam": 1, "best_of_n": 2, "mcts": 3}


def test_known_name():
    assert lookup(TABLE, "mcts", "search") == 3


def test_unknown_name_lists_the_nearest_and_all_known():
    with pytest.raises(UserError) as error:
        lookup(TABLE, "best_of_m", "search")
    message = str(error.value)
    assert "search 'best_of_m'" in message
    assert "did you mean best_of_n?" in message
    assert "beam, best_of_n, mcts" in message
    assert "\n" not in message


def test_nothing_near_gives_no_hint():
    with pytest.raises(UserError) as error:
        lookup(TABLE, "zzz", "search")
    assert "did you mean" not in str(error.value)


def test_nearest_ignores_case():
    assert nearest("MCTS", TABLE) == ["mcts"]


@pytest.fixture
def my_lab(tmp_path, monkeypatch):
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "__init__.py").write_text("")
    (tmp_path / "my_lab" / "checks.py").write_text("def units():\n    return 'metres'\n")
    (tmp_path / "my_lab" / "broken.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [m for m in sys.modules if m.split(".")[0] == "my_lab"]:
        del sys.modules[name]


def test_import_path(my_lab):
    assert lookup({}, "my_lab.checks:units", "verifier")() == "metres"


def test_missing_module_names_what_is_missing(my_lab):
    with pytest.raises(UserError, match=r"none called 'my_lab.cheks'.*PYTHONPATH"):
        lookup({}, "my_lab.cheks:units", "verifier")
    with pytest.raises(UserError, match=r"none called 'your_lab'"):
        lookup({}, "your_lab.checks:units", "verifier")


def test_missing_attribute_names_the_nearest(my_lab):
    with pytest.raises(UserError, match=r"'unit' in my_lab.checks, which has none; did you mean units"):
        lookup({}, "my_lab.checks:unit", "verifier")


def test_failure_inside_the_module_is_not_hidden(my_lab):
    with pytest.raises(ModuleNotFoundError, match=r"no_such_dependency"):
        lookup({}, "my_lab.broken:units", "verifier")


@pytest.mark.parametrize("name", [":units", "my_lab.checks:", "my lab:units", "my_lab..checks:units"])
def test_malformed_import_path(name):
    with pytest.raises(UserError, match=r'expected "package.module:function"'):
        lookup({}, name, "verifier")
