"""What benchmarks share: alternating pairs, a comparison's row, and the model on which rollouts are timed."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from reasoner.report.style import CSS

PAIRS = 5
NUM_EOS, VOCAB = 2, 128  # uniform logits over these end a text with probability 1/64 at each token


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def medians(*sides: Callable[[], float], pairs: int = PAIRS) -> list[float]:
    """The median of each side's numbers over rounds in which all take their turn, after one to warm up."""
    rounds = [[side() for side in sides] for _ in range(pairs + 1)][1:]
    return [statistics.median(of_side) for of_side in zip(*rounds, strict=True)]


def row(
    name: str, ours: float, peer: float | None, peer_name: str, unit: str, target: float | None, **more
) -> dict:
    """A comparison of rates (more is better)."""
    ratio = None if peer is None else round(ours / peer, 2)
    numbers = [None if x is None else float(f"{x:.4g}") for x in (ours, peer)]
    return {"name": name, "ours": numbers[0], "peer": numbers[1], "peer_name": peer_name, "unit": unit,
            "ratio": ratio, "target": target, "pairs": PAIRS, "threads": torch.get_num_threads(), **more}  # fmt: skip


def save_chart(path: Path, chart: str) -> None:
    """Write a chart of the report as a picture of its own, which needs the namespace and the style in itself."""
    style = f"{CSS} svg {{ background: var(--page); font-family: system-ui, Arial, sans-serif; }}"
    opening, body = chart.split(">", 1)
    opening = opening.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    path.write_text(f"{opening}><style>{style}</style>{body}", encoding="utf-8")


def rollout_model(hidden_size: int = 128, num_layers: int = 4):
    """A Qwen2-shaped model of random weights (0.93M parameters) whose output is uniform over the vocabulary."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2", vocab_size=VOCAB, hidden_size=hidden_size, intermediate_size=hidden_size * 7 // 2,
        num_hidden_layers=num_layers, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=list(range(NUM_EOS)), pad_token_id=0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    torch.nn.init.zeros_(model.lm_head.weight)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def prompts(count: int, length: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(NUM_EOS, VOCAB, (count, length), generator=generator).tolist()


def run(benchmarks: dict[str, Callable[[], dict]], names: list[str]) -> int:
    """Print the rows of the named benchmarks, by default of all; 2 for an unknown name."""
    unknown = [name for name in names if name not in benchmarks]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}, expected some of {', '.join(benchmarks)}", file=sys.stderr)
        return 2
    for name in names or benchmarks:
        print(json.dumps(benchmarks[name]()), flush=True)
    return 0
