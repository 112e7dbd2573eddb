"""The peer of the learning benchmark: TRL's GRPOTrainer on the same model, problems and verifier."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from reasoner.data.sources import SourceConfig, load_items
from reasoner.policy.models import load_model, load_tokenizer
from verifiers import verify

GENERATIONS = 8


def train(
    model: Path, out: Path, sources: list[dict], rate: float, seed: int, rounds: int, num_problems: int,
    max_tokens: int,
) -> int:  # fmt: skip
    """Train, save to `out`, and return the generated tokens."""
    problems = [i.problem for s in sources for i in load_items(SourceConfig(**s))]
    tokenizer = load_tokenizer(str(model))
    rows = [{"prompt": f"{p.prompt}=\n", "verifier": p.verifier, "answer": p.reference} for p in problems]
    generated = 0

    def reward(
        prompts: list, completions: list, completion_ids: list, verifier: list, answer: list, **_: Any
    ) -> list:
        nonlocal generated
        generated += sum(map(len, completion_ids))
        given = [{k: v for k, v in a.items() if v is not None} for a in answer]
        checked = zip(verifier, completions, given, strict=True)
        return [float(verify(name, text, reference).status == "correct") for name, text, reference in checked]

    trainer = GRPOTrainer(
        model=load_model(str(model)),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(out), use_cpu=True, bf16=False, gradient_checkpointing=False, learning_rate=rate,
            per_device_train_batch_size=num_problems * GENERATIONS // 2, steps_per_generation=2,
            num_generations=GENERATIONS, max_completion_length=max_tokens, max_steps=2 * rounds, beta=0.0,
            temperature=1.0, seed=seed, save_strategy="no", report_to="none", disable_tqdm=True,
            adam_beta2=0.98, warmup_steps=max(1, rounds // 16), lr_scheduler_type="cosine",
        ),
        train_dataset=Dataset.from_list(rows).shuffle(seed=seed),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    trainer.save_model(str(out))
    tokenizer.save_pretrained(out)
    return generated
