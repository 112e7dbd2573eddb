"""Every shipped YAML is a valid run."""

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
