"""Math-Shepherd labels: `python -m tests.benchmarks.label`; one JSON line per comparison, see measure.

`labels_per_second`: 64 solutions of 8 steps, 8 completions from each of a solution's 8 prefixes (Wang et al. 2023),
no early stop. The peer is the plain way at its best, one `generate` call a solution (8 prefixes × 8 samples,
left-padded), timed on eight of the solutions.
"""

from __future__ import annotations

import sys

import torch
from transformers import GenerationConfig

from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, place_key
from tests.benchmarks.measure import NUM_EOS, medians, prompts, rollout_model, row, run, seconds

SOLUTIONS, STEPS, SAMPLES, PROMPT, STEP, CAP = 64, 8, 8, 24, 16, 256


def labels_per_second(num_ours: int = SOLUTIONS, num_peer: int = 8) -> dict:
    model = rollout_model()
    solutions = prompts(SOLUTIONS, PROMPT + STEPS * STEP)
    prefixes = [[s[: PROMPT + STEP * (k + 1)] for k in range(STEPS)] for s in solutions]
    config = GenerationConfig(
        do_sample=True, top_k=0, max_new_tokens=CAP, eos_token_id=list(range(NUM_EOS)), pad_token_id=0,
    )  # fmt: skip
    rounds = iter(range(1 << 30))

    def ours() -> float:
        engine = LocalEngine(model, range(NUM_EOS), 256, PROMPT + STEPS * STEP + CAP)
        seed = next(rounds)
        requests = [
            Request((s, k, n), prefix, CAP, place_key(seed, 0, str(s), [(k, n)]))
            for s in range(num_ours)
            for k, prefix in enumerate(prefixes[s])
            for n in range(SAMPLES)
        ]
        return num_ours * STEPS / seconds(lambda: engine.sample(requests))

    def peer() -> float:
        torch.manual_seed(next(rounds))
        width = PROMPT + STEPS * STEP

        def work() -> None:
            for s in range(num_peer):
                rows = [p for p in prefixes[s] for _ in range(SAMPLES)]
                ids = torch.tensor([[0] * (width - len(p)) + p for p in rows], device=model.device)
                mask = torch.tensor(
                    [[0] * (width - len(p)) + [1] * len(p) for p in rows], device=model.device
                )
                model.generate(ids, attention_mask=mask, generation_config=config)

        return num_peer * STEPS / seconds(work)

    return row(
        "labels_per_second", *medians(ours, peer), "one generate call a solution", "labelled steps/s", 4
    )


BENCHMARKS = {"labels_per_second": labels_per_second}

if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(run(BENCHMARKS, sys.argv[1:]))
