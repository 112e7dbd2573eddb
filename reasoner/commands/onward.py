"""What makes sense after a run: commands, only those for which the run has made something."""

from __future__ import annotations

import shlex
from pathlib import Path

POLICIES = (
    "sft",
    "ppo",
    "dpo",
    "distill",
    "keep",
)  # kinds of stages that end in a trained model to talk with


def next_commands(config) -> list[str]:
    """Commands for what lies in the folder of a RunConfig: to look at it, and to talk with the last policy."""
    out = Path(config.out)
    found = [f"reasoner view {shlex.quote(str(out))}"]
    if any((out / "trees").glob("*/*.parquet")):
        found.append(f"reasoner show {shlex.quote(str(out))}")
    trained = [s for s in config.stages if s.kind in POLICIES]
    # what trains for as long as others is what they are compared with
    trained.sort(key=lambda s: not getattr(s, "seconds_of", None))
    models = [out / "models" / s.name / "model" for s in trained]
    there = [model for model in models if model.is_dir()]
    if there:
        found.append(f"reasoner chat {shlex.quote(str(there[-1]))}")
    return found
