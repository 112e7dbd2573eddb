"""Shipped configurations by name, from a folder that has none."""

import re
from pathlib import Path

import pytest

from reasoner.commands.shipped import CONFIGS, about, found, names
from reasoner.config import ConfigError


def test_a_shipped_config_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        found(Path("configs/smoke/run.yaml"))
        == found(Path("smoke/run.yaml"))
        == CONFIGS / "smoke" / "run.yaml"
    )
    with pytest.raises(ConfigError, match=re.escape("did you mean configs/smoke/run.yaml")):
        found(Path("configs/smoke/rum.yaml"))
    with pytest.raises(ConfigError, match="see reasoner config list"):
        found(Path("mine.txt"))
    own = tmp_path / "configs" / "smoke" / "run.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("title: mine\n")
    assert found(Path("configs/smoke/run.yaml")).resolve() == own


def test_every_config_says_what_it_does():
    assert len(names()) == len(list(CONFIGS.rglob("*.yaml"))) > 30
    assert all(len(about(name)) > 15 for name in names())
