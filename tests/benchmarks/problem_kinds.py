"""The kinds of problems that methods are compared on: the demo's sums, long sums in which one slip decides, Countdown, and
word problems for a real chat model.

Each has problems to train on, and two ranges that are apart from these: one that everything is chosen on, and one that is
reported. All begin with a model that has imitated demonstrations for a while: a small one from nothing, or the chat model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from reasoner.config import apply_overrides
from reasoner.tree import Problem

CONFIGS = Path(__file__).parents[2] / "configs"
DEMO = yaml.safe_load((CONFIGS / "demo.yaml").read_text(encoding="utf-8"))
SHORT: Mapping[str, Any] = MappingProxyType({"template": "{prompt}=\n"})
NOTHING: Mapping[str, Any] = MappingProxyType({})
MUON = {"name": "muon", "lr": 0.005, "weight_decay": 0.01}


class Kind(NamedTuple):
    """A kind of problems with a model that begins to solve them.

    problems: from a folder that may be written to, the sources of `demonstrations`, `train`, `test` and `development`;
    start: stages that end with the model that all begin with, called sft; longest: tokens of a chain; round_tokens: of an
    on-policy round at the start; budget: generated tokens of a run; rate: the middle of the grid of learning rates, as a
    multiple of that of the sums; limit_s: CPU seconds of a run; prompt and precision: of every run; sampling: of whatever
    draws; lora: of all that is trained; tokens_per_batch: of reinforcement.
    """

    problems: Callable[[Path], dict[str, list[dict]]]
    start: tuple[dict[str, Any], ...]
    domains: tuple[str, ...]
    longest: int
    round_tokens: int
    budget: int
    rate: float
    limit_s: int = 600
    prompt: Mapping[str, Any] = SHORT
    precision: Mapping[str, Any] = NOTHING
    sampling: Mapping[str, Any] = NOTHING
    lora: Mapping[str, Any] = NOTHING
    tokens_per_batch: Mapping[str, Any] = NOTHING


def sums(folder: Path) -> dict[str, list[dict]]:
    """The demo's problems, fewer of them to test on."""
    test = DEMO["problems"]["test"]
    return {
        **DEMO["problems"],
        "test": [{**rows, "size": 500} for rows in test],
        "development": [
            {**rows, "start": start, "size": 250}
            for rows, start in zip(test, (50_000_000, 60_000_000), strict=True)
        ],
    }


STEPS = 16
LETTERS = "abcdefghijklmnopqrstuvwxyz"[:STEPS]


def long_sum(number: int) -> tuple[Problem, str]:
    """The sum of a two-digit number and 15 digits modulo 100 with its working: one addition a line, then the result."""
    rng = random.Random(f"sum {number}")
    total, terms = rng.randrange(100), [rng.randrange(10) for _ in LETTERS[1:]]
    prompt = "".join(f"{letter}{value}" for letter, value in zip(LETTERS, [total, *terms], strict=True))
    lines = []
    for letter, term in zip(LETTERS[1:], terms, strict=True):
        lines.append(f"{letter}{total}+{term}={(total + term) % 100}")
        total = (total + term) % 100
    return Problem(f"sum/{number}", prompt, "math", {"answer": str(total)}), "\n".join(
        [*lines, f"#### {total}"]
    )


NUMBERS, LARGEST = 3, 20
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
}  # fmt: skip


def countdown(number: int) -> tuple[Problem, str]:
    """Three numbers and one below 100 to make of them all, with one way of doing so: a calculation a line, then the whole.

    There are other ways, and the verifier takes any of them.
    """
    rng = random.Random(f"countdown {number}")
    while True:
        numbers = [rng.randint(1, LARGEST) for _ in range(NUMBERS)]
        left, lines = [(n, str(n)) for n in numbers], []
        while len(left) > 1:
            rng.shuffle(left)
            (a, first), (b, second) = left.pop(), left.pop()
            sign = rng.choice(list(OPERATIONS))
            value = OPERATIONS[sign](a, b)
            lines.append(f"{a}{sign}{b}={value}")
            left.append((value, f"({first}{sign}{second})"))
        if all(int(line.partition("=")[2]) in range(1, 100) for line in lines):
            break
    ((target, whole),) = left
    reference = {"puzzle": "countdown", "numbers": numbers, "target": target}
    prompt = f"{' '.join(map(str, numbers))} make {target}"
    return Problem(f"countdown/{number}", prompt, "logic", reference), "\n".join(
        [*lines, f"#### {whole[1:-1]}"]
    )


def written(
    made: Callable[[int], tuple[Problem, str]], demonstrations: int
) -> Callable[[Path], dict[str, list[dict]]]:
    """The problems of a generator as files of a folder; ranges of numbers are apart, and prompts met before are left out."""
    ranges = {
        "demonstrations": range(demonstrations),
        "train": range(1_000_000, 1_016_000),
        "development": range(2_000_000, 2_000_300),
        "test": range(3_000_000, 3_000_500),
    }

    def problems(folder: Path) -> dict[str, list[dict]]:
        folder.mkdir(parents=True, exist_ok=True)
        known: set[str] = set()
        found = {}
        # what is tested on comes first: what is trained on gives way
        for name in ("test", "development", "train", "demonstrations"):
            rows = []
            for problem, solution in map(made, ranges[name]):
                if problem.prompt not in known:
                    known.add(problem.prompt)
                    row = {"id": problem.id, "prompt": problem.prompt, "verifier": problem.verifier,
                           "reference": problem.reference}  # fmt: skip
                    rows.append(row | ({"solution": solution} if name == "demonstrations" else {}))
            file = folder / f"{name}.jsonl"
            if not file.is_file():
                file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            found[name] = [{"name": "jsonl", "path": str(file), "size": len(rows)}]
        return found

    return problems


SMALL = {
    "hidden_size": 64, "num_layers": 3, "num_heads": 2, "num_key_value_heads": 1, "intermediate_size": 224,
    "initializer_range": 0.12,
}  # fmt: skip



def words(changes: Sequence[str] = ()) -> Kind:
    """Word problems as `configs/smollm2/grpo.yaml` asks them, and a chat model with LoRA that has imitated a few worked ones,
    since untouched it is right too seldom to learn from a small budget. `changes` to that file, key=value, say where
    model and problems lie."""
    raw = yaml.safe_load((CONFIGS / "smollm2" / "grpo.yaml").read_text(encoding="utf-8"))
    raw = apply_overrides(raw, changes)
    stage, problems = raw["stages"][0], raw["problems"]
    found = {
        "demonstrations": problems["worked"], "train": problems["train"], "development": problems["dev"],
        "test": problems["test"],
    }  # fmt: skip
    lora = {"lora": stage["lora"]}
    imitate = {
        "kind": "sft", "model": stage["model"], "batch_size": 16, "max_steps": 20,
        "optimizer": {"lr": 5e-4}, **lora,
    }  # fmt: skip
    return Kind(
        lambda _: dict(found), (imitate,), (), stage["max_tokens"], 3_000, 24_000, 1.0, limit_s=3600,
        prompt=raw["prompt"], precision=raw.get("precision", NOTHING), sampling={"temperature": stage["temperature"]},
        lora=lora, tokens_per_batch={"tokens_per_batch": stage["tokens_per_batch"]},
    )  # fmt: skip


KINDS = {
    "sums": Kind(
        sums, ({"kind": "init"}, next(s for s in DEMO["stages"] if s["kind"] == "sft")), ("short", "longer"), 80, 4_000,
        120_000, 1.0,
    ),
    "long_sums": Kind(
        written(long_sum, 12_800),
        ({"kind": "init", **SMALL},
         {"kind": "sft", "model": "base", "batch_size": 32, "max_steps": 300, "optimizer": MUON}),
        (), 12 * STEPS, 8_000, 240_000, 0.25,
    ),
    "countdown": Kind(
        written(countdown, 6_000),
        ({"kind": "init"}, {"kind": "sft", "model": "base", "batch_size": 64, "max_steps": 800, "optimizer": MUON}),
        (), 60, 4_000, 120_000, 1.0,
    ),
    "words": words(),
}  # fmt: skip
