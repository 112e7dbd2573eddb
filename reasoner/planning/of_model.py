"""What a model needs and gives on each machine: answering at three precisions, training, reading speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasoner.economics.hardware import Hardware
from reasoner.economics.memory import kv_cache_bytes, lora_parameters
from reasoner.economics.shape import count_parameters, shape_of
from reasoner.economics.speed import decode_step, dollars_per_million, largest_batch, longest_sequence
from reasoner.planning.needs import largest_micro_batch
from reasoner.registry import UserError

READING = 6.0  # tokens a second: 250 words a minute, four tokens to three words
TOKENS = 4096  # of the sequences that are batched, or the model's own positions where these are fewer
BITS = {16: 2.0, 8: 1.0, 4: 0.516}  # bytes of a weight; in 4 bits with its scales
WAYS = ("full", "lora", "4bit")


def facts_of(name: str, config: Any) -> dict[str, Any]:
    parameters, shape = count_parameters(config), shape_of(config)
    return {
        "name": name,
        "parameters": parameters.total,
        "active": parameters.active + parameters.embedding,
        "lora_parameters": lora_parameters(config, 16),
        "kv_bytes_per_token": kv_cache_bytes(config, 1),
        "layers": shape.layers,
        "positions": positions(config),
    }


def positions(config: Any) -> int:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(getattr(text, "max_position_embeddings", None) or TOKENS)


def answering(config: Any, machines: Mapping[str, Hardware]) -> list[dict[str, Any]]:
    """A row for each machine and precision of the weights; the cache has 16 bits."""
    parameters, tokens = count_parameters(config), min(TOKENS, positions(config))
    rows = []
    for name, machine in machines.items():
        for bits, weight_bytes in BITS.items():
            weights = parameters.total * weight_bytes
            longest = longest_sequence(config, machine.memory_bytes, weight_bytes)
            row: dict[str, Any] = {
                "machine": name, "bits": bits, "weight_bytes": weights, "memory_bytes": machine.memory_bytes,
                "fits": longest > 0, "longest": longest, "batch_tokens": tokens,
            }  # fmt: skip
            if longest > 0:
                batch = largest_batch(config, machine, tokens, 0.0, weight_bytes)
                one = decode_step(config, machine, 1, tokens / 2, weight_bytes, 2, parameters)
                full = decode_step(config, machine, max(1, batch), tokens / 2, weight_bytes, 2, parameters)
                row |= {
                    "batch": batch, "tokens_per_second": one.per_user, "batch_tokens_per_second": full.tokens_per_second,
                    "dollars_per_million": dollars_per_million(full, machine), "readable": one.per_user >= READING,
                }  # fmt: skip
            rows.append(row)
    return rows


def training(config: Any, machines: Mapping[str, Hardware]) -> list[dict[str, Any]]:
    """A row for each machine and way to train: what is there before any token, and the most tokens of a step."""
    tokens = min(TOKENS, positions(config))
    rows = []
    for name, machine in machines.items():
        for way in WAYS:
            for models in (1, 5):
                fixed, most = largest_micro_batch(config, machine, way, tokens, models == 5)
                rows.append(
                    {"machine": name, "way": way, "models": models, "fixed_bytes": fixed, "micro_batch_tokens": most,
                     "sequence": tokens, "device_bytes": machine.device_bytes, "fits": most >= tokens}
                )  # fmt: skip
    return rows


def reading(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each machine the highest precision at which one reader is kept up with."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.get("readable") and row["bits"] > best.get(row["machine"], {"bits": 0})["bits"]:
            best[row["machine"]] = row
    return [{k: row[k] for k in ("machine", "bits", "tokens_per_second")} for row in best.values()]


def check_answers(
    name: str, config: Any, machines: Mapping[str, Hardware], table: Mapping[str, Hardware]
) -> None:
    """Where the weights fit none of the machines at any precision: by how much, and the smallest that holds them."""
    least = count_parameters(config).total * BITS[4] + kv_cache_bytes(config, 1)
    if any(machine.memory_bytes >= least for machine in machines.values()):
        return
    most_name, most = max(machines.items(), key=lambda x: x[1].memory_bytes)
    more = least - most.memory_bytes
    own = [
        (k, h) for k, h in sorted(table.items(), key=lambda x: x[1].memory_bytes) if h.memory_bytes >= least
    ]
    copies = -(-least // most.memory_bytes)
    near = f"{own[0][0]}" if own else f"{copies:.0f}x{most_name.rpartition('x')[2]}"
    raise UserError(
        f"{name} does not fit {most_name}: in 4 bits it needs {gigabytes(least)}, {gigabytes(more)} more than "
        f"{gigabytes(most.memory_bytes)}; the nearest that holds it: --hardware {near}"
    )


def gigabytes(number: float) -> str:
    return f"{number / 1e9:,.3g} GB" if number >= 1e9 else f"{number / 1e6:,.3g} MB"
