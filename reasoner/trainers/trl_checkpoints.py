"""Trainers that come from TRL save as all others do, and go on from there: a killed run ends with the same weights."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from reasoner.config import Config
from reasoner.interrupt import Stopped, stop_asked
from reasoner.trainers.checkpoint import (
    Trained,
    fingerprint_of,
    go_on,
    latest_step,
    random_states,
    save_checkpoint,
    set_random_states,
)
from reasoner.trainers.loop import Session
from reasoner.trainers.ranks import highest, one_clock
from reasoner.trainers.trl_settings import RankRows

POSITION = "position"  # in the folder of checkpoints: where the loop is, in the words of transformers


class Saves(TrainerCallback):
    """Saves after every `every` updates, and at the end of the one in which a stop is asked for, which ends the training.

    What is saved is what the optimizer updates (with an adapter, the adapter alone), its moments, the schedule and the
    random states. Made anew for each run of a stage; `trainer` is set before it trains.
    """

    trainer: Any

    def __init__(self, session: Session, config: Config, every: int, rows: Iterable[Any]):
        self.session, self.every = session, every
        self.fingerprint = fingerprint_of(config, session.seed, rows)
        self.spent = 0.0  # seconds, before this process began
        self.random: dict[str, Any] = {}  # as they were saved
        self.clock = one_clock()

    def seconds(self) -> float:
        """Of the training, those before a kill included; all processes have to ask together."""
        return self.spent + self.clock()

    def on_step_end(self, args, state, control, **kwargs):
        accelerator = self.trainer.accelerator
        stop = int(highest(stop_asked(), accelerator))
        if self.session.checkpoints is not None and (stop or state.global_step % self.every == 0):
            loop = {"ledger": self.session.ledger.to_dict(), "seconds": self.seconds()}
            save_checkpoint(
                self.session.checkpoints, state.global_step, self._trained(), loop, self.fingerprint, accelerator
            )  # fmt: skip
        if stop:
            raise Stopped(stop)

    def restore(self) -> None:
        """Put the newest checkpoint into the trainer's weights, optimizer and schedule."""
        _, self.spent = go_on(self.session, self._trained(), self.fingerprint, self.trainer.accelerator)
        self.random = random_states()

    def _trained(self) -> Trained:
        return Trained([self.trainer.optimizer], [self.trainer.lr_scheduler])


class GoesOn:
    """Before a trainer of transformers, as a base: `go_on` trains from the newest checkpoint, or from the start."""

    rows: RankRows
    saves: Saves

    def go_on(self) -> None:
        trainer: Any = self
        self.saves.trainer = trainer
        trainer.add_callback(self.saves)
        folder = self.saves.session.checkpoints
        done = latest_step(folder) if folder is not None else 0
        if folder is None or not done:
            trainer.train()
            return
        each = trainer.args.gradient_accumulation_steps
        updates = max(1, -(-len(self.rows) // each))
        skipped = done % updates * each  # rows of the last epoch's batches that will be passed over
        self.rows.start_at(done // updates)
        if 0 < trainer.args.max_steps <= done:
            self.saves.restore()
            list(islice(self.rows, skipped))  # for the count of their tokens
            return
        trainer.train(resume_from_checkpoint=str(_position(folder, done, trainer.args)))

    def _load_from_checkpoint(self, *given: Any, **more: Any) -> None:
        """The weights come with the optimizer, which knows them."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.saves.restore()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            set_random_states(self.saves.random)


def _position(folder: Path, done: int, args: Any) -> Path:
    """A folder that tells a trainer of transformers how many updates are done."""
    place = folder / POSITION
    place.mkdir(exist_ok=True)
    state = TrainerState(
        global_step=done,
        max_steps=args.max_steps,
        train_batch_size=args.train_batch_size,
        logging_steps=args.logging_steps,
        save_steps=args.save_steps,
        eval_steps=args.eval_steps,
    )
    state.save_to_json(str(place / TRAINER_STATE_NAME))
    return place
