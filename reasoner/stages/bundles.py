"""What a placement group asks for: the ranks of a trainer and the servers of a stage on a Ray cluster (reasoner/cluster)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasoner.registry import UserError
from reasoner.stages.pools import CPUS, SERVERS, Node, Pool, Size, pool_of, share_of, told

# of a rank or a server without a GPU where the YAML does not say; fewer where all fit by that only
MOST_CPUS = 4


@dataclass(frozen=True)
class Bundles:
    """How many ranks and servers there are, and what each takes."""

    ranks: Size
    servers: Size

    @property
    def resources(self) -> list[dict[str, int]]:
        """What each bundle holds, those of the ranks first."""
        return [
            {"CPU": size.cpus} | ({"GPU": size.gpus} if size.gpus else {})
            for size in (self.ranks, self.servers)
            for _ in range(size.workers)
        ]

    @property
    def strategy(self) -> str:
        """PACK with GPUs: ranks talk over a machine's own links, and whole machines stay free for others. Else SPREAD, since
        servers on one machine share the bandwidth of its memory. Both are wishes, for which nothing waits."""
        return "PACK" if any("GPU" in bundle for bundle in self.resources) else "SPREAD"

    def __str__(self) -> str:
        sizes = ((self.ranks, "rank"), (self.servers, "server"))
        return " and ".join(
            f"{size.workers} {name}{'s' if size.workers > 1 else ''} of {size.cpus} CPUs and {size.gpus} GPUs"
            for size, name in sizes
            if size.workers
        )


def servers_of(stage: Any) -> int:
    """How many servers of a stage are placed by themselves; a data stage's workers start those of their own."""
    engine = getattr(stage, "engine", None)
    return engine.spawn if engine is not None and stage.kind not in CPUS else 0


def bundles_of(
    pools: Mapping[str, Pool], stage: Any, nodes: Sequence[Node], num_ranks: int, num_servers: int
) -> Bundles:
    """The bundles of a stage on these machines; UserError where they have no room for all of them at once."""
    nothing = Pool.model_validate({})
    asked = ((pool_of(pools, stage), num_ranks), (pools.get(SERVERS, nothing), num_servers))
    for most in range(MOST_CPUS, 0, -1):
        ranks, servers = (_size(pool, number, nodes, most) for pool, number in asked)
        bundles = Bundles(ranks, servers)
        if fit(bundles.resources, nodes):
            return bundles
    raise UserError(
        f"{stage.name} asks for {bundles}, and the machines of the cluster do not have that at once ({told(nodes)}); "
        f"expected room for all: {remedy(stage, bundles)}, or add a machine"
    )


def remedy(stage: Any, bundles: Bundles) -> str:
    """The keys that would make it less."""
    servers = f"lower engine.spawn of {stage.name}, or set ray.{SERVERS}.cpus and ray.{SERVERS}.gpus"
    ranks = f"lower ray.{stage.kind}.workers, or set ray.{stage.kind}.cpus and ray.{stage.kind}.gpus"
    return ", or ".join([*[servers] * (bundles.servers.workers > 0), *[ranks] * (bundles.ranks.workers > 0)])


def fit(bundles: Sequence[Mapping[str, int]], nodes: Sequence[Node]) -> bool:
    """Whether the machines have room for all at once: the largest first, each on the first machine that has room."""
    left = [{"CPU": n.get("CPU", 0), "GPU": n.get("GPU", 0)} for n in nodes]
    for bundle in sorted(bundles, key=lambda b: (-b.get("GPU", 0), -b["CPU"])):
        at = next((node for node in left if _holds(node, bundle)), None)
        if at is None:
            return False
        for name, amount in bundle.items():
            at[name] -= amount
    return True


def _holds(node: Node, bundle: Mapping[str, int]) -> bool:
    return all(node[name] >= amount for name, amount in bundle.items())


def _size(pool: Pool, number: int, nodes: Sequence[Node], most: int) -> Size:
    gpus = pool.gpus if pool.gpus is not None else int(any(node.get("GPU", 0) >= 1 for node in nodes))
    return Size(number, pool.cpus or (share_of(gpus, nodes) if gpus else most), gpus)
