"""Keeping several processes in step: sums, and equal numbers of micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType

from reasoner.registry import UserError


def summed(values: Sequence[float], accelerator: Accelerator) -> list[float]:
    """Each number summed over all processes, in float64."""
    if accelerator.num_processes == 1:
        return [float(v) for v in values]
    total = torch.tensor([float(v) for v in values], dtype=torch.float64, device=accelerator.device)
    dist.all_reduce(total)
    return total.tolist()


def highest(value: float, accelerator: Accelerator) -> float:
    """The largest of the processes' numbers."""
    if accelerator.num_processes == 1:
        return value
    most = torch.tensor(value, dtype=torch.float64, device=accelerator.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return most.item()


def same_count(groups: list[list[int]]) -> list[list[int]]:
    """The groups, with empty ones appended until every process has as many as the one with most."""
    if not dist.is_available() or not dist.is_initialized():
        return groups
    most = torch.tensor([len(groups)])
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return groups + [[] for _ in range(int(most) - len(groups))]


def check_supported(accelerator: Accelerator) -> None:
    """The engine samples from the trained module itself, which works where each process holds all of it."""
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise UserError(
            f"the launch file asks for {accelerator.distributed_type.value}; on-policy training is replicated so far: "
            "expected e.g. launch/accelerate/cpu_2proc.yaml, or MULTI_GPU"
        )
