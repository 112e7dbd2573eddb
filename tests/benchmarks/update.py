"""What a step of training costs beside drawing, on a real model, against TRL's GRPOTrainer.

    python -m tests.benchmarks.update MODEL_FOLDER [--prompts 8 --samples 4 --max-tokens 32 --pairs 3]

Both sides train the same LoRA adapter by GRPO on the same prompts, as many samples of the same length: no text ends by
itself. What counts is the time of a whole step (its advantages, packing and checks too) without that of drawing: ours
without what the engine takes, TRL's without its `_generate`. Runs alternate, the first step of each is left out,
medians count. Prints one JSON line, in tokens of prompts and samples a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.engine.local import LocalEngine
from reasoner.ledger import Ledger
from reasoner.policy.adapters import LoRA
from reasoner.policy.models import load_model, load_tokenizer, save
from reasoner.search.branch import BranchConfig
from reasoner.signals.advantages import AdvantageConfig
from reasoner.trainers.loop import OptimizerConfig, Session
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_gradient import train_policy
from reasoner.tree import Problem
from tests.benchmarks.engine import questions
from tests.benchmarks.measure import row
from tests.benchmarks.step import Clock, judge, reward

RANK, STEPS = 16, 3


def endless(folder: str, out: Path) -> None:
    """The model with an end of text that it never writes."""
    model, tokenizer = load_model(folder, "float32"), load_tokenizer(folder)
    tokenizer.eos_token = tokenizer.all_special_tokens[-1]
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
    save(model, tokenizer, out)


@contextmanager
def timed(owner: type, name: str) -> Iterator[list[float]]:
    """Seconds of each call of a method, while this is open."""
    plain: Callable[..., Any] = getattr(owner, name)
    spans: list[float] = []

    def call(*args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return plain(*args, **options)
        finally:
            spans.append(time.perf_counter() - started)

    setattr(owner, name, call)
    try:
        yield spans
    finally:
        setattr(owner, name, plain)


def without(ends: list[float], drawn: list[float]) -> list[float]:
    """Seconds of each step but the first, without those of drawing; both are running totals at the ends of steps."""
    steps = zip(pairwise(ends), pairwise(drawn), strict=True)
    return [b - a - (d - c) for (a, b), (c, d) in steps]


def ours(model: Path, args: argparse.Namespace) -> list[float]:
    prompting = Prompting(load_tokenizer(str(model)), PromptConfig())
    problems = [
        Problem(str(i), q, f"{judge.__module__}:judge", {}) for i, q in enumerate(questions(args.prompts))
    ]
    config = PolicyGradientStage(
        rounds=STEPS, problems_per_round=args.prompts, max_tokens=args.max_tokens, minibatches=1, drop_uniform=False,
        tree=BranchConfig(num_roots=args.samples, num_rounds=0), advantage=AdvantageConfig(method="grpo"),
        whiten=False, num_slots=args.prompts * args.samples, lora=LoRA(r=RANK, alpha=2 * RANK), tokens_per_batch=2048,
        optimizer=OptimizerConfig(lr=1e-6, schedule="constant", warmup=0.0),
    )  # fmt: skip
    ends: list[float] = []
    drawn: list[float] = []
    ledger = Ledger()
    with (
        tempfile.TemporaryDirectory() as out,
        ledger.stage("ppo"),
        timed(LocalEngine, "poll") as polls,
    ):

        def at_end(done: int, total: int, note: str) -> None:
            ends.append(time.perf_counter())
            drawn.append(sum(polls))

        train_policy(str(model), prompting, problems, config, Session(Path(out), ledger, progress=at_end))
    return without(ends, drawn)


def trl_grpo(model: Path, args: argparse.Namespace) -> list[float]:
    drawn: list[float] = []

    class Steps(Clock):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(time.perf_counter())
            drawn.append(sum(generated))

    clock = Steps()
    micro = max(1, 2048 // (args.max_tokens + 40))
    batch = args.prompts * args.samples
    while batch % micro:
        micro -= 1
    with tempfile.TemporaryDirectory() as out, timed(GRPOTrainer, "_generate") as generated:
        trainer = GRPOTrainer(
            model=load_model(str(model)), reward_funcs=reward, callbacks=[clock],
            args=GRPOConfig(
                output_dir=out, use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False,
                per_device_train_batch_size=micro, gradient_accumulation_steps=batch // micro,
                num_generations=args.samples, max_completion_length=args.max_tokens, max_steps=STEPS,
                learning_rate=1e-6, lr_scheduler_type="constant", beta=0.0, report_to="none", save_strategy="no",
                disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_dict({"prompt": questions(args.prompts)}),
            processing_class=load_tokenizer(str(model)),
            peft_config=LoraConfig(
                r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )  # fmt: skip
        trainer.train()
    return without(clock.ends, drawn)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a causal LM with its tokenizer")
    for name, default in {"prompts": 8, "samples": 4, "max-tokens": 32, "pairs": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    times: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        endless(args.model, model)
        prompting = Prompting(load_tokenizer(str(model)), PromptConfig())
        tokens = args.samples * sum(
            len(prompting.prompt_ids(q)) + args.max_tokens for q in questions(args.prompts)
        )
        for _ in range(args.pairs):
            times[0].extend(ours(model, args))
            times[1].extend(trl_grpo(model, args))
    rates = [tokens / statistics.median(t) for t in times]
    print(json.dumps(row("update_vs_trl_grpo", *rates, "TRL GRPOTrainer", "tokens/s", 1, pairs=args.pairs)))


if __name__ == "__main__":
    main()
