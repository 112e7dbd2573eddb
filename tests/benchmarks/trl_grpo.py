"""The peer of the learning benchmark: TRL's GRPOTrainer on the same model, problems and verifier."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from reasoner.data.sources import SourceConfig, load_items
from reasoner.policy.adapters import LoRA, load_peft
from reasoner.policy.machine import autocasts
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.trainers.loop import OptimizerConfig, by_share
from tests.benchmarks.problem_kinds import Kind
from verifiers import verify

GENERATIONS = 8
MOST_ROWS = 16  # at once, of a model with an adapter: long prompts and a real vocabulary take gigabytes


def train(
    model: Path, out: Path, sources: list[dict], kind: Kind, rate: float, seed: int, budget: int, num_problems: int,
    epochs: int, minibatches: int,
) -> int:  # fmt: skip
    """Train until `budget` tokens are generated, save to `out`, and return how many were.

    The learning rate follows the tokens, by the same schedule as ours; a round is `epochs` passes
    of `minibatches` updates, as ours. What ends our chains ends these.
    """
    problems = [i.problem for s in sources for i in load_items(SourceConfig(**s))]
    tokenizer = load_tokenizer(str(model))
    template = kind.prompt["template"]
    rows = [{"prompt": template.replace("{prompt}", p.prompt), "verifier": p.verifier, "answer": p.reference} for p in problems]
    generated = 0

    def reward(
        prompts: list, completions: list, completion_ids: list, verifier: list, answer: list, **_: Any
    ) -> list:
        nonlocal generated
        generated += sum(map(len, completion_ids))
        given = [{k: v for k, v in a.items() if v is not None} for a in answer]
        checked = zip(verifier, completions, given, strict=True)
        return [float(verify(name, text, reference).status == "correct") for name, text, reference in checked]

    class Spent(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # a round's other updates are still to come after its first
            is_round = state.global_step % (epochs * minibatches) == 0
            control.should_training_stop = generated >= budget and is_round

    net = load_peft(str(model), LoRA(**kind.lora["lora"])) if kind.lora else load_model(str(model))
    ends = [tokenizer.encode(text, add_special_tokens=False) for text in kind.prompt.get("stop", [])]
    net.generation_config.eos_token_id = [tokenizer.eos_token_id, *(one for (one,) in ends)]
    options = OptimizerConfig(lr=rate)
    rows_an_update = num_problems * GENERATIONS // minibatches
    most = MOST_ROWS if kind.lora else rows_an_update
    at_once = max(n for n in range(1, most + 1) if rows_an_update % n == 0)
    accumulated = rows_an_update // at_once
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=options.betas, weight_decay=0.0)
    trainer = GRPOTrainer(
        model=net,
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(out), use_cpu=True, bf16=autocasts(), gradient_checkpointing=False, learning_rate=rate,
            per_device_train_batch_size=at_once, gradient_accumulation_steps=accumulated,
            steps_per_generation=minibatches * accumulated,
            num_iterations=epochs, num_generations=GENERATIONS, max_completion_length=kind.longest, max_steps=10**6, beta=0.0,
            temperature=kind.sampling.get("temperature", 1.0), seed=seed, save_strategy="no", report_to="none", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows).shuffle(seed=seed),
        processing_class=tokenizer,
        callbacks=[Spent()],
        optimizers=(optimizer, by_share(optimizer, options, lambda: generated / budget)),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    trainer.save_model(str(out))
    tokenizer.save_pretrained(out)
    return generated
