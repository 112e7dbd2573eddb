"""Seconds of a stage on a machine: at best, by its roofline, and as machines are used in practice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasoner.economics.hardware import Hardware
from reasoner.economics.shape import count_parameters
from reasoner.economics.speed import attention_flops, decode_step, weight_flops
from reasoner.planning.work import Work

PARALLEL = 0.4  # share of the peak that training, scoring and prefilling reach in practice
DECODING = 0.5  # share of the roofline that decoding reaches


@dataclass(frozen=True)
class Pace:
    """Seconds of a stage; `expected` reaches PARALLEL and DECODING of the machine, `best` all of it."""

    best: float
    expected: float
    flops: float
    decode_tokens_per_second: float


def pace_of(work: Work, config: Any, hardware: Hardware, lora: bool, recomputed: bool) -> Pace:
    """Forward passes take 2 operations a parameter, backward passes 4, or 2 where weights are frozen; layers that are
    recomputed take 2 more."""
    parameters = count_parameters(config)
    context = round(work.sequence / 2)
    one = weight_flops(parameters) + attention_flops(config, context)
    backward = (1.0 if lora else 2.0) + recomputed
    parallel = one * (work.prefilled + work.scored + (work.trained + work.prompts) * (1 + backward))
    batch = max(1, round(work.at_once))
    step = decode_step(
        config, hardware, batch, context, hardware.value_bytes, hardware.value_bytes, parameters
    )
    drawing = work.decoded / step.tokens_per_second
    passes = parallel / hardware.flops_per_second
    return Pace(
        best=drawing + passes,
        expected=drawing / DECODING + passes / PARALLEL,
        flops=parallel + one * work.decoded,
        decode_tokens_per_second=step.tokens_per_second if work.decoded else 0.0,
    )
