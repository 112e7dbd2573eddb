"""How many workers of a cluster do a stage's parts, and what each of them takes (reasoner/cluster)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import Field

from reasoner.config import Config
from reasoner.engine.servers import Host
from reasoner.registry import UserError, nearest
from reasoner.stages import TRAINERS
from reasoner.trainers.loop import Session

CPUS = {
    "rollout": 4,
    "complete": 4,
    "verify": 4,
    "label": 1,
}  # of a worker without a GPU, by the kind of its stage
DRAWS = ("rollout", "complete")  # these take a GPU for each worker where there are any
SERVERS = "servers"  # the key of what each server of engine.spawn takes, beside those of stages
Node = Mapping[str, float]  # what one machine has: CPU, GPU


class Crew(Protocol):
    """What the machines of a cluster do for the stages of a run."""

    def parts(
        self, config: Any, stage: Any, session: Session, do: Callable[..., Any], numbers: list[int], facts: tuple
    ) -> list[Any]:  # fmt: skip
        """What `do` gave on each worker that did parts of these numbers."""
        ...

    def hosts(self, config: Any, stage: Any, session: Session, number: int) -> list[Host]:
        """So many machines for a stage's servers."""
        ...

    def ranks(self, config: Any, stage: Any, session: Session) -> None:
        """Run a trainer by ranks, see `ranks_of`."""
        ...

    def check(self, config: Any, stages: Sequence[Any]) -> None:
        """A UserError where the machines lack room for the ranks and servers of one of these stages."""
        ...


class Pool(Config):
    """The workers of one stage on a Ray cluster, its trainer ranks, or servers; what is not said follows from the machines."""

    workers: int | None = Field(
        None,
        ge=1,
        description="how many; by default as many workers as there is room for, and one rank of a trainer",
    )
    cpus: int | None = Field(
        None,
        ge=1,
        description="cores of each; by default a GPU's share of its machine's cores, or 4, of label 1",
    )
    gpus: int | None = Field(
        None,
        ge=0,
        description="GPUs of each; by default 1 for rollout, complete, trainers and servers where there are any",
    )


@dataclass(frozen=True)
class Size:
    """A pool as it will be."""

    workers: int
    cpus: int
    gpus: int


def pool_of(pools: Mapping[str, Pool], stage: Any) -> Pool:
    """A stage's pool, by its name or else by its kind."""
    return pools.get(stage.name) or pools.get(stage.kind) or Pool.model_validate({})


def ranks_of(pools: Mapping[str, Pool], stage: Any) -> int:
    """How many ranks a stage's trainer has on the cluster; 0 where it runs in the process of the command."""
    asked = stage.kind in TRAINERS and (stage.name in pools or stage.kind in pools)
    return (pool_of(pools, stage).workers or 1) if asked else 0


def check_pools(pools: Mapping[str, Pool], stages: Sequence[Any]) -> None:
    """A UserError for a pool of no stage, of one that the cluster does nothing for, or of what it cannot say."""
    done = [stage for stage in stages if stage.kind in CPUS or stage.kind in TRAINERS]
    known = [*dict.fromkeys([*(s.name for s in done), *CPUS, *TRAINERS, SERVERS])]
    for name in pools:
        if name not in known:
            close = nearest(name, known)
            raise UserError(
                f"got ray.{name}, expected the name or kind of a stage that workers or ranks do: {', '.join(known)}; "
                + (f"did you mean {close[0]}?" if close else "the others run in the first process")
            )
    if SERVERS in pools and pools[SERVERS].workers is not None:
        raise UserError(
            f"got ray.{SERVERS}.workers={pools[SERVERS].workers}; expected cpus and gpus, of each: how many servers there are "
            "says engine.spawn of a stage"
        )
    for stage in done:
        gpus = pool_of(pools, stage).gpus
        if ranks_of(pools, stage) and gpus is not None and gpus > 1:
            raise UserError(
                f"got ray gpus={gpus} for {stage.name}; expected 0 or 1, since each rank computes on one: set "
                f"ray.{stage.kind}.workers for more of them"
            )


def size_of(pool: Pool, stage: Any, nodes: Sequence[Node], num_parts: int) -> Size:
    """The pool of a stage with so many parts left on these machines; UserError where none of them has room for a worker.

    Workers on servers that are named by `engine.urls` are one: each would send them weights.
    """
    gpus = pool.gpus
    if gpus is None:
        gpus = int(stage.kind in DRAWS and any(node.get("GPU", 0) >= 1 for node in nodes))
    most = max((node.get("CPU", 0) for node in nodes if node.get("GPU", 0) >= gpus), default=0)
    cpus = pool.cpus
    if cpus is None:
        cpus = share_of(gpus, nodes) if gpus else max(1, int(min(CPUS[stage.kind], most)))
    room = sum(_on(node, cpus, gpus) for node in nodes)
    if not room:
        raise UserError(
            f"a worker of {stage.name} takes {cpus} CPUs and {gpus} GPUs and no machine of the cluster has them "
            f"({told(nodes)}); "
            f"expected less: set ray.{stage.kind}.cpus and ray.{stage.kind}.gpus"
        )
    workers = pool.workers or room
    engine = getattr(stage, "engine", None)
    if engine is not None and engine.urls:
        if pool.workers and pool.workers > 1:
            raise UserError(
                f"got ray workers={pool.workers} for {stage.name} with engine.urls; expected 1, since each would send the "
                "servers weights: one worker keeps many servers busy; or set engine.spawn"
            )
        workers = 1
    return Size(min(workers, num_parts), cpus, gpus)


def share_of(gpus: int, nodes: Sequence[Node]) -> int:
    """The cores that go with so many GPUs of one machine, by the machine that has the fewest."""
    fitting = [node for node in nodes if node.get("GPU", 0) >= gpus]
    return max(1, int(min((n.get("CPU", 0) // (n["GPU"] // gpus) for n in fitting), default=1)))


def told(nodes: Sequence[Node]) -> str:
    """What each machine has, in words."""
    has = [f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes]
    return ", ".join(has) or "nothing"


def _on(node: Node, cpus: int, gpus: int) -> int:
    """How many workers fit one machine."""
    of_cpus = int(node.get("CPU", 0) // cpus)
    return min(of_cpus, int(node.get("GPU", 0) // gpus)) if gpus else of_cpus
