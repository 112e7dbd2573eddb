"""How much memory this process can still have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reasoner.economics.hardware import Hardware
from reasoner.policy.machine import inference_dtype, on_cpu

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Free:
    """Bytes of one process of a run, which has `processes` in all; `swap` are slow ones beside."""

    memory: float
    swap: float = 0.0
    on_gpu: bool = False
    processes: int = 1

    def hardware(self, config: Any) -> Hardware:
        """As a row of the table, with what is free as its memory; its speeds are not known and not used."""
        saved = getattr(config, "dtype", None)
        bits = 32 if not self.on_gpu and inference_dtype(saved) is torch.float32 else 16
        return Hardware(
            memory_gb=max(self.memory, 1.0) / 1e9, bandwidth_gbs=1, tflops=1, dollars_per_hour=0,
            count=self.processes, bits=bits,
        )  # fmt: skip


def free_here(processes: int = 1) -> Free:
    """Of this process's GPU; on a CPU the processes of this machine share its memory."""
    if not on_cpu():
        return Free(free_memory(), on_gpu=True, processes=processes)
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Free(free_memory() / beside, _meminfo("SwapFree") / beside, processes=processes)


def free_memory() -> float:
    """Of the GPU, else what the system can still give within the process's control group; without Linux all of it."""
    if not on_cpu():
        return float(torch.cuda.mem_get_info()[0])
    available = _meminfo("MemAvailable")
    if not available:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(available, of_group(CGROUP))


def _meminfo(key: str) -> float:
    try:
        lines = MEMINFO.read_text().splitlines()
        return 1024.0 * int(next(x for x in lines if x.startswith(f"{key}:")).split()[1])
    except (OSError, StopIteration):
        return 0.0


def of_group(folder: Path) -> float:
    """What a control group (version 2, as a container sees its own) may still take: pages of files can be given up."""
    try:
        most = (folder / "memory.max").read_text().strip()
        if most == "max":
            return float("inf")
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return float(int(most) - used + int(stat["inactive_file"]) + int(stat["active_file"]))
    except (OSError, ValueError, KeyError):
        return float("inf")
