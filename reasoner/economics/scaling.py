"""What it takes to label millions of problems by thousands of trajectories each: hours, bytes, cores, and what is short first.

    python -m reasoner.economics.scaling [--problems 10000000 --trajectories 2048 --completion 1000 --gpus 8,64,1024]

prints two tables in Markdown: for each number of GPUs what it takes, and the unit costs behind, measured or assumed. The
stages are rollout, which judges what it draws, verify, which then only reads and writes, and label; one after the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import AutoConfig

from reasoner.economics.hardware import hardware
from reasoner.economics.memory import HALF, kv_cache_bytes
from reasoner.economics.shape import count_parameters
from reasoner.economics.speed import decode_step

MACHINE = "H100"
HOUR = 3600.0
TREES_PER_PART = 64  # parts.MOST_TREES
PARTS_HELD = 2  # by a worker: the one that is under way and the next


class Unit(NamedTuple):
    """One unit cost: its value, what it is, and where it comes from."""

    value: float
    what: str
    source: str


# measured figures are those of tests/benchmarks/README.md, by the benchmarks that are named there
UNITS: dict[str, Unit] = {
    "decoding": Unit(0.5, "share of the roofline that decoding reaches", "assumed"),
    "room": Unit(0.9, "share of a GPU's memory for weights, keys and values", "assumed"),
    "own": Unit(0.6, "share of a trajectory's tokens that it shares with no other of its tree", "assumed"),
    "programs": Unit(0.5, "share of the problems that ask for a program", "assumed"),
    "cores": Unit(12, "CPU cores beside each GPU", "assumed"),
    "disk": Unit(2e9, "bytes a second of the shared folder, for all together", "assumed"),
    "code": Unit(2 / 68, "core seconds of a verdict on a program with five tests", "measured, verify"),
    "math": Unit(2 / 4511, "core seconds of a verdict on a math answer", "measured, verify"),
    "stored": Unit(12.1, "bytes of a token in a stored tree", "measured, units"),
    "records": Unit(6.8, "bytes of all records, for each token of a tree", "measured, units"),
    "held": Unit(116, "bytes of a token in a worker's memory", "measured, units"),
    "written": Unit(2_890_000, "tokens that a core writes in a second", "measured, units"),
    "read": Unit(2_490_000, "tokens that a core reads in a second", "measured, units"),
    "labelled": Unit(328_000, "tokens that a core turns into records in a second", "measured, units"),
    "prepared": Unit(3e-4, "seconds of the driver for each problem, ahead of the rollout", "measured, units"),
    "handed": Unit(0.01, "seconds of the driver for each part, at most", "measured, ray_overhead"),
}


@dataclass(frozen=True)
class Workload:
    """Problems, trajectories of each, and mean tokens of a prompt and of a completion."""

    problems: int = 10_000_000
    trajectories: int = 2048
    prompt: int = 150
    completion: int = 1000

    @property
    def tokens(self) -> float:
        """Tokens drawn."""
        return self.problems * self.trajectories * self.completion * UNITS["own"].value

    @property
    def parts(self) -> int:
        return -(-self.problems // TREES_PER_PART)


def model_config():
    """The architecture of Qwen2.5-7B."""
    return AutoConfig.for_model(
        "qwen2", num_hidden_layers=28, hidden_size=3584, intermediate_size=18944, num_attention_heads=28,
        num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False,
    )  # fmt: skip


def decoded_per_second(work: Workload) -> tuple[float, int]:
    """(tokens a second of one GPU, sequences at once): as many whole ones as fit, at half a completion on average."""
    config, machine = model_config(), hardware(MACHINE)
    parameters = count_parameters(config)
    room = UNITS["room"].value * machine.memory_bytes - HALF * parameters.total
    batch = int(room // kv_cache_bytes(config, work.prompt + work.completion))
    step = decode_step(config, machine, batch, work.prompt + work.completion / 2, parameters=parameters)
    return UNITS["decoding"].value * step.tokens_per_second, batch


def hours(work: Workload, gpus: int, per_second: float) -> dict[str, dict[str, float]]:
    """By stage, the hours that it would take if each resource alone were the limit."""
    u = {name: unit.value for name, unit in UNITS.items()}
    tokens, cores = work.tokens, gpus * u["cores"]
    verdicts = (
        work.problems * work.trajectories * (u["programs"] * u["code"] + (1 - u["programs"]) * u["math"])
    )
    handed = work.parts * u["handed"]
    seconds = {
        "rollout": {
            "GPUs": tokens / per_second / gpus,
            "cores": (verdicts + tokens / u["written"]) / cores,
            "shared folder": tokens * u["stored"] / u["disk"],
            "driver": handed + work.problems * u["prepared"],
        },
        "verify": {
            "cores": tokens * (1 / u["read"] + 1 / u["written"]) / cores,
            "shared folder": 2 * tokens * u["stored"] / u["disk"],
            "driver": handed,
        },
        "label": {
            "cores": tokens * (1 / u["read"] + 1 / u["labelled"]) / cores,
            "shared folder": tokens * (u["stored"] + u["records"]) / u["disk"],
            "driver": handed,
        },
    }  # fmt: skip
    return {stage: {name: s / HOUR for name, s in of.items()} for stage, of in seconds.items()}


def column(work: Workload, gpus: int) -> dict[str, str]:
    """What so many GPUs take, in words by row."""
    per_second, _ = decoded_per_second(work)
    by_stage = hours(work, gpus, per_second)
    takes = {stage: max(of.values()) for stage, of in by_stage.items()}
    limits = {stage: max(of, key=lambda name: of[name]) for stage, of in by_stage.items()}
    rollout = by_stage["rollout"]
    second = max((n for n in rollout if n != "GPUs"), key=lambda name: rollout[name])
    u = {name: unit.value for name, unit in UNITS.items()}
    verdict_cores = rollout["cores"] * gpus * u["cores"] / takes["rollout"]
    rows = {
        "tokens drawn": f"{work.tokens:.3g}",
        **{f"hours of {stage} (what limits it)": f"{takes[stage]:,.0f} ({limits[stage]})" for stage in takes},
        "all three, one after the other": f"{sum(takes.values()):,.0f} h, {sum(takes.values()) / 24:,.0f} days",
        "price of the GPUs in the rollout": f"${takes['rollout'] * gpus * hardware(MACHINE).dollars_per_hour / 1e6:,.2f} M",
        "cores that rollout's verdicts and files need, of those there": f"{verdict_cores:,.0f} of {gpus * u['cores']:,.0f}",
        "TB kept: trees twice, records": f"{work.tokens * (2 * u['stored'] + u['records']) / 1e12:,.0f}",
        "TB moved through the shared folder": f"{work.tokens * (4 * u['stored'] + u['records']) / 1e12:,.0f}",
        "GB in a worker's memory, two parts": f"{PARTS_HELD * _part_tokens(work) * u['held'] / 1e9:,.1f}",
        "short first": limits["rollout"],
        "short next, by how much of the rollout": f"{second}, {rollout[second] / takes['rollout']:.1%}",
    }  # fmt: skip
    return rows


def _part_tokens(work: Workload) -> float:
    return TREES_PER_PART * work.tokens / work.problems


def tables(work: Workload, gpus: Sequence[int]) -> str:
    """Both tables in Markdown."""
    per_second, batch = decoded_per_second(work)
    columns: list[Mapping[str, str]] = [column(work, num) for num in gpus]
    lines = [
        f"{work.problems:,} problems, {work.trajectories:,} trajectories of {work.completion:,} tokens each, Qwen2.5-7B in "
        f"16 bits on {MACHINE}: {per_second:,.0f} tokens a second and GPU at {batch} sequences.",
        "",
        f"| GPUs | {' | '.join(f'{num:,}' for num in gpus)} |",
        f"|---|{'---|' * len(gpus)}",
        *(f"| {name} | {' | '.join(c[name] for c in columns)} |" for name in columns[0]),
        "",
        "| unit cost | value | from |",
        "|---|---|---|",
        *(f"| {unit.what} | {_shown(unit.value)} | {unit.source} |" for unit in UNITS.values()),
    ]  # fmt: skip
    return "\n".join(lines)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    usual = Workload()
    for name in ("problems", "trajectories", "prompt", "completion"):
        parser.add_argument(f"--{name}", type=int, default=getattr(usual, name))
    parser.add_argument("--gpus", default="8,64,1024", help="numbers of GPUs by commas")
    given = parser.parse_args()
    work = Workload(given.problems, given.trajectories, given.prompt, given.completion)
    print(tables(work, [int(num) for num in given.gpus.split(",")]))


if __name__ == "__main__":
    main()
