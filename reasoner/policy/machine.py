"""What this machine is: where this process computes, and in which number formats.

Weights that are trained are float32: in bfloat16 a step of the usual size changes almost none of them. What else is
computed takes what the machine does fast and right; a CPU without bfloat16 hardware does it a hundred times slower.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Literal

import torch
from accelerate import PartialState
from accelerate.utils import str_to_bool
from pydantic import Field

from reasoner.config import Config

FALSE = "false"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision(Config):
    """The number formats of a run; `auto` asks the machine."""

    training: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the products in training (autocast; the weights are float32 always): auto is bfloat16 on "
        "GPUs that have it, else float32"
    )  # fmt: skip
    inference: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="of weights that are not trained: auto is bfloat16 on GPUs that have it and, for models published in half "
        "precision, on CPUs that have it, else float32",
    )


_chosen = Precision.model_validate({})


def use(precision: Precision) -> None:
    """Set the formats of this process from now on."""
    global _chosen
    _chosen = precision


def on_cpu() -> bool:
    """True where there is no CUDA device, or the launcher asks for none."""
    return not torch.cuda.is_available() or bool(str_to_bool(os.environ.get("ACCELERATE_USE_CPU", FALSE)))


def own_device() -> torch.device:
    """This process's device: its own GPU, or the CPU."""
    device = PartialState(cpu=on_cpu()).device
    assert device is not None
    return device


@cache
def has_bfloat16() -> bool:
    """Whether the hardware multiplies in bfloat16 (AVX512-BF16 or AMX on a CPU); asked once."""
    if not on_cpu():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocasts() -> bool:
    """Whether training computes its products in bfloat16."""
    if _chosen.training == "auto":
        return not on_cpu() and has_bfloat16()
    return _chosen.training == "bfloat16"


def inference_dtype(saved: torch.dtype | None) -> torch.dtype:
    """The format for weights that were saved as `saved` and are not trained."""
    if _chosen.inference != "auto":
        return DTYPES[_chosen.inference]
    is_half = saved in (torch.bfloat16, torch.float16)
    return torch.bfloat16 if has_bfloat16() and (is_half or not on_cpu()) else torch.float32


def told() -> str:
    """The choice in one line."""
    training = "bfloat16 products on float32 weights" if autocasts() else "float32"
    inference = str(inference_dtype(torch.bfloat16)).removeprefix("torch.")
    device = "cpu" if on_cpu() else torch.cuda.get_device_name()
    return f"device: {device}   training: {training}   half-precision models: {inference}"
