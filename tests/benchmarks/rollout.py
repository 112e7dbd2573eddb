"""Speed of sampling: `python -m tests.benchmarks.rollout [NAME ...]`; one JSON line per comparison, see measure.

`ragged_vs_generate`: 256 prompts of 24 tokens, the end of text with probability 1/64 at each token on both sides,
at most 256 tokens; trajectories per second against `model.generate` in its best batch size, and against
`generate_batch` (warmed up, its cache sized for the job) as a third column. `slots_busy`: the share of slots that
decode, over a rollout of 1,000 trees.
"""

from __future__ import annotations

import sys

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, Sampling, place_key
from reasoner.engine.sampling import draw, uniform_at
from reasoner.ledger import Ledger
from reasoner.search.branch import BranchConfig, tree_of
from reasoner.search.grow import Growth, grow
from reasoner.tree import Problem, Tree
from tests.benchmarks.measure import NUM_EOS, medians, prompts, rollout_model, row, run, seconds

COUNT, LENGTH, CAP = 256, 24, 256


def ragged_vs_generate() -> dict:
    model, asked = rollout_model(), prompts(COUNT, LENGTH)
    ids = torch.tensor(asked, device=model.device)
    config = GenerationConfig(
        do_sample=True, top_k=0, max_new_tokens=CAP, eos_token_id=list(range(NUM_EOS)), pad_token_id=0,
    )  # fmt: skip
    rounds = iter(range(1 << 30))

    def ours(num_slots: int = COUNT) -> float:
        engine = LocalEngine(model, range(NUM_EOS), num_slots, LENGTH + CAP)
        seed = next(rounds)
        requests = [Request(i, p, CAP, place_key(seed, 0, str(i), [])) for i, p in enumerate(asked)]
        return COUNT / seconds(lambda: engine.sample(requests))

    def generate(size: int) -> float:
        torch.manual_seed(next(rounds))

        def work() -> None:
            for batch in ids.split(size):
                model.generate(batch, attention_mask=torch.ones_like(batch), generation_config=config)

        return COUNT / seconds(work)

    blocks = ContinuousBatchingConfig(
        num_blocks=COUNT * (LENGTH + CAP) // 32, block_size=32, max_batch_tokens=1024
    )

    def generate_batch() -> float:
        model.eval()
        return COUNT / seconds(
            lambda: model.generate_batch(asked, generation_config=config, continuous_batching_config=blocks)
        )

    best = max((64, 128, 256), key=generate)
    try:
        generate_batch()
    except Exception as problem:  # the third column is a courtesy: the comparison stands without it
        found = [*medians(ours, lambda: generate(best)), None]
        third = f"{type(problem).__name__}: {problem}"[:120]
    else:
        found, third = medians(ours, lambda: generate(best), generate_batch), "generate_batch"
    more = {"third": found[2], "third_name": third}
    return row(
        "ragged_vs_generate", found[0], found[1], f"generate, batches of {best}", "trajectories/s", 4, **more
    )


def sampling(vocab_size: int, target: float, repeats: int) -> dict:
    """Ours with log-probabilities and entropy; the peer softmax and multinomial alone."""
    logits = torch.randn(64, vocab_size, generator=torch.Generator().manual_seed(0))
    keys, positions = torch.arange(64) * 977, torch.arange(64)

    def ours() -> None:
        for _ in range(repeats):
            draw(logits, uniform_at(keys, positions))

    def peer() -> None:
        for _ in range(repeats):
            torch.multinomial(torch.softmax(logits, -1), 1)

    rates = medians(lambda: repeats / seconds(ours), lambda: repeats / seconds(peer))
    return row(f"sampling_{vocab_size}", *rates, "softmax and torch.multinomial", "batches of 64/s", target)


def slots_busy(num_trees: int = 1000, num_slots: int = 256) -> dict:
    model, ledger = rollout_model(32, 1), Ledger()
    trees = [
        Tree.of_prompt(Problem(str(i), "", "math", {}), ids)
        for i, ids in enumerate(prompts(num_trees, LENGTH))
    ]
    engine = LocalEngine(model, range(NUM_EOS), num_slots, LENGTH + CAP, ledger=ledger)
    config = BranchConfig(num_roots=4, where="spread_steps", num_points=3, num_children=2)
    growth = Growth(lambda ids, *_: list(range(7, len(ids), 8)), CAP, Sampling())
    with ledger.stage("rollout"):
        taken = seconds(lambda: grow(trees, engine, tree_of(config, growth), growth))
    c = ledger.counts["rollout"]["policy"]
    share = c["slots_busy"] / (c["slots_busy"] + c["slots_idle"])
    more = {"decoded_per_s": round(c["decoded"] / taken), "counts": c}
    return row("slots_busy", share, None, "none", "share of slots", 0.9, **more) | {"pairs": 1}


BENCHMARKS = {
    "ragged_vs_generate": ragged_vs_generate,
    "sampling_128": lambda: sampling(128, 2, 200),
    "sampling_151936": lambda: sampling(151_936, 5, 1),
    "slots_busy": slots_busy,
}

if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(run(BENCHMARKS, sys.argv[1:]))
