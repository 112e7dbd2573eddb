"""Started by torchrun: a process of two that train a model cut over both writes its peak of live tensor bytes.

torchrun --standalone --nproc_per_node 2 tests/economics/sharded_step.py MODEL BATCH TOKENS OUT
"""

import json
import sys
import weakref
from pathlib import Path

import torch
import torch.distributed as dist
from benchmarks.memory import LiveBytes
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves

from reasoner.policy.heads import PolicyNet
from reasoner.policy.models import load_model
from reasoner.policy.shard import Sharding, shard


class Recounted(LiveBytes):
    """Sizes are asked anew at each operation: a gathered layer is let go by shrinking its storage, which is no operation."""

    def __init__(self):
        super().__init__()
        self.alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, out)):
            if isinstance(leaf, torch.Tensor):
                self._see((leaf._local_tensor if isinstance(leaf, DTensor) else leaf).untyped_storage())
        return out

    def _see(self, storage) -> None:
        self.alive[storage._cdata] = weakref.ref(
            storage, lambda _, key=storage._cdata: self.alive.pop(key, None)
        )
        self.now = sum(s.nbytes() for ref in list(self.alive.values()) if (s := ref()) is not None)
        self.peak = max(self.peak, self.now)


def main(path: str, batch: int, tokens: int, out: Path) -> None:
    dist.init_process_group("gloo")
    net = PolicyNet(load_model(path, torch.float32))
    shard(net, Sharding())
    assert all(isinstance(p, DTensor) for p in net.parameters()) and dist.get_world_size() == 2
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6)
    ids_BT = torch.randint(1, 300, (batch, tokens))
    positions_BT = torch.arange(tokens).expand(batch, tokens).contiguous()
    tour_B2T = torch.stack([torch.arange(tokens), torch.full((tokens,), tokens)]).expand(batch, 2, tokens)
    at = torch.arange(batch * tokens).view(batch, tokens)
    source_N, target_N = at[:, :-1].flatten(), at[:, 1:].flatten()
    with Recounted() as live:
        for p in net.parameters():
            p._local_tensor.view(-1)  # seen
        for _ in range(2):
            net(ids_BT, positions_BT, tour_B2T, source_N, target_N)[0].sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    (out / f"{dist.get_rank()}.json").write_text(
        json.dumps({"peak": live.peak, "world": dist.get_world_size()})
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
