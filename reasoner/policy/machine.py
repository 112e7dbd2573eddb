"""What this machine is: where this process computes."""

from __future__ import annotations

import os

import torch
from accelerate import PartialState
from accelerate.utils import str_to_bool

FALSE = "false"


def on_cpu() -> bool:
    """True where there is no CUDA device, or the launcher asks for none."""
    return not torch.cuda.is_available() or bool(str_to_bool(os.environ.get("ACCELERATE_USE_CPU", FALSE)))


def own_device() -> torch.device:
    """This process's device: its own GPU, or the CPU."""
    device = PartialState(cpu=on_cpu()).device
    assert device is not None
    return device
