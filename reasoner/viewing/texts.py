"""Token ids of a stage's trees as text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from reasoner.config import read_yaml
from reasoner.registry import UserError


def decoder(run: Path, folder: Path) -> Callable[[Sequence[int]], str]:
    """Token ids as text by the tokenizer of the stage that wrote the folder; as numbers, and why, where there is none."""
    run = next((p for p in (run, *folder.parents[:2]) if (p / "config.yaml").is_file()), run)
    config = run / "config.yaml"
    stages = read_yaml(config).get("stages", []) if config.is_file() else []
    model = next((s.get("model") for s in stages if s.get("name") == folder.name), None)
    try:
        if model is None:
            raise UserError(f"no config.yaml near {folder} names the stage's model")
        made = run / "models" / str(model) / "model"
        from reasoner.policy.models import load_tokenizer

        tokenizer = load_tokenizer(str(made if made.is_dir() else model))
    except UserError as problem:
        print(f"reasoner: token ids instead of text: {problem}", file=sys.stderr)
        return lambda ids: " ".join(map(str, ids))
    return lambda ids: str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
