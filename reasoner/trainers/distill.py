"""On-policy distillation (Agarwal et al. 2024) by TRL's DistillationTrainer: a student writes, and learns at each of its
tokens what a teacher would have written there; fed the prompts' token ids as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import torch
from datasets import Dataset
from pydantic import Field
from transformers import PrinterCallback, ProgressCallback
from trl import DistillationConfig, DistillationTrainer  # pyright: ignore[reportPrivateImportUsage]

from reasoner.config import Config, MayChange
from reasoner.data.prompting import Prompting
from reasoner.interrupt import deferring
from reasoner.ledger import Ledger
from reasoner.policy.adapters import LoRA, load_merged, load_trainable, save_trained
from reasoner.registry import UserError
from reasoner.trainers.loop import OptimizerConfig, Session, by_steps, make_optimizer
from reasoner.trainers.trl_checkpoints import GoesOn, Saves
from reasoner.trainers.trl_settings import FromRows, RankRows, Report, trl_arguments, trl_config

REPORTED = ("loss", "grad_norm", "entropy", "completions/mean_length", "completions/clipped_ratio")


class DistillStage(Config):
    """Learn a teacher's distribution on what the student writes. What `trl` holds is passed to trl.DistillationConfig."""

    optimizer: OptimizerConfig = OptimizerConfig()
    beta: float = Field(
        1.0,
        ge=0,
        le=1,
        description="1: reverse KL, 0: forward KL, between: generalised Jensen-Shannon divergence",
    )
    batch_size: int = Field(32, ge=1, description="problems per update, over all processes")
    epochs: float = Field(1.0, gt=0, description="passes over the problems")
    max_steps: int | None = Field(None, description="updates in all, instead of epochs")
    max_tokens: int = Field(256, ge=1, description="longest completion of the student")
    temperature: float = Field(1.0, gt=0, description="of the student's samples, and of both distributions")
    save_every: Annotated[int, MayChange()] = Field(
        default=100, ge=1, description="updates between checkpoints, from which a killed run goes on"
    )
    lora: LoRA | None = Field(None, description="train a LoRA adapter instead of all weights")
    trl: dict[str, Any] = Field(default_factory=dict, description="further options of trl.DistillationConfig")


class Written(NamedTuple):
    """A policy by its folder and how it is prompted."""

    path: str
    prompting: Prompting


@deferring()
def train_distill(
    student: Written, teacher: Written, prompts: Sequence[str], config: DistillStage, session: Session
) -> None:
    """Train the student and save it to `session.out`/model; a teacher with another vocabulary is a UserError."""
    _check_vocabularies(student, teacher)
    if config.trl.get("gradient_accumulation_steps", 1) != 1:
        raise UserError(
            "trl: gradient_accumulation_steps is not taken here, since each update draws its own completions; expected 1: "
            "lower batch_size instead"
        )
    prompt_ids = [student.prompting.prompt_ids(p) for p in prompts]
    rows = RankRows([len(ids) for ids in prompt_ids], config.batch_size, session.seed)
    steps = config.max_steps or max(1, round(config.epochs * len(rows)))
    torch.manual_seed(session.seed)  # a new adapter is random
    whole = load_trainable(student.path, config.lora)
    machine, chosen = trl_arguments(session, rows, steps, config.optimizer)
    del chosen["max_length"]  # no option of this one
    ours: dict[str, Any] = {
        "beta": config.beta,
        "temperature": config.temperature,
        "max_completion_length": config.max_tokens,
    }
    optimizer = make_optimizer(whole, config.optimizer)
    trainer = _AsPrompted(
        model=whole,
        teacher_model=load_merged(teacher.path, torch.float32),
        args=trl_config(DistillationConfig, machine | chosen | ours, config.trl),
        train_dataset=Dataset.from_dict({"prompt": prompt_ids}),
        processing_class=student.prompting.tokenizer,
        optimizers=(optimizer, by_steps(optimizer, config.optimizer, steps)),
        callbacks=[Report(session, "distill", REPORTED)],
    )
    trainer.eos_token_ids = trainer.generation_config.eos_token_id = student.prompting.eos_ids
    trainer.rows, trainer.saves = rows, Saves(session, config, config.save_every, prompts)
    trainer.ledger = session.ledger
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.go_on()
    if trainer.is_world_process_zero():
        save_trained(
            trainer.accelerator.unwrap_model(trainer.model),
            student.prompting.tokenizer,
            session.out / "model",
        )


def _check_vocabularies(student: Written, teacher: Written) -> None:
    one, other = (w.prompting.tokenizer.get_vocab() for w in (student, teacher))
    if one != other:
        differing = next((t for t in sorted({*one, *other}) if one.get(t) != other.get(t)), "")
        raise UserError(
            f"the teacher {teacher.path} has another vocabulary ({len(other)} tokens) than the student {student.path} "
            f"({len(one)}; {differing!r} differs), so their distributions cannot be compared; expected a teacher with the "
            "same tokenizer, or imitate its verified traces (sft with traces)"
        )


class _AsPrompted(GoesOn, FromRows, DistillationTrainer):
    """Takes prompts by their token ids, on our order of the rows, and counts what both models compute."""

    ledger: Ledger

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}

    def _generate(self, prompts: list[list[int]]) -> Any:
        found = super()._generate(prompts)
        given, written = (sum(map(len, ids)) for ids in found[:2])
        self.ledger.add("policy", prefilled=given, decoded=written, trained=given + written)
        self.ledger.add("teacher", scored=given + written)
        return found
