"""Machines in a table that users extend: memory, bandwidth, peak operations and price."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from pydantic import Field

from reasoner.config import Config, read_yaml, validate
from reasoner.registry import UserError, nearest

TABLE = "hardware.yaml"


class Hardware(Config):
    """One accelerator or computer."""

    memory_gb: float = Field(gt=0, description="memory for the model, in 10^9 bytes")
    bandwidth_gbs: float = Field(gt=0, description="memory bandwidth, in 10^9 bytes a second")
    tflops: float = Field(
        gt=0, description="dense 16-bit (or the machine's fastest) 10^12 operations a second"
    )
    dollars_per_hour: float = Field(0.0, ge=0, description="price of an hour; 0 where it is one's own")
    count: int = Field(1, ge=1, description="so many together, their memory and speed added up")
    bits: int = Field(16, description="of a number in training and at `tflops`: 16, or 32 on most CPUs")

    @property
    def device_bytes(self) -> float:
        """Memory of one of them: what is trained is there whole on each."""
        return self.memory_gb * 1e9

    @property
    def value_bytes(self) -> float:
        return self.bits / 8

    @property
    def is_gpu(self) -> bool:
        return self.bits < 32

    @property
    def memory_bytes(self) -> float:
        return self.memory_gb * 1e9 * self.count

    @property
    def bytes_per_second(self) -> float:
        return self.bandwidth_gbs * 1e9 * self.count

    @property
    def flops_per_second(self) -> float:
        return self.tflops * 1e12 * self.count


def hardware_table(more: Path | None = None) -> dict[str, Hardware]:
    """The machines that come with the package, and those of a YAML file of one's own."""
    with resources.as_file(resources.files("reasoner.economics") / TABLE) as path:
        rows = dict(read_yaml(path))
    if more is not None:
        rows |= read_yaml(more)
    return {name: validate(Hardware, row, f"hardware {name}") for name, row in rows.items()}


def hardware(name: str, more: Path | None = None) -> Hardware:
    """A machine by name, several of a kind as "8xH100"; UserError with the nearest name."""
    table = hardware_table(more)
    number, times, kind = name.partition("x")
    count, plain = (int(number), kind) if times and number.isdecimal() and int(number) > 0 else (1, name)
    known = {key.lower(): key for key in table}
    if plain.lower() not in known:
        close = nearest(plain, table)
        raise UserError(
            f"got hardware {name!r}, expected one of {', '.join(table)}, several as 8xH100; "
            + (f"did you mean {close[0]}?" if close else "describe yours in a YAML file: --hardware-file")
        )
    found = table[known[plain.lower()]]
    return found.model_copy(
        update={"count": count * found.count, "dollars_per_hour": count * found.dollars_per_hour}
    )
