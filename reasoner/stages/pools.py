"""How many workers of a cluster do a stage's parts, and what each of them takes (reasoner/cluster)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from reasoner.config import Config
from reasoner.registry import UserError, nearest

CPUS = {
    "rollout": 4,
    "complete": 4,
    "verify": 4,
    "label": 1,
}  # of a worker without a GPU, by the kind of its stage
DRAWS = ("rollout", "complete")  # these take a GPU for each worker where there are any
Node = Mapping[str, float]  # what one machine has: CPU, GPU


class Pool(Config):
    """The workers of one stage on a Ray cluster; what is not said follows from what the machines have."""

    workers: int | None = Field(None, ge=1, description="how many; by default as many as there is room for")
    cpus: int | None = Field(
        None,
        ge=1,
        description="cores of each; by default a GPU's share of its machine's cores, or 4, of label 1",
    )
    gpus: int | None = Field(
        None, ge=0, description="GPUs of each; by default 1 for rollout and complete where there are any"
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


def check_pools(pools: Mapping[str, Pool], stages: Sequence[Any]) -> None:
    """A UserError for a pool of no stage, or of one that is not done by workers."""
    done = [stage for stage in stages if stage.kind in CPUS]
    known = [*dict.fromkeys([*(s.name for s in done), *CPUS])]
    for name in pools:
        if name not in known:
            close = nearest(name, known)
            raise UserError(
                f"got ray.{name}, expected the name or kind of a stage that workers do: {', '.join(known)}; "
                + (f"did you mean {close[0]}?" if close else "the others run in the first process")
            )


def size_of(pool: Pool, stage: Any, nodes: Sequence[Node], num_parts: int) -> Size:
    """The pool of a stage with so many parts left on these machines; UserError where none of them has room for a worker.

    Workers on servers that are named by `engine.urls` are one: each would send them weights.
    """
    gpus = pool.gpus
    if gpus is None:
        gpus = int(stage.kind in DRAWS and any(node.get("GPU", 0) >= 1 for node in nodes))
    fitting = [node for node in nodes if node.get("GPU", 0) >= gpus]
    most = max((node.get("CPU", 0) for node in fitting), default=0)
    cpus = pool.cpus
    if cpus is None and gpus:
        cpus = int(min(node.get("CPU", 0) // (node["GPU"] // gpus) for node in fitting)) if fitting else 1
    cpus = max(1, cpus if cpus is not None else int(min(CPUS[stage.kind], most)))
    room = sum(_on(node, cpus, gpus) for node in nodes)
    if not room:
        has = ", ".join(f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in nodes) or "nothing"
        raise UserError(
            f"a worker of {stage.name} takes {cpus} CPUs and {gpus} GPUs and no machine of the cluster has them ({has}); "
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


def _on(node: Node, cpus: int, gpus: int) -> int:
    """How many workers fit one machine."""
    of_cpus = int(node.get("CPU", 0) // cpus)
    return min(of_cpus, int(node.get("GPU", 0) // gpus)) if gpus else of_cpus
