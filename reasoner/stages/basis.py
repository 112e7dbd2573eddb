"""What a stage's result rests on: keys of the config, and files of data. `config` is a whole run's (run_config.RunConfig)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasoner.config import decisive
from reasoner.stages.references import NamesProblems, data_in, named


def basis(stage, config, defaults: bool = True) -> dict[str, Any]:
    """What a stage's result rests on in the config: its own keys and what it shares with other stages.

    Without `defaults` keys that stand at theirs are left out.
    """
    sets = problem_sets(stage, config)
    takes = sets or any(named(stage, NamesProblems))
    shared = {"contamination": decisive(config.contamination, defaults)} if takes else {}
    return {
        "seed": config.seed,
        "prompt": decisive(config.prompt, defaults),
        **shared,
        "problems": {name: [decisive(s, defaults) for s in config.problems[name]] for name in sets},
        "stages": {stage.name: decisive(stage, defaults)},
    }


def data_files(stage, config) -> list[Path]:
    """The files and folders of data that a stage reads."""
    sources = [s for name in problem_sets(stage, config) for s in config.problems[name]]
    paths = [path for reader in (stage, *sources) for _, path in data_in(reader)]
    return [Path(path).expanduser() for path in dict.fromkeys(paths)]


def problem_sets(stage, config) -> list[str]:
    """The config's problem sets that a stage reads; whoever takes texts from outside also keeps those of `test` out."""
    sets = {name for _, _, name in named(stage, NamesProblems)}
    held_out = ["test"] if (sets or data_in(stage)) and "test" in config.problems else []
    return sorted({*sets & set(config.problems), *held_out})
