"""Operations that a stage has spent, from the tokens that its ledger counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasoner.economics.shape import count_parameters
from reasoner.planning.models import config_from, origin
from reasoner.registry import UserError

FORWARD = ("prefilled", "decoded", "scored")


def flops_of(
    stage: Any, earlier: Mapping[str, Any], counts: Mapping[str, Mapping[str, float]]
) -> dict[str, int]:
    """By model: 2 operations a parameter and token forward, 6 where it is trained, 4 where only an adapter is.

    Attention over the context is left out (ledger.flops). Models beside the policy count as its size. Nothing for a
    stage without a model, or one whose config cannot be had.
    """
    if not any(counts.values()):
        return {}
    try:
        found = origin(stage, earlier)
        active = count_parameters(config_from(found)).active if found else 0.0
    except UserError:
        return {}
    trained = 4 if getattr(stage, "lora", None) is not None else 6
    return {
        model: round(active * (2 * sum(c.get(k, 0) for k in FORWARD) + trained * c.get("trained", 0)))
        for model, c in counts.items()
        if active and any(c.get(k) for k in (*FORWARD, "trained"))
    }
