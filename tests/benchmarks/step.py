"""A whole on-policy step against TRL's GRPOTrainer: same model, prompts, number and lengths of generations.

    python -m tests.benchmarks.step [vs_trl_grpo_uniform] [vs_trl_grpo] [--pairs 5 --width 128 --layers 4]

16 prompts × 8 completions. A Phi-shaped random model has a bias in its output layer, which sets the chance
of the end of text at each token: none for `vs_trl_grpo_uniform` (all completions 64 tokens long), 1/64 with a
cap of 256 for `vs_trl_grpo`. Both sides reward by the same function of the text, in this process; ours also
writes its checkpoint. Runs of ours and TRL's alternate, the first step of each is left out, medians count.
Prints one JSON line per comparison, in completions a second.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.ledger import Ledger
from reasoner.policy.models import load_model, load_tokenizer, save, train_tokenizer
from reasoner.search.branch import BranchConfig
from reasoner.signals.advantages import AdvantageConfig
from reasoner.trainers.loop import OptimizerConfig, Session
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_gradient import train_policy
from reasoner.tree import Problem
from verifiers import Verdict

NUM_PROMPTS, NUM_GENERATIONS, STEPS = 16, 8, 3
# chance of the end of text at each token, most tokens, target
COMPARISONS = {"vs_trl_grpo_uniform": (0.0, 64, 1.2), "vs_trl_grpo": (1 / 64, 256, 2.5)}
PROMPTS = [f"Question {i:02d}: {i} + {i} = ?\n" for i in range(NUM_PROMPTS)]


def judge(response: str) -> Verdict:
    """A verifier that costs nothing: an even number of characters is correct."""
    return Verdict("correct", "ok") if len(response) % 2 == 0 else Verdict("incorrect", "wrong")


judge.quick = judge  # settled in this process


def reward(completions: list[str], **_) -> list[float]:
    """The same for TRL."""
    return [float(len(c) % 2 == 0) for c in completions]


def make_model(folder: Path, width: int, layers: int, end_probability: float) -> None:
    tokenizer = train_tokenizer(PROMPTS, 320)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "phi", vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 32, max_position_embeddings=512, tie_word_embeddings=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attention_dropout=0.0,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    others = config.vocab_size - 1
    with torch.no_grad():
        model.lm_head.weight.mul_(0.01)
        model.lm_head.bias.zero_()
        model.lm_head.bias[config.eos_token_id] = (
            math.log(others * end_probability / (1 - end_probability)) if end_probability else -100.0
        )
    save(model, tokenizer, folder)


def ours(model: Path, max_tokens: int) -> list[float]:
    """Seconds of each step of `train_policy` but the first."""
    prompting = Prompting(load_tokenizer(str(model)), PromptConfig())
    problems = [Problem(str(i), p, f"{__spec__.name}:judge", {}) for i, p in enumerate(PROMPTS)]
    config = PolicyGradientStage(
        rounds=STEPS, problems_per_round=NUM_PROMPTS, max_tokens=max_tokens, minibatches=1, drop_uniform=False,
        tree=BranchConfig(num_roots=NUM_GENERATIONS, num_rounds=0), advantage=AdvantageConfig(method="grpo"),
        whiten=False, num_slots=NUM_PROMPTS * NUM_GENERATIONS,
        optimizer=OptimizerConfig(lr=1e-6, schedule="constant", warmup=0.0),
    )  # fmt: skip
    ends: list[float] = []
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as out, ledger.stage("ppo"):
        session = Session(
            Path(out), ledger, progress=lambda done, total, note: ends.append(time.perf_counter())
        )
        train_policy(str(model), prompting, problems, config, session)
    return [b - a for a, b in pairwise(ends)]


class Clock(TrainerCallback):
    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


def trl_grpo(model: Path, max_tokens: int) -> list[float]:
    """Seconds of each step of TRL's trainer but the first; generation for all 128 completions in one batch."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        args = GRPOConfig(
            output_dir=out, use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False,
            per_device_train_batch_size=NUM_PROMPTS * NUM_GENERATIONS, num_generations=NUM_GENERATIONS,
            max_completion_length=max_tokens, max_steps=STEPS, learning_rate=1e-6, lr_scheduler_type="constant",
            beta=0.0, report_to="none", save_strategy="no", disable_tqdm=True, logging_strategy="no",
            dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=load_model(str(model)), reward_funcs=reward, args=args, callbacks=[clock],
            train_dataset=Dataset.from_dict({"prompt": PROMPTS}), processing_class=load_tokenizer(str(model)),
        )  # fmt: skip
        trainer.train()
    return [b - a for a, b in pairwise(clock.ends)]


def compare(name: str, model: Path, max_tokens: int, target: float, pairs: int) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        times[0].extend(ours(model, max_tokens))
        times[1].extend(trl_grpo(model, max_tokens))
    rates = [NUM_PROMPTS * NUM_GENERATIONS / statistics.median(t) for t in times]
    print(json.dumps({
        "name": name, "ours": round(rates[0], 1), "peer": round(rates[1], 1), "peer_name": "TRL GRPOTrainer",
        "unit": "samples/s", "ratio": round(rates[0] / rates[1], 2), "target": target, "pairs": pairs,
    }), flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", choices=[*COMPARISONS, []], help="which comparisons; all by default"
    )
    for name, default in {"pairs": 5, "width": 128, "layers": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.names or COMPARISONS:
            end, cap, target = COMPARISONS[name]
            make_model(Path(scratch) / name, args.width, args.layers, end)
            compare(name, Path(scratch) / name, cap, target, args.pairs)


if __name__ == "__main__":
    main()
