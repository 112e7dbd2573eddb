"""Several processes as one: how they start, sums, one clock, patient waits, and equal numbers of micro-batches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType

from reasoner.policy.machine import autocasts, on_cpu
from reasoner.registry import UserError

# where launchers write how many processes they start
ANNOUNCED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
PATIENCE = timedelta(days=30)


def start() -> PartialState:
    """This process among all that were started; fewer than the launcher speaks of is a UserError."""
    state = PartialState(cpu=on_cpu(), **met_anew(os.environ))
    check_started(os.environ, state.num_processes)
    wait_for_everyone()  # makes their group while all are there
    return state


def met_anew(environment: Mapping[str, str]) -> dict[str, Any]:
    """How processes find each other that torchrun has started again; empty for a first start.

    It gives them the store of the first start, which still holds the addresses of those that ended: without names of
    their own they wait for these (torch 2.13).
    """
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    rank, num = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    store = dist.TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), num, is_master=False)  # pyright: ignore[reportPrivateImportUsage]
    return {"store": dist.PrefixStore(f"start {attempt}", store), "rank": rank, "world_size": num}  # pyright: ignore[reportPrivateImportUsage]


def check_started(environment: Mapping[str, str], num_processes: int) -> None:
    """A UserError where a launcher announced more processes than found each other."""
    announced = {name: int(environment[name]) for name in ANNOUNCED if environment.get(name, "").isdecimal()}
    # accelerate's launcher of one process gives the address of the first of several where its config says several
    lone = "ACCELERATE_DYNAMO_BACKEND" in environment and "LOCAL_RANK" not in environment
    if num_processes == 1 and lone and "MASTER_ADDR" in environment and not announced:
        announced["MASTER_ADDR"] = 2
    for name, number in announced.items():
        if number > num_processes:
            raise UserError(
                f"the launcher speaks of {'several' if name == 'MASTER_ADDR' else number} processes ({name}) and "
                f"{num_processes} started; expected as many: torchrun --nproc_per_node 2 -m reasoner …, or accelerate "
                "launch --config_file launch/accelerate/two_processes.yaml (its MULTI_CPU starts one)"
            )


def make_accelerator() -> Accelerator:
    """What prepares models and optimizers for this process's device."""
    return Accelerator(cpu=on_cpu(), mixed_precision="bf16" if autocasts() else "no")


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


def same_count(groups: list[list[int]], device: torch.device) -> list[list[int]]:
    """The groups, with empty ones appended until every process has as many as the one with most.

    `device` is this process's own: NCCL counts on no other.
    """
    if not dist.is_available() or not dist.is_initialized():
        return groups
    most = torch.tensor([len(groups)], device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return groups + [[] for _ in range(int(most) - len(groups))]


def one_clock() -> Callable[[], float]:
    """Seconds from now on by the first process's clock; all processes have to ask together."""
    begun = time.monotonic()

    def elapsed() -> float:
        seconds = torch.tensor(time.monotonic() - begun, dtype=torch.float64)
        if _is_several():
            dist.broadcast(seconds, 0, group=patient_group())
        return seconds.item()

    return elapsed


def wait_for_everyone() -> None:
    """Wait for all processes, however long the work of one takes; one that died ends the wait with an error."""
    if _is_several():
        with _explained():
            dist.barrier(group=patient_group())


def from_everyone(value: Any, drawing: bool = False) -> list[Any]:
    """What every process gave, in the order of their numbers; anything that pickles.

    `drawing`: among those who draw, who may be threads beside the ones that train.
    """
    if not _is_several():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    with _explained():
        dist.all_gather_object(found, value, group=drawing_group() if drawing else patient_group())
    return found


def check_supported(accelerator: Accelerator) -> None:
    """Weights are cut over the processes by the key `shard` of a stage, not by a launch file (UserError)."""
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise UserError(
            f"the launch file asks for {accelerator.distributed_type.value}; expected MULTI_GPU, e.g. "
            "launch/accelerate/two_processes.yaml, and shard: {} in the stage, which cuts weights on CPUs as well"
        )


@contextmanager
def _explained() -> Iterator[None]:
    """What a wait says where another process has ended."""
    try:
        yield
    except RuntimeError as problem:
        raise UserError(
            f"another process of this run has ended ({str(problem).splitlines()[0][:120]}); expected all of them to work on: "
            "see what it said last; the same command goes on where it was"
        ) from problem


def _is_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@cache
def patient_group() -> Any:
    """All processes over gloo, whose waits don't end: NCCL's ten minutes are for kernels, not for a stage of one."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


@cache
def drawing_group() -> Any:
    """All processes once more: what draws and what trains may call at once, each in an order of its own."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)
