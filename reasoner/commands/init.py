"""reasoner init: a commented YAML for a model, a file of problems and a method, that runs as it stands."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from reasoner.registry import UserError, lookup

HEAD = """\
# $what, made by `reasoner init`. Run it: reasoner run $out
# What fits and what it costs: reasoner plan $out    What would spoil it: reasoner doctor $out
# Every key is explained by `reasoner config schema`, and what a key may name by `reasoner list`.
title: $title
prompt:
  chat: $chat  # the tokenizer's chat template; where there is none, `template` is the text around {prompt}
problems:
  train:  # rows with prompt and answer; or with verifier and reference, for a check of your own
    - {name: jsonl, path: $data, part: [0.1, 1.0]}
  test:  # by a hash of their text, a tenth; nothing of it is trained on
    - {name: jsonl, path: $data, part: [0.0, 0.1]}
stages:
"""
TREES = """\
  - kind: rollout  # four solutions a problem, continued anew inside, so that single steps get labels
    model: &policy $model
    num_problems: 1000
    max_tokens: $longest
    tree: {where: every_step, num_roots: 4, num_points: 2, num_children: 4}
  - {kind: verify, model: *policy}
  - {kind: label, model: *policy}
"""
PRM = """\
  - kind: prm
    model: *policy
    label_kind: soft
    batch_size: 64
    optimizer: {lr: 1.0e-4}
    lora: {r: 16, alpha: 32}
"""
SFT = """\
  - kind: sft
    model: $model
    problems: [train]
    epochs: 2
    batch_size: 16
    optimizer: {lr: 2.0e-4}
    lora: {r: 16, alpha: 32}  # leave it out to train all weights
"""
GRPO = """\
  - kind: ppo
    name: grpo
    model: $model
    rounds: 100
    problems_per_round: 64
    max_tokens: $longest
    tree: {num_roots: 8, num_points: 0}  # eight solutions a problem
    advantage: {method: grpo}
    save_every: 10
    optimizer: {lr: 1.0e-5}
    lora: {r: 16, alpha: 32}  # leave it out to train all weights
"""
PPO = """\
  - kind: ppo
    model: *policy
    prm: prm
    rounds: 100
    problems_per_round: 64
    max_tokens: $longest
    tree: {where: entropy, num_roots: 4, num_points: 2, num_children: 2}
    save_every: 10
    optimizer: {lr: 1.0e-5}
    lora: {r: 16, alpha: 32}
"""
DPO = """\
  - kind: dpo
    model: *policy
    batch_size: 32
    optimizer: {lr: 2.0e-5}
    lora: {r: 16, alpha: 32}  # leave it out to train all weights
"""
END = "  - {kind: evaluate, policies: [$model, $method], problems: [test], max_tokens: $longest}\n"

# method → what it is, and its stages
METHODS = {
    "sft": ("Imitation of worked solutions", SFT + END),
    "grpo": ("GRPO from the verifier's verdicts", GRPO + END),
    "ppo": ("Step-level PPO with a process reward model", TREES + PRM + PPO + END),
    "dpo": ("DPO on siblings of one tree", TREES + DPO + END),
    "prm": ("A process reward model from Monte-Carlo labels", TREES + PRM),
}


def init(
    model: Annotated[
        str, typer.Option(prompt="model (folder or hub name)", help="folder or hub name to start from")
    ],
    data: Annotated[
        Path,
        typer.Option(prompt="file of problems", help="rows of prompt and answer, one JSON object a line"),
    ],
    method: Annotated[
        str, typer.Option(prompt="method (sft, grpo, ppo, dpo, prm)", help="sft | grpo | ppo | dpo | prm")
    ] = "grpo",
    out: Annotated[Path, typer.Argument(help="the YAML that is written")] = Path("run.yaml"),
    max_tokens: Annotated[int, typer.Option(min=1, help="longest solution")] = 512,
) -> None:
    """Write a YAML for your model and your problems; what is not given is asked for.

    Example: reasoner init my.yaml --model Qwen/Qwen2.5-0.5B-Instruct --data problems.jsonl --method grpo
    """
    text = yaml_for(model, data, method, out, max_tokens)
    if out.exists():
        raise UserError(f"got {out}, which exists; expected a new file: name another")
    out.write_text(text, encoding="utf-8")
    print(f"written {out}; next: reasoner doctor {out}, then reasoner run {out}")


def yaml_for(model: str, data: Path, method: str, out: Path, max_tokens: int) -> str:
    """The text of the YAML; UserError where method, data or model cannot be."""
    what, stages = lookup(METHODS, method, "method")
    if not data.is_file():
        raise UserError(
            f"got {data}, which is no file; expected rows of prompt and answer, one JSON object a line"
        )
    lines = data.read_text(encoding="utf-8", errors="replace").splitlines()
    if method == "sft" and lines and '"solution"' not in lines[0]:
        raise UserError(
            f'{data} has no "solution" in its first row; expected worked solutions to imitate, or take grpo'
        )
    return Template(HEAD + stages).substitute(
        what=what, out=out, title=_quoted(f"{model} on {data.name}, {method}"), chat=_has_template(model),
        model=_quoted(model), data=_quoted(str(data)), longest=max_tokens, method=method,
    )  # fmt: skip


def _has_template(model: str) -> str:
    """Whether the model's tokenizer has a chat template; "true" where that cannot be asked now."""
    from reasoner.policy.models import load_tokenizer

    try:
        return "true" if load_tokenizer(model).chat_template else "false"
    except UserError:
        if Path(model).exists():
            raise
        return "true"


def _quoted(text: str) -> str:
    """A YAML scalar that is read as just this text."""
    return json.dumps(text, ensure_ascii=False)
