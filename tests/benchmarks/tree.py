"""A tree against its leaves as separate chains: `python -m tests.benchmarks.tree`; one JSON line, see measure.

`tree_clock`: 4-ary, depth 4, segments of 16 tokens, no end of text, so 5,440 tokens instead of 16,384. The peer is
this engine, sampling 256 chains of 64 tokens; `generate` in one batch is the third column.
"""

from __future__ import annotations

import sys

import torch
from transformers import GenerationConfig

from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, place_key
from reasoner.ledger import Ledger
from tests.benchmarks.measure import medians, prompts, rollout_model, row, run, seconds

ARITY, DEPTH, SEGMENT, PROMPT = 4, 4, 16, 24
LEAVES = ARITY**DEPTH


def tree_clock() -> dict:
    model = rollout_model()
    prompt = prompts(1, PROMPT)[0]
    rounds = iter(range(1 << 30))
    counts: dict = {}

    def engine(ledger: Ledger | None = None) -> LocalEngine:
        return LocalEngine(model, [], LEAVES, PROMPT + DEPTH * SEGMENT, ledger=ledger)

    def grow_tree() -> float:
        ledger, seed = Ledger(), next(rounds)
        sampler = engine(ledger)
        prefix_of = {(): prompt}

        def children(path: tuple[int, ...], prefix: list[int]) -> list[Request]:
            paths = [(*path, i) for i in range(ARITY)]
            return [Request(p, prefix, SEGMENT, place_key(seed, 0, "", [(0, i) for i in p])) for p in paths]

        def work() -> None:
            sampler.submit(children((), prompt))
            while finished := sampler.poll():
                for c in finished:
                    path = c.id
                    prefix_of[path] = [*prefix_of[path[:-1]], *c.token_ids]
                    if len(path) < DEPTH:
                        sampler.submit(children(path, prefix_of[path]))

        with ledger.stage("tree"):
            taken = seconds(work)
        counts.update(ledger.counts["tree"]["policy"])
        assert len(prefix_of) == 1 + sum(ARITY**d for d in range(1, DEPTH + 1))
        # each token passes through the model once: the prompt by prefilling, what is drawn by decoding
        assert counts["prefilled"] == PROMPT - 1 and counts["decoded"] == SEGMENT * (len(prefix_of) - 1), (
            counts
        )
        return LEAVES / taken

    def chains() -> float:
        sampler, seed = engine(), next(rounds)
        requests = [
            Request(i, prompt, DEPTH * SEGMENT, place_key(seed, 0, str(i), [])) for i in range(LEAVES)
        ]
        return LEAVES / seconds(lambda: sampler.sample(requests))

    config = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=DEPTH * SEGMENT, pad_token_id=0)
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt] * LEAVES, device=model.device)

    def generate() -> float:
        return LEAVES / seconds(
            lambda: model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        )

    found = medians(grow_tree, chains, generate, pairs=9)
    more = {
        "third": float(f"{found[2]:.4g}"),
        "third_name": "generate in one batch",
        "counts": counts,
        "pairs": 9,
    }
    return row("tree_clock", found[0], found[1], "the engine, separate chains", "leaves/s", 2.5, **more)


BENCHMARKS = {"tree_clock": tree_clock}

if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(run(BENCHMARKS, sys.argv[1:]))
