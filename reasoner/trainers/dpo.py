"""Direct preference optimisation on sibling continuations, by TRL's DPOTrainer, fed the sampled token ids."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from datasets import Dataset
from pydantic import Field
from transformers import PrinterCallback, ProgressCallback
from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportPrivateImportUsage]

from reasoner.config import Config, MayChange
from reasoner.interrupt import deferring
from reasoner.policy.adapters import LoRA, is_adapter, load_merged, load_trainable, save_trained
from reasoner.policy.models import load_tokenizer
from reasoner.policy.shard import Sharding
from reasoner.records import PreferencePair
from reasoner.registry import UserError
from reasoner.trainers.cut_loop import prefer_cut
from reasoner.trainers.loop import OptimizerConfig, Session, by_steps, make_optimizer
from reasoner.trainers.trl_checkpoints import GoesOn, Saves
from reasoner.trainers.trl_settings import FromRows, RankRows, Report, trl_arguments, trl_config

REPORTED = ("loss", "grad_norm", "rewards/accuracies", "rewards/margins")


class DPOStage(Config):
    """Prefer the right sibling over the wrong one. What `trl` holds is passed to trl.DPOConfig."""

    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-6)
    loss: Literal["sigmoid", "ipo"] = Field(
        "sigmoid",
        description="sigmoid: DPO (Rafailov et al. 2023); ipo: squared distance to 1 / (2 beta) (Azar et al. 2023)",
    )
    beta: float = Field(0.1, gt=0, description="strength of the tie to the policy at the start")
    batch_size: int = Field(32, ge=1, description="pairs per update, over all processes")
    epochs: float = Field(1.0, gt=0, description="passes over the pairs")
    save_every: Annotated[int, MayChange()] = Field(
        default=100, ge=1, description="updates between checkpoints, from which a killed run goes on"
    )
    lora: LoRA | None = Field(None, description="train a LoRA adapter instead of all weights")
    shard: Sharding | None = Field(
        None,
        description="cut weights, gradients and optimizer states over all processes (FSDP), by a loop of our own",
    )
    trl: dict[str, Any] = Field(default_factory=dict, description="further options of trl.DPOConfig")


class _AsSampled(GoesOn, FromRows, DPOTrainer):
    """Takes prompt_ids, chosen_ids and rejected_ids as they are: no text, no tokenizer, no end of text added."""

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        return dataset


@deferring()
def train_dpo(model_path: str, pairs: list[PreferencePair], config: DPOStage, session: Session) -> None:
    """Train and save to `session.out`/model. No pairs at all is a UserError."""
    if not pairs:
        raise UserError(
            "no preference pairs; expected siblings of which one is right and one wrong: roll out more problems"
        )
    rows = RankRows([len(p.chosen_ids) + len(p.rejected_ids) for p in pairs], config.batch_size, session.seed)
    steps = max(1, round(config.epochs * len(rows)))
    torch.manual_seed(session.seed)  # a new adapter is random
    if config.shard is not None:
        prefer_cut(model_path, pairs, config, rows, steps, session)
        return
    tokenizer = load_tokenizer(model_path)
    whole = load_trainable(model_path, config.lora)
    # with an adapter TRL keeps a frozen copy of it as the reference, on the same base
    reference = None if config.lora or is_adapter(model_path) else load_merged(model_path, torch.float32)
    dataset = Dataset.from_dict(
        {name: [getattr(p, name) for p in pairs] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
    )
    machine, chosen = trl_arguments(session, rows, steps, config.optimizer)
    ours: dict[str, Any] = {"loss_type": [config.loss], "beta": config.beta}
    optimizer = make_optimizer(whole, config.optimizer)
    trainer = _AsSampled(
        model=whole,
        ref_model=reference,
        args=trl_config(DPOConfig, machine | chosen | ours, config.trl),
        train_dataset=dataset,
        processing_class=tokenizer,
        optimizers=(optimizer, by_steps(optimizer, config.optimizer, steps)),
        callbacks=[Report(session, "dpo", REPORTED)],
    )
    trainer.rows, trainer.saves = rows, Saves(session, config, config.save_every, pairs)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.go_on()
    session.ledger.add("policy", trained=rows.tokens)
    if trainer.is_world_process_zero():
        save_trained(trainer.accelerator.unwrap_model(trainer.model), tokenizer, session.out / "model")
