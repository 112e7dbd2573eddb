"""Log-probabilities and entropies from hidden states in chunks, so that no batch's logits are ever held whole.

Shape suffixes: N tokens, D width, V vocabulary, B batch, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 24  # logits alive at once: 64 MiB in float32


class LogitHead:
    """Logits from hidden states as the architecture makes them: its output layer, then its scale, then its soft cap.

    The one place that knows these, for sampling, scoring and training alike: `logit_scale` multiplies (Cohere),
    `logits_scaling` divides (Granite), `final_logit_softcapping` c bounds logits to c · tanh(x / c) (Gemma 2).
    """

    def __init__(self, lm: Any):
        self.output: torch.nn.Module = lm.get_output_embeddings()
        config = lm.config.get_text_config()
        self.vocab_size: int = config.vocab_size
        self.scale = (getattr(config, "logit_scale", None) or 1.0) / (
            getattr(config, "logits_scaling", None) or 1.0
        )
        self.cap: float | None = getattr(config, "final_logit_softcapping", None)

    def __call__(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        logits_NV = self.output(hidden_ND)
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        if self.cap is not None:
            logits_NV = torch.tanh(logits_NV / self.cap) * self.cap
        return logits_NV


def token_logprobs(
    hidden_ND: torch.Tensor,
    head: LogitHead | torch.nn.Linear,
    targets_N: torch.Tensor,
    with_entropy: bool = False,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """log p(target) and, if asked for, the entropy in nats; differentiable, recomputed chunk by chunk."""
    vocab_size = head.vocab_size if isinstance(head, LogitHead) else head.out_features
    size = max(1, CHUNK_ELEMENTS // vocab_size)

    def chunk(h_ND: torch.Tensor, t_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs_NV = torch.log_softmax(head(h_ND).float() / temperature, -1)
        picked_N = logprobs_NV.gather(-1, t_N[:, None])[:, 0]
        entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1) if with_entropy else picked_N.new_zeros(())
        return picked_N, entropy_N

    parts = []
    for h, t in zip(hidden_ND.split(size), targets_N.split(size), strict=True):
        if torch.is_grad_enabled() and len(hidden_ND) > size:
            parts.append(checkpoint(chunk, h, t, use_reentrant=False))
        else:
            parts.append(chunk(h, t))
    if not parts:
        return hidden_ND.new_zeros(0), hidden_ND.new_zeros(0) if with_entropy else None
    picked, entropy = zip(*parts, strict=True)
    return torch.cat(picked), torch.cat(entropy) if with_entropy else None


def sequence_logprobs(
    model, sequences: Sequence[Sequence[int]], tokens_per_batch: int = 8192
) -> list[list[float]]:
    """Per sequence, log p of each token but the first given those before; batched by length, padded on the right."""
    device = next(model.parameters()).device
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    found: list[list[float]] = [[] for _ in sequences]
    while order:
        longest = len(sequences[order[-1]])
        if longest < 2:
            break
        rows = [order.pop() for _ in range(min(len(order), max(1, tokens_per_batch // longest)))]
        ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
        for b, i in enumerate(rows):
            ids_BT[b, : len(sequences[i])] = torch.tensor(sequences[i])
        ids_BT = ids_BT.to(device)
        hidden_BTD = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
        picked, _ = token_logprobs(hidden_BTD.flatten(0, 1), LogitHead(model), ids_BT[:, 1:].flatten())
        for i, values in zip(rows, picked.view(len(rows), -1).tolist(), strict=True):
            found[i] = values[: max(0, len(sequences[i]) - 1)]
    return found
