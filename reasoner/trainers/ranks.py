"""Keeping several processes in step: sums, equal numbers of micro-batches, and whole weights for the sampler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType


def summed(values: Sequence[float], accelerator: Accelerator) -> list[float]:
    """Each number summed over all processes, in float64."""
    if accelerator.num_processes == 1:
        return [float(v) for v in values]
    total = torch.tensor([float(v) for v in values], dtype=torch.float64, device=accelerator.device)
    dist.all_reduce(total)
    return total.tolist()


def same_count(groups: list[list[int]]) -> list[list[int]]:
    """The groups, with empty ones appended until every process has as many as the one with most."""
    if not dist.is_available() or not dist.is_initialized():
        return groups
    most = torch.tensor([len(groups)])
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return groups + [[] for _ in range(int(most) - len(groups))]


def gathered_state(net, accelerator: Accelerator, sampler) -> dict | None:
    """The sampler's new weights where the trained ones are sharded; None where it shares them already."""
    if accelerator.distributed_type != DistributedType.FSDP:
        return None
    state = accelerator.get_state_dict(net)
    return {k.removeprefix("lm."): v for k, v in state.items()}
