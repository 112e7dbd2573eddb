"""A run's YAML with its overrides, as every command that takes one reads it."""

from __future__ import annotations

from pathlib import Path

from reasoner.config import apply_overrides, read_yaml, validate
from reasoner.run_config import RunConfig


def resolved(path: Path, overrides: list[str]) -> RunConfig:
    from reasoner.commands.shipped import found

    raw = apply_overrides(read_yaml(found(path)), overrides)
    if not raw.get("out"):
        raw["out"] = f"runs/{path.stem}"
    return validate(RunConfig, raw, str(path))
