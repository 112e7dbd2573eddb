"""Rows of several LoRA adapters in one batch: all adapters' low-rank factors side by side, masked per row.

y = W x + B (m ∘ A x), where A and B stack every adapter's factors (Hu et al. 2021) and m is 1 on the ranks of the
row's own adapter: two thin products whatever the number of adapters. PEFT's active adapters, and with them
`requires_grad`, are never touched.

Shape suffixes: R rows, T tokens, Q ranks of all adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils import AuxiliaryTrainingWrapper

from reasoner.engine.protocol import BASE
from reasoner.registry import UserError


class MixedAdapters:
    """The LoRA layers of a model, if it has any; `refresh` after a change of their weights."""

    def __init__(self, model):
        self.layers: list[Any] = [m for m in model.modules() if isinstance(m, LoraLayer)]
        self.has_own = any(isinstance(m, AuxiliaryTrainingWrapper) for m in model.modules())
        self.names = sorted({name for layer in self.layers for name in layer.lora_A})
        self.stacked: dict[int, tuple[torch.Tensor, torch.Tensor, list[str]]] = {}

    def check(self, adapter: str) -> None:
        """UserError for a name that no adapter has."""
        if adapter and adapter != BASE and adapter not in self.names:
            raise UserError(
                f"no adapter {adapter!r} in this model; expected one of {', '.join([*self.names, BASE])}, or none"
            )
        if adapter and self.has_own:
            raise UserError(
                f"adapter {adapter!r} was asked for by name, and adapters of this model have whole weights of their own "
                "(modules_to_save or trainable tokens); expected plain LoRA: run one adapter at a time"
            )

    def refresh(self) -> None:
        self.stacked.clear()

    @contextmanager
    def rows(self, adapters: Sequence[str]) -> Iterator[None]:
        """Within, row r of every forward pass runs under `adapters[r]`."""
        if not any(adapters):
            yield
            return
        for i, layer in enumerate(self.layers):
            if i not in self.stacked:
                self.stacked[i] = _stack(layer)
            layer.forward = self._forward_of(layer, *self.stacked[i], adapters)
        try:
            yield
        finally:
            for layer in self.layers:
                del layer.forward

    def _forward_of(self, layer, a_QI, b_OQ, owner_Q: list[str], adapters: Sequence[str]):
        active = [] if layer.disable_adapters else list(layer.active_adapters)
        table = {name: [float(o == name) for o in owner_Q] for name in set(adapters)}
        table[""] = [float(o in active) for o in owner_Q]
        mask_R1Q = torch.tensor([table[name] for name in adapters], dtype=a_QI.dtype, device=a_QI.device)[
            :, None
        ]

        def forward(x, *args, **kwargs):
            low_RTQ = x.to(a_QI.dtype) @ a_QI.T * mask_R1Q
            return layer.base_layer(x, *args, **kwargs) + (low_RTQ @ b_OQ.T).to(x.dtype)

        return forward


def _stack(layer) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Factors A [Q, in] and B [out, Q] of all adapters of a layer, scales included, and whose each rank is."""
    names = list(layer.lora_A)
    if layer.merged or layer.lora_variant or not names or any(layer.lora_bias.get(n) for n in names):
        raise UserError(
            "adapters chosen per request need plain LoRA on linear layers, not merged; this model's are not such:"
            " unmerge them, or run one adapter at a time"
        )
    a_QI = torch.cat([layer.lora_A[n].weight for n in names])
    b_OQ = torch.cat([layer.lora_B[n].weight * layer.scaling[n] for n in names], 1)
    return a_QI, b_OQ, [n for n in names for _ in range(layer.lora_A[n].weight.shape[0])]
