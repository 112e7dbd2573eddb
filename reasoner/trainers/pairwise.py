"""An outcome reward model from preference pairs, by TRL's RewardTrainer, fed the sampled token ids.

Shape suffixes: B rows (the chosen ones, then the rejected), T padded positions, D width.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from datasets import Dataset
from pydantic import Field
from transformers import PrinterCallback, ProgressCallback
from transformers.modeling_outputs import SequenceClassifierOutput
from trl import RewardConfig, RewardTrainer  # pyright: ignore[reportPrivateImportUsage]

from reasoner.config import Config, MayChange
from reasoner.interrupt import deferring
from reasoner.policy.adapters import LoRA, load_for_head
from reasoner.policy.heads import ScoreNet, train_what_is_read
from reasoner.policy.models import load_tokenizer
from reasoner.records import PreferencePair
from reasoner.registry import UserError
from reasoner.trainers.loop import OptimizerConfig, Session, by_steps, make_optimizer
from reasoner.trainers.trl_checkpoints import GoesOn, Saves
from reasoner.trainers.trl_settings import FromRows, RankRows, Report, trl_arguments, trl_config

REPORTED = ("loss", "grad_norm", "accuracy", "margin")


class PairwiseStage(Config):
    """-log sigmoid(score of the chosen - score of the rejected). What `trl` holds is passed to trl.RewardConfig."""

    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="how weights are updated")
    batch_size: int = Field(default=32, ge=1, description="pairs per update, over all processes")
    epochs: float = Field(default=1.0, gt=0, description="passes over the pairs")
    holdout: float = Field(
        default=0.05, ge=0, lt=1, description="share of the problems kept for the reported accuracy"
    )
    save_every: Annotated[int, MayChange()] = Field(
        default=100, ge=1, description="updates between checkpoints, from which a killed run goes on"
    )
    lora: LoRA | None = Field(
        default=None, description="train a LoRA adapter and the head instead of all weights"
    )
    trl: dict[str, Any] = Field(
        default_factory=dict,
        description="further options of trl.RewardConfig, e.g. center_rewards_coefficient",
    )


class Classifier(torch.nn.Module):
    """A ScoreNet as RewardTrainer wants its model: a logit per right-padded row, read at the row's last token.

    The last token is found by the mask: where the pad token is also the end of text, by the ids it would be missed.
    """

    def __init__(self, net: ScoreNet):
        super().__init__()
        self.net = net
        self.config = copy.deepcopy(net.lm.config)
        self.config.num_labels = 1

    def forward(self, input_ids, attention_mask, use_cache: bool = False) -> SequenceClassifierOutput:
        hidden_BTD = self.net.lm.base_model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache
        ).last_hidden_state
        last_B = attention_mask.sum(1) - 1
        hidden_BD = hidden_BTD[torch.arange(len(last_B), device=last_B.device), last_B]
        return SequenceClassifierOutput(logits=self.net.head(hidden_BD.float()))

    def add_model_tags(self, tags: Sequence[str]) -> None:
        """For the hub's model card, which is not written here."""


class _Reward(GoesOn, FromRows, RewardTrainer):
    """TRL's trainer on our order of the rows."""


@deferring()
def train_pairwise(
    model_path: str, pairs: Sequence[PreferencePair], config: PairwiseStage, session: Session, name: str
) -> None:
    """Train from the weights of `model_path` and save a ScoreNet to `session.out`/model. No pairs is a UserError."""
    problems = sorted({p.problem_id for p in pairs})
    held = set(random.Random(session.seed).sample(problems, int(config.holdout * len(problems))))
    learned = [p for p in pairs if p.problem_id not in held]
    if not learned:
        raise UserError(
            f"the {name} has no preference pairs; expected right and wrong solutions of one problem: roll out more problems"
        )
    tokenizer = load_tokenizer(model_path)
    torch.manual_seed(session.seed)
    given = dict(config.trl)
    # a Classifier is no model of transformers, which TRL would ask to recompute its layers
    net = ScoreNet(load_for_head(model_path, config.lora, bool(given.pop("gradient_checkpointing", False))))
    train_what_is_read(net)
    dataset = whole(learned)
    rows = RankRows([sum(map(len, row.values())) for row in dataset], config.batch_size, session.seed)  # pyright: ignore[reportAttributeAccessIssue]
    steps = max(1, round(config.epochs * len(rows)))
    machine, chosen = trl_arguments(session, rows, steps, config.optimizer)
    ours: dict[str, Any] = {"per_device_eval_batch_size": config.batch_size}
    optimizer = make_optimizer(net, config.optimizer)
    trainer = _Reward(
        model=Classifier(net),  # pyright: ignore[reportArgumentType]
        args=trl_config(RewardConfig, machine | chosen | ours, given),
        train_dataset=dataset,
        processing_class=tokenizer,
        optimizers=(optimizer, by_steps(optimizer, config.optimizer, steps)),
        callbacks=[Report(session, name, REPORTED)],
    )
    trainer.rows, trainer.saves = rows, Saves(session, config, config.save_every, learned)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.go_on()
    if held:
        found = trainer.evaluate(whole([p for p in pairs if p.problem_id in held]))  # pyright: ignore[reportArgumentType]
        session.log({f"{name}/heldout_accuracy": found["eval_accuracy"]}, steps)
    session.ledger.add(name, trained=rows.tokens)
    if trainer.is_world_process_zero():
        trainer.accelerator.unwrap_model(trainer.model).net.save(tokenizer, session.out / "model")


def whole(pairs: Sequence[PreferencePair]) -> Dataset:
    """The prompt with each of its two continuations, as token ids."""
    return Dataset.from_dict(
        {
            "chosen_ids": [p.prompt_ids + p.chosen_ids for p in pairs],
            "rejected_ids": [p.prompt_ids + p.rejected_ids for p in pairs],
        }
    )
