"""What every trainer that comes from TRL is told, and how it reports to the session."""

from __future__ import annotations

import difflib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from accelerate import PartialState
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from reasoner.policy.machine import autocasts, on_cpu
from reasoner.registry import UserError
from reasoner.trainers.loop import OptimizerConfig, Session

T = TypeVar("T")
BATCHES_SORTED = 50  # rows of this many batches, at most, are sorted by length together


def trl_arguments(
    session: Session, rows: RankRows, steps: int, optimizer: OptimizerConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the machine decides, and what we chose and a config's `trl` may change."""
    on_gpu = not on_cpu()
    machine = {  # TRL's defaults are for a GPU and fail on a CPU
        "use_cpu": not on_gpu,
        "bf16": autocasts(),
        "gradient_checkpointing": False,
        "dataloader_pin_memory": on_gpu,
    }
    chosen = {
        "output_dir": str(session.out),
        "per_device_train_batch_size": rows.per_process,
        "max_steps": steps,
        "max_grad_norm": optimizer.max_grad_norm,
        "max_length": None,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 5,
        "disable_tqdm": True,
        "seed": session.seed,
    }
    return machine, chosen


def trl_config(kind: Callable[..., T], options: Mapping[str, Any], given: Mapping[str, Any]) -> T:
    """TRL's config of our options with a YAML's `trl` over them; what TRL does not take is a UserError."""
    known = inspect.signature(kind).parameters
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f", e.g. {near[0]}" if near else ""
            raise UserError(f"trl: {name} is no option of {kind.__name__}; expected one of its options{hint}")
    try:
        return kind(**{**options, **given})
    except (TypeError, ValueError, ImportError) as problem:
        told = " ".join(str(problem).split())
        raise UserError(
            f"trl: {dict(given)} was refused by {kind.__name__}: {told}; expected options that fit"
        ) from problem


class RankRows:
    """A batch sampler: this process's share of the rows of each update, the same updates on any number of processes.

    `lengths` are the rows' sizes in tokens; `tokens` counts those given out here. Every epoch has a new order of its
    own; rows that fill no whole batch wait for the next. With `by_length`, rows of one batch are of like length.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, by_length: bool = False):
        state = PartialState()
        self.rank, num = state.process_index, state.num_processes
        self.batch_size = min(batch_size, len(lengths) // num * num)
        if batch_size % num or not self.batch_size:
            raise UserError(
                f"{len(lengths)} rows in updates of batch_size={batch_size} cannot be shared evenly by {num} processes; "
                "expected at least a row each, and a batch_size that the number of processes divides"
            )
        self.lengths, self.seed, self.by_length = lengths, seed, by_length
        self.num, self.per_process = num, self.batch_size // num
        self.epoch = self.tokens = 0

    def __len__(self) -> int:
        return len(self.lengths) // self.batch_size

    def start_at(self, epoch: int) -> None:
        """As if the epochs before this one, which is counted from 0, had been given out."""
        self.epoch = self.tokens = 0
        for _ in range(epoch):
            for _ in self:
                pass

    def __iter__(self) -> Iterator[list[int]]:
        self.epoch += 1
        for batch in epoch_batches(self.lengths, self.batch_size, self.seed, self.epoch, self.by_length):
            own = batch[self.rank :: self.num]
            self.tokens += sum(self.lengths[i] for i in own)
            yield own


class PairedRows(RankRows):
    """As RankRows, of rows in two halves: row i of the first and row i of the second are given out together.

    `batch_size` and the length count pairs. A batch has the rows of the first half before those of the second.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, by_length: bool = False):
        self.half = len(lengths) // 2
        pairs = [a + b for a, b in zip(lengths[: self.half], lengths[self.half :], strict=True)]
        super().__init__(pairs, batch_size, seed, by_length)

    def __iter__(self) -> Iterator[list[int]]:
        for own in super().__iter__():
            yield [*own, *(i + self.half for i in own)]


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, by_length: bool
) -> list[list[int]]:
    """Row numbers of the updates of one epoch, in order, a function of seed and epoch."""
    rng = random.Random(f"{seed} {epoch}")
    order = rng.sample(range(len(lengths)), len(lengths))
    order = order[: len(order) // batch_size * batch_size]
    if by_length:
        # few rows sorted together would make each batch a class of its own: all short sums, all long ones
        size = batch_size * max(1, min(BATCHES_SORTED, len(lengths) // (4 * batch_size)))
        order = [
            i
            for start in range(0, len(order), size)
            for i in sorted(order[start : start + size], key=lambda i: -lengths[i])
        ]
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if by_length:
        rng.shuffle(batches)
    return batches


class FromRows:
    """Before a trainer of transformers, as a base: `rows` say what it trains on, instead of its own sampler."""

    rows: RankRows

    def get_train_dataloader(self) -> DataLoader:
        trainer: Any = self
        dataset = trainer._remove_unused_columns(trainer.train_dataset, description="training")
        return DataLoader(dataset, batch_sampler=self.rows, collate_fn=trainer.data_collator)  # pyright: ignore[reportArgumentType]


class Report(TrainerCallback):
    """Passes on those numbers of TRL's log lines that `keep` names, as name/number, and moves the progress bar."""

    def __init__(self, session: Session, name: str, keep: Sequence[str]):
        self.session, self.name, self.keep = session, name, keep

    def on_step_end(self, args, state, control, **kwargs):
        self.session.progress(state.global_step, state.max_steps, "")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs and state.is_world_process_zero:
            kept = {k.split("/")[-1]: float(logs[k]) for k in self.keep if k in logs}
            self.session.log({f"{self.name}/{k}": v for k, v in kept.items()}, state.global_step)
