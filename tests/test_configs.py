"""Every shipped YAML is a valid run."""

import re
from pathlib import Path

import pytest

from reasoner.config import read_yaml, validate
from reasoner.pipeline import RunConfig

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONFIGS)))
def test_config_is_valid(path):
    config = validate(RunConfig, read_yaml(path), str(path))
    assert config.title
    assert len({s.name for s in config.stages}) == len(config.stages)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONFIGS)))
def test_data_that_is_not_shipped_is_looked_for_here_and_its_origin_named(path):
    text = path.read_text("utf-8")
    paths = re.findall(r"path: (?:&\w+ )?([^,}\s*]+)", text.partition("title:")[2])
    assert all(p.startswith("data/") for p in paths), paths
    if paths:
        comment = " ".join(line for line in text.splitlines() if line.startswith("#"))
        assert "not shipped" in comment and "path=FILE" in comment


def test_the_page_of_configurations_names_each():
    page = (CONFIGS / "README.md").read_text("utf-8")
    named = set(re.findall(r"`(?:\w+/)?(\w+)(?:\.yaml)?`", page))
    assert {path.stem for path in CONFIGS.rglob("*.yaml")} <= named
