"""What every trainer that comes from TRL is told, and how it reports to the session."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from transformers import TrainerCallback

from reasoner.registry import UserError
from reasoner.trainers.loop import OptimizerConfig, Session

T = TypeVar("T")


def trl_arguments(
    session: Session, batch_size: int, steps: int, optimizer: OptimizerConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the machine decides, and what we chose and a config's `trl` may change."""
    on_gpu = torch.cuda.is_available()
    machine = {  # TRL's defaults are for a GPU and fail on a CPU
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": on_gpu,
    }
    chosen = {
        "output_dir": str(session.out),
        "per_device_train_batch_size": batch_size,
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
