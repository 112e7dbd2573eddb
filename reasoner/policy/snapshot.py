"""A copy of a policy to draw from and to send, which stays as it is while the policy itself is trained."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch

from reasoner.policy.adapters import Adapter
from reasoner.policy.shard import gather_into, whole


@dataclass
class Snapshot:
    """`copy` and `trained` are causal LMs, or Adapters.

    `take` and a `put` with nothing taken read what is trained: all processes together, and not while it is updated.
    """

    copy: Any
    trained: Any
    taken: deque[dict[str, torch.Tensor]] = field(default_factory=deque)

    def take(self) -> None:
        """Note the weights as they are, for a later `put`."""
        targets = dict(_own(self.copy).named_parameters())
        weights = _own(self.trained).named_parameters()
        self.taken.append({name: whole(w).to(targets[name].device, copy=True) for name, w in weights})

    def put(self) -> None:
        """Give the copy the oldest weights that were taken, or the present ones where none were."""
        if not self.taken:
            gather_into(_own(self.copy), _own(self.trained))
            return
        targets = dict(_own(self.copy).named_parameters())
        with torch.no_grad():
            for name, weight in self.taken.popleft().items():
                targets[name].copy_(weight)


def snapshot_of(lm: Any) -> Snapshot:
    """A copy of a causal LM in the CPU's memory; of an Adapter one on the same frozen weights, which it shares."""
    inner = lm.shared.lm if isinstance(lm, Adapter) else lm
    frozen = {id(p): p for p in inner.parameters() if not p.requires_grad}
    plain = copy.deepcopy(lm, frozen).requires_grad_(False).eval()
    return Snapshot(plain if isinstance(lm, Adapter) else plain.to("cpu"), lm)


def _own(lm: Any) -> Any:
    """What holds the weights that are a policy's own."""
    return lm.weights if isinstance(lm, Adapter) else lm
