"""Supervised fine-tuning on chains of thought, by TRL's SFTTrainer, fed the token ids as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Self

import torch
from datasets import Dataset
from pydantic import Field, model_validator
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

from reasoner.config import Config, MayChange
from reasoner.interrupt import deferring
from reasoner.policy.adapters import LoRA, load_trainable, save_trained
from reasoner.policy.models import load_tokenizer, num_positions
from reasoner.policy.shard import Sharding
from reasoner.records import SFTExample
from reasoner.registry import UserError
from reasoner.signals.two_tasks import TwoTasks
from reasoner.trainers.cut_loop import imitate_cut
from reasoner.trainers.loop import OptimizerConfig, Session, by_share, by_steps, make_optimizer
from reasoner.trainers.trl_checkpoints import GoesOn, Saves
from reasoner.trainers.trl_settings import FromRows, PairedRows, RankRows, trl_arguments, trl_config


class SFTStage(Config):
    """Imitate demonstrations. What `trl` holds is passed to trl.SFTConfig."""

    optimizer: OptimizerConfig = OptimizerConfig()
    batch_size: int = Field(32, ge=1, description="sequences per update, over all processes")
    epochs: float = Field(1.0, gt=0, description="passes over the demonstrations")
    max_steps: int | None = Field(None, description="updates in all, instead of epochs")
    max_seconds: float | None = Field(
        None, description="wall seconds, instead of epochs; the schedule runs over them"
    )
    save_every: Annotated[int, MayChange()] = Field(
        default=100, ge=1, description="updates between checkpoints, from which a killed run goes on"
    )
    lora: LoRA | None = Field(None, description="train a LoRA adapter instead of all weights")
    shard: Sharding | None = Field(
        None,
        description="cut weights, gradients and optimizer states over all processes (FSDP), by a loop of our own",
    )
    two_tasks: TwoTasks | None = Field(
        None,
        description="learn answers and chains as two tasks, each with a prefix of its own, e.g. {} (Distilling step-by-step)",
    )
    trl: dict[str, Any] = Field(default_factory=dict, description="further options of trl.SFTConfig")

    @model_validator(mode="after")
    def _pairs_stay_pairs(self) -> Self:
        others = [name for name in ("packing", "padding_free") if self.trl.get(name)]
        others += ["shard"] if self.shard is not None else []
        if self.two_tasks is not None and others:
            raise ValueError(
                f"got two_tasks with {', '.join(others)}; expected rows of their own on whole weights: leave it out"
            )
        return self


@deferring()
def train_sft(model_path: str, examples: list[SFTExample], config: SFTStage, session: Session) -> None:
    """Train and save to `session.out`; prompts carry no loss. An empty list of examples is a UserError.

    With `config.two_tasks` the examples are those of one task and then, in the same order, those of the other.
    """
    if not examples:
        raise UserError("no demonstrations to imitate; expected at least one, check the problem source")
    tasks = 1 if config.two_tasks is None else 2
    examples = _that_fit(model_path, examples, session, tasks)
    lengths = [len(e.prompt_ids) + len(e.completion_ids) for e in examples]
    rows_of = RankRows if tasks == 1 else PairedRows
    rows = rows_of(lengths, config.batch_size, session.seed, by_length=True)
    steps = config.max_steps or max(1, round(config.epochs * len(rows)))
    torch.manual_seed(session.seed)  # a new adapter is random
    if config.shard is not None:
        imitate_cut(model_path, examples, config, rows, steps, session)
        return
    tokenizer = load_tokenizer(model_path)
    whole = load_trainable(model_path, config.lora)
    dataset = Dataset.from_dict(
        {
            "input_ids": [e.prompt_ids + e.completion_ids for e in examples],
            "completion_mask": [
                [0] * len(e.prompt_ids) + (e.mask or [1] * len(e.completion_ids)) for e in examples
            ],
        }
    )
    limit = steps if config.max_seconds is None else 10**9
    machine, chosen = trl_arguments(session, rows, limit, config.optimizer)
    ours: dict[str, Any] = {
        "completion_only_loss": True,  # else the mask is ignored and prompts are learned too
        "logging_steps": 10,
    }
    optimizer = make_optimizer(whole, config.optimizer)
    saves = Saves(session, config, config.save_every, examples)
    if config.max_seconds is not None:
        seconds = config.max_seconds
        schedule = by_share(optimizer, config.optimizer, lambda: saves.seconds() / seconds)
    else:
        schedule = by_steps(optimizer, config.optimizer, steps)
    trainer = (_SFT if config.two_tasks is None else _TwoTasks)(
        model=whole,
        args=trl_config(SFTConfig, machine | chosen | ours, config.trl),
        train_dataset=dataset,
        processing_class=tokenizer,
        optimizers=(optimizer, schedule),
        callbacks=[_Report(session, config.max_seconds, saves.seconds)],
    )
    trainer.rows, trainer.saves, trainer.two_tasks = rows, saves, config.two_tasks
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.go_on()
    session.ledger.add("policy", trained=rows.tokens)
    if trainer.is_world_process_zero():
        save_trained(trainer.accelerator.unwrap_model(trainer.model), tokenizer, session.out / "model")


def _that_fit(
    model_path: str, examples: list[SFTExample], session: Session, tasks: int = 1
) -> list[SFTExample]:
    """The demonstrations within the model's positions; those beyond are counted, none at all within is a UserError.

    Of several tasks a demonstration is kept where it fits in each of them.
    """
    room, num = num_positions(model_path), len(examples) // tasks
    fits = [room is None or len(e.prompt_ids) + len(e.completion_ids) <= room for e in examples]
    kept = [e for i, e in enumerate(examples) if all(fits[i % num :: num])]
    if not kept:
        raise UserError(
            f"all {len(examples)} demonstrations are longer than the {room} positions of {model_path}; expected shorter "
            "ones, or a model with more room"
        )
    if len(kept) < len(examples):
        session.log({"sft/too_long": len(examples) - len(kept)}, 0)
    return kept


class _SFT(GoesOn, FromRows, SFTTrainer):
    """TRL's trainer on our order of the rows."""

    two_tasks: TwoTasks | None = None


class _TwoTasks(_SFT):
    """Its loss is that of the first half of a batch's rows, and that of the second times its weight, each a mean over tokens."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        assert self.two_tasks is not None
        counts_B = (inputs["labels"] != -100).sum(-1)
        counts_2: Any = self.accelerator.reduce(counts_B.view(2, -1).sum(-1), "sum")
        counts_2 = counts_2.clamp(min=1)
        # TRL's sum over tokens is divided by what stands for their number, and counted once per process
        shares_2 = counts_2.new_tensor([1.0, self.two_tasks.rationale_weight], dtype=torch.float32) / counts_2
        shares_B1 = shares_2.repeat_interleave(len(counts_B) // 2)[:, None]
        if not self.args.average_tokens_across_devices:
            shares_B1 = shares_B1 * self.accelerator.num_processes

        def weighted(**given: Any) -> Any:
            outputs = model(**given)
            if getattr(outputs, "log_probs", None) is not None:
                outputs.log_probs = outputs.log_probs * shares_B1
            return outputs

        steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
        called: Any = weighted
        return super().compute_loss(called, inputs, return_outputs, num_items_in_batch=steps)


class _Report(TrainerCallback):
    """Passes TRL's log lines on, moves the progress bar, and ends a run that was given seconds, on all processes at once."""

    def __init__(self, session: Session, max_seconds: float | None, clock: Callable[[], float]):
        self.session, self.max_seconds, self.clock = session, max_seconds, clock

    def on_step_end(self, args, state, control, **kwargs):
        if self.max_seconds is None:
            self.session.progress(state.global_step, state.max_steps, "")
        else:
            elapsed = self.clock()
            self.session.progress(int(elapsed), int(self.max_seconds), "seconds")
            control.should_training_stop = elapsed >= self.max_seconds

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs and state.is_world_process_zero:
            keep = {
                k: float(logs[k])
                for k in ("loss", "grad_norm", "learning_rate", "mean_token_accuracy")
                if k in logs
            }
            self.session.log({f"sft/{k}": v for k, v in keep.items()}, state.global_step)
