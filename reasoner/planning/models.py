"""Which architecture each stage of a config runs: by the stage that it names, a folder, a config.json or a hub name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from reasoner.config import Config
from reasoner.economics.shape import shape_of
from reasoner.policy.models import TinyModel, base_of, tiny_config
from reasoner.registry import UserError
from reasoner.stages.references import Names, named


def config_at(name: str) -> Any:
    """The Hugging Face config of a folder, an adapter's base, a config.json or a hub name; what is not there is one line."""
    path = Path(name).expanduser()
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists()
    if looks_local and not path.exists():
        raise UserError(
            f"no model at {name}; expected a folder with a config.json, such a file, or a hub name like Qwen/Qwen2.5-0.5B"
        )
    base = base_of(str(path)) if path.is_dir() else str(path) if path.is_file() else name
    try:
        config = AutoConfig.from_pretrained(base)
    except (OSError, ValueError, KeyError) as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0][:160]
        raise UserError(
            f"no config of the model {name!r} ({reason}); expected a folder with a config.json, or a network for a hub name"
        ) from problem
    shape_of(config)  # says what is missing
    return config


def model_named(stage: Config) -> str:
    """What the stage runs or trains: the first name in its keys that asks for a model; empty where there is none."""
    return next((name for _, marker, name in named(stage, Names) if marker.what == "model"), "")


def origin(stage: Config, earlier: Mapping[str, Any]) -> TinyModel | str:
    """Where a stage's architecture is from: the stage that makes it, or a folder or hub name; empty where it has none."""
    if isinstance(stage, TinyModel):
        return stage
    name = model_named(stage)
    if name in earlier and earlier[name] is not stage:
        return origin(earlier[name], earlier)
    return name


def config_from(origin: TinyModel | str) -> Any:
    return tiny_config(origin) if isinstance(origin, TinyModel) else config_at(origin)
