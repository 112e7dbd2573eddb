"""Gradient checkpointing: keep only each layer's input for the backward pass and compute the layer again there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

Contexts = Callable[[], tuple[Any, Any]]  # around the forward pass and around its repetition


def recompute_layers(lm: Any, around: Contexts = lambda: (nullcontext(), nullcontext())) -> None:
    """Recompute the layers of a causal LM (Chen et al. 2016) where gradients are on, and only there.

    transformers does so in training mode alone and then keeps no keys and values; here the mode follows
    from whether gradients are recorded, so that the engine decodes with the same modules, and dropout stays off.
    """
    lm.activation_checkpointing_enable({"use_reentrant": False, "context_fn": around})
    lm.disable_input_require_grads()  # of use to the reentrant kind only
    layers = [m for m in lm.modules() if getattr(m, "gradient_checkpointing", False)]
    for layer in layers:
        layer.register_forward_pre_hook(_follow_gradients)


def _follow_gradients(layer: torch.nn.Module, args: tuple) -> None:
    layer.training = torch.is_grad_enabled()  # of this module alone, not of the dropouts inside
