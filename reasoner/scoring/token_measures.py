"""What a policy's next-token distributions say about its sureness: one number per token, by a pass over packed trees.

These read the whole distribution, of which the engine keeps only entropy and log-probabilities; the pass costs
the tree's tokens once.

Shape suffixes: N sampled tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from reasoner.policy.heads import packed_hidden
from reasoner.policy.packing import batches, pack
from reasoner.registry import lookup
from reasoner.tree import ROOT, Problem, Tree

TOP_K = 20
CHUNK = 1024  # rows of logits at once


def certainty(logprobs_NV: torch.Tensor) -> torch.Tensor:
    """Self-certainty: KL of the uniform distribution from the model's, in nats (Kang et al. 2025, equation 5)."""
    return -logprobs_NV.mean(-1) - math.log(logprobs_NV.shape[-1])


def top_k(logprobs_NV: torch.Tensor) -> torch.Tensor:
    """DeepConf's token confidence: minus the mean log-probability of the 20 most probable tokens (Fu et al. 2025)."""
    return -logprobs_NV.topk(min(TOP_K, logprobs_NV.shape[-1]), -1).values.mean(-1)


def margin(logprobs_NV: torch.Tensor) -> torch.Tensor:
    """Probability of the most probable token less that of the second (Wang and Zhou 2024, section 2.2)."""
    first_two_N2 = logprobs_NV.topk(2, -1).values.exp()
    return first_two_N2[:, 0] - first_two_N2[:, 1]


MEASURES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "certainty": certainty,
    "top_k": top_k,
    "margin": margin,
}


def measure_tokens(
    lm, trees: Sequence[Tree], name: str, max_tokens: int = 8192
) -> list[dict[int, tuple[float, ...]]]:
    """Per tree and node the measure of the distribution that each token was drawn from."""
    of_logprobs = lookup(MEASURES, name, "token measure")
    found: list[dict[int, tuple[float, ...]]] = [{} for _ in trees]
    device = next(lm.parameters()).device
    for numbers in batches(trees, max_tokens):
        packed = pack([trees[t] for t in numbers], device)
        with torch.inference_mode():
            hidden_BTD = packed_hidden(lm, packed.ids_BT, packed.positions_BT, packed.tour_B2T)
            hidden_ND = hidden_BTD.flatten(0, 1)[packed.source_N.to(device)]
            values = _in_chunks(lm, hidden_ND, of_logprobs)
        at = 0
        for t in numbers:
            for node in range(1, len(trees[t].nodes)):
                length = len(trees[t].nodes[node].token_ids)
                found[t][node] = tuple(values[at : at + length])
                at += length
    return found


def _in_chunks(lm, hidden_ND: torch.Tensor, of_logprobs) -> list[float]:
    head = lm.get_output_embeddings()
    values: list[float] = []
    for rows_ND in hidden_ND.split(CHUNK):
        values += of_logprobs(torch.log_softmax(head(rows_ND).float(), -1)).tolist()
    return values


def first_tokens(lm, prompts: Sequence[Sequence[int]], k: int, max_tokens: int = 8192) -> list[list[int]]:
    """The k most probable tokens after each prompt, most probable first."""
    nowhere = Problem("", "", "", {})
    trees = [Tree.of_prompt(nowhere, list(p)) for p in prompts]
    found: list[list[int]] = [[] for _ in trees]
    device = next(lm.parameters()).device
    for numbers in batches(trees, max_tokens):
        packed = pack([trees[t] for t in numbers], device)
        ends = [packed.state(i, ROOT, len(prompts[t])) for i, t in enumerate(numbers)]
        with torch.inference_mode():
            hidden_BTD = packed_hidden(lm, packed.ids_BT, packed.positions_BT, packed.tour_B2T)
            logits_NV = lm.get_output_embeddings()(hidden_BTD.flatten(0, 1)[ends])
        for t, tokens in zip(
            numbers, logits_NV.topk(min(k, logits_NV.shape[-1]), -1).indices.tolist(), strict=True
        ):
            found[t] = tokens
    return found
