"""What a round of on-policy training is checked for that no number of it would show: bits that a machine has turned.

Weights are to be the same on every process after an update, and the same as then until the next one; the sampler is to
say of a text what the training pass says, and after drawing what it said before; the same micro-batch is to give the
same gradient twice. Sums of bits see any one bit. What fails is a MachineFault, before anything is saved: the last
checkpoint is from before it.
"""

from __future__ import annotations

import math
import random
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from accelerate import Accelerator

from reasoner.engine.local import LocalEngine
from reasoner.policy.adapters import activate
from reasoner.policy.attention import evaluating
from reasoner.policy.logprobs import sequence_logprobs
from reasoner.policy.packing import pack
from reasoner.policy.shard import local
from reasoner.registry import MachineFault
from reasoner.trainers.ranks import from_everyone
from reasoner.tree import ROOT, Node, Problem, Tree

Level = Literal["off", "light", "full"]
WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}  # by bytes of an element
PRIME = 1_000_003
NEAR, NEAR_COARSE = 1e-2, 1.0  # of log-probabilities, in float32 and where either side computes in halves


def checksum(tensors: Iterable[torch.Tensor]) -> int:
    """A sum over the bits of tensors and their order; another one for any single turned bit."""
    total = 0
    for tensor in tensors:
        x = local(tensor).detach().contiguous()
        words = x.view(WORDS[x.element_size()]).sum(dtype=torch.int64) if x.numel() else 0
        total = (total * PRIME + int(words)) % (1 << 64)
    return total


@dataclass
class RoundAudit:
    """The checks of one run. `weights` are those that are trained, `canary_ids` a text that is scored in each round."""

    level: Level
    weights: Sequence[torch.Tensor]
    policy: Any
    engine: Any
    canary_ids: Sequence[int]
    are_cut: bool
    accelerator: Accelerator
    seed: int
    known: int | None = None  # the sum of the weights after the last update
    sampler: int | None = None  # of the sampler's, before drawing
    said: list[float] = field(default_factory=list)  # the sampler of the canary, before drawing

    def before_drawing(self) -> None:
        """New weights are loaded: the sampler says of the canary what the training pass says."""
        if self.level == "off":
            return
        self.unchanged("while they were loaded")
        if not isinstance(self.engine, LocalEngine) or len(self.canary_ids) < 2:
            return  # servers prove each version that they get
        self.said = self._sampler_says(self.canary_ids)
        trained = self._policy_says(self.canary_ids)
        if not all(map(math.isfinite, [*self.said, *trained])):
            self.said = []  # such weights are the training's doing, and what draws from them says so
            return
        is_exact = self._sampler_is_exact and self.accelerator.mixed_precision == "no"
        limit = NEAR if is_exact else NEAR_COARSE
        furthest = max(abs(a - b) for a, b in zip(self.said, trained, strict=True))
        if not furthest <= limit:
            self._fail(
                f"sampler and training pass are {furthest:.3g} apart in the log-probabilities of a text"
            )
        if self.level == "full":
            self.sampler = checksum(self.engine.model.parameters())

    def after_drawing(self, trees: Sequence[Tree], round: int) -> None:
        """Drawing changes no weights; a chain that was drawn is worth what was written down of it."""
        if self.level == "off":
            return
        self.unchanged("while trees were drawn")
        if self.level != "full" or not self.said:
            return
        if checksum(self.engine.model.parameters()) != self.sampler:
            self._fail("the sampler's weights changed while trees were drawn")
        if self._sampler_says(self.canary_ids) != self.said:
            self._fail("the sampler says something else of the same text after drawing than before")
        chains = [(t, leaf) for t in trees for leaf in t.leaves()]
        if chains:
            self._check_chain(*random.Random(f"audit {self.seed} {round}").choice(chains))

    def _check_chain(self, tree: Tree, leaf: int) -> None:
        ids = tree.token_ids(leaf)
        drawn = [x for s in tree.path(leaf)[1:] for x in tree.nodes[s.node].logprobs_full[: s.end]]
        if len(drawn) < 1 or not all(map(math.isfinite, drawn)):
            return
        again = self._sampler_says(ids)[-len(drawn) :]
        limit = NEAR if self._sampler_is_exact else NEAR_COARSE
        furthest = max(abs(a - b) for a, b in zip(drawn, again, strict=True))
        if not furthest <= limit:
            self._fail(
                f"a chain of {tree.problem.id} was drawn with log-probabilities that are {furthest:.3g} off"
            )

    def after_updates(self) -> None:
        """All processes hold the same weights; from here on they stay as they are."""
        if self.level == "off":
            return
        self.known = checksum(self.weights)
        if self.are_cut or self.accelerator.num_processes == 1:
            return
        sums = from_everyone((self.accelerator.process_index, socket.gethostname(), self.known))
        counted = Counter(total for *_, total in sums).most_common()
        if len(counted) > 1:
            is_clear = counted[0][1] > counted[1][1]
            suspects = [f"{i} on {host}" for i, host, total in sums if not is_clear or total != counted[0][0]]
            raise MachineFault(
                f"weights differ between processes after an update; suspect: process {', process '.join(suspects)}; the last "
                "checkpoint is from before: the same command goes on there"
            )

    def unchanged(self, when: str) -> None:
        """The weights are those of the last update."""
        if self.level != "off" and self.known is not None and checksum(self.weights) != self.known:
            self._fail(f"weights changed {when}, when nothing trains them")

    def twice(self, round: int, update: int, num_updates: int) -> Twice | None:
        """For one update of the round, by chance and the same on all processes: its first micro-batch is computed twice."""
        if self.level != "full":
            return None
        chosen = random.Random(f"audit {self.seed} {round}").randrange(num_updates)
        return Twice(self) if update == chosen else None

    @property
    def _sampler_is_exact(self) -> bool:
        return self.engine.model.dtype == torch.float32

    def _sampler_says(self, ids: Sequence[int]) -> list[float]:
        """As the engine's score, but on nobody's account."""
        activate(self.engine.given)
        model = self.engine.model
        with torch.inference_mode(), evaluating(model), self.engine.adapters.rows([""]):
            return sequence_logprobs(model, [ids])[0]

    def _policy_says(self, ids: Sequence[int]) -> list[float]:
        tree = Tree.of_prompt(Problem("canary", "", "", {}), list(ids[:1]))
        tree.add(Node(ROOT, 1, tuple(ids[1:])))
        p = pack([tree], self.accelerator.device)
        with torch.no_grad():
            logprobs_N, _ = self.policy(p.ids_BT, p.positions_BT, p.tour_B2T, p.source_N, p.target_N)
        return logprobs_N.float().tolist()

    def _fail(self, what: str) -> None:
        where = (
            f"process {self.accelerator.process_index} on {socket.gethostname()}, {self.accelerator.device}"
        )
        raise MachineFault(
            f"{what} ({where}); expected bits to stay: the last checkpoint is from before, and the same command goes on there; "
            "where it happens again, leave this machine out"
        )


@dataclass
class Twice:
    """A micro-batch that is computed twice, from no gradient: the second has to come to the first one's."""

    audit: RoundAudit
    first: tuple[float, int, float] | None = None
    is_done: bool = False

    def __call__(self, loss: torch.Tensor, optimizers: Sequence[Any]) -> bool:
        """After each backward pass; whether it was the first, whose gradient is thrown away."""
        if self.is_done:
            return False
        grads = [
            p.grad for o in optimizers for g in o.param_groups for p in g["params"] if p.grad is not None
        ]
        norm = math.sqrt(sum(float(local(g).float().square().sum()) for g in grads))
        found = (float(loss.detach()), checksum(grads), norm)
        if self.first is None:
            self.first = found
            for optimizer in optimizers:
                optimizer.zero_grad()
            return True
        self.is_done = True
        if self.audit.accelerator.device.type == "cpu":
            is_same = found[:2] == self.first[:2]
        else:  # sums on GPUs may come in any order
            is_same = math.isclose(found[0], self.first[0], rel_tol=1e-3, abs_tol=1e-5) and math.isclose(
                norm, self.first[2], rel_tol=1e-2, abs_tol=1e-6
            )
        if not is_same:
            self.audit._fail("the same micro-batch gave two losses or gradients")
        return False
