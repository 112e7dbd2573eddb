"""Where the models of a stage live, from its keys alone; and what each of them took, from a run's ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reasoner.ledger import Ledger
from reasoner.signals.advantages import CRITIC
from reasoner.trainers.policy_config import uses

HERE = "in this process"
ADAPTER = "adapter on the policy's base"
CUT = "cut over all processes"
SANDBOX = "processes of the sandbox, on the CPU"
LIKE_POLICY = "adapter on the policy's base, where it was trained as one on that; else whole, in this process"


@dataclass(frozen=True)
class Placed:
    """One role of a stage: which model plays it, and where that lives."""

    stage: str
    role: str
    model: str
    where: str


def placement(stages: list[Any]) -> list[Placed]:
    """The roles of each stage, in the order of the stages; those whose models run nowhere are left out."""
    return [
        Placed(stage.name, role, model, where) for stage in stages for role, model, where in _roles_of(stage)
    ]


Role = tuple[str, str, str]


def _roles_of(stage: Any) -> Iterator[Role]:
    roles = ROLES.get(stage.kind)
    if roles is not None:
        yield from roles(stage)


def _drawn(stage: Any, model: str, role: str = "policy") -> Role:
    """A model that only draws: in this process, or on servers."""
    return role, model, _engine(stage.engine) or HERE


def _engine(engine: Any) -> str:
    """Where an engine on servers is; empty for the one in this process."""
    if engine.kind == "local":
        return ""
    num = len(engine.urls) or engine.spawn
    servers = f"{num} {engine.kind} server{'s' if num > 1 else ''}"
    return f"{servers} at {', '.join(engine.urls)}" if engine.urls else f"{servers} of its own"


def _trained(stage: Any) -> str:
    lora, shard = getattr(stage, "lora", None), getattr(stage, "shard", None)
    base = f"{HERE}, an adapter on a frozen base{' in 4 bits' if lora.four_bit else ''}" if lora else HERE
    return f"{base}, {CUT}" if shard is not None else base


def _of_rollout(stage: Any) -> Iterator[Role]:
    yield _drawn(stage, stage.model)
    for role in ("prm", "orm"):
        if getattr(stage, role):
            yield role, getattr(stage, role), f"{HERE}, weights of its own"
    yield "verifier", "", SANDBOX


def _of_inventing(stage: Any) -> Iterator[Role]:
    yield _drawn(stage, stage.model, "writer")
    yield _drawn(stage, stage.solver or stage.model, "solver")


def _of_completion(stage: Any) -> Iterator[Role]:
    yield _drawn(stage, stage.model)
    yield "verifier", "", SANDBOX


def _of_verify(stage: Any) -> Iterator[Role]:
    yield "verifier", "", SANDBOX


def _of_label(stage: Any) -> Iterator[Role]:
    if stage.critic:
        yield _drawn(stage, stage.critic, "critique")


def _of_training(stage: Any) -> Iterator[Role]:
    role = stage.kind if stage.kind in ("prm", "orm", "pairwise") else "policy"
    yield role, stage.model, _trained(stage)
    if stage.kind == "dpo":
        alone = f"{HERE}, a frozen copy" + (f", {CUT}" if stage.shard is not None else "")
        yield "ref", stage.model, "the policy's base, adapter off" if stage.lora else alone


def _of_distilling(stage: Any) -> Iterator[Role]:
    yield "policy", stage.model, _trained(stage)
    yield "teacher", stage.teacher, f"{HERE}, weights of its own"


def _of_on_policy(stage: Any) -> Iterator[Role]:
    whole = f"{HERE}, weights of its own" + (f", {CUT}" if stage.shard is not None else "")
    is_adapter = stage.lora is not None
    yield "policy", stage.model, _trained(stage)
    if drawn := _engine(stage.engine):
        yield "sampler", stage.model, f"{drawn}, new weights each round"
    elif stage.shard is not None:
        yield "sampler", stage.model, f"{HERE}, a whole copy on each"
    else:
        yield "sampler", stage.model, "the policy itself"
    if stage.advantage.method in CRITIC:
        of_own = LIKE_POLICY if is_adapter else whole
        starts = stage.critic or stage.model
        yield "critic", starts, ADAPTER if is_adapter and not stage.critic else of_own
    if stage.kl_weight:
        kept = "the policy's base, or a frozen adapter on it" if is_adapter else f"{whole}, a frozen copy"
        yield "ref", stage.model, kept
    for role in ("prm", "orm"):
        if getattr(stage, role) and uses(stage, role):
            yield role, getattr(stage, role), LIKE_POLICY if is_adapter else whole
    if stage.implicit_prm is not None:
        yield "implicit_prm", stage.model, f"{ADAPTER if is_adapter else whole}, with a frozen reference"
    yield "verifier", "", SANDBOX


ROLES: Mapping[str, Callable[[Any], Iterator[Role]]] = {
    "invent": _of_inventing,
    "rollout": _of_rollout,
    "complete": _of_completion,
    "verify": _of_verify,
    "label": _of_label,
    "sft": _of_training,
    "dpo": _of_training,
    "prm": _of_training,
    "orm": _of_training,
    "pairwise": _of_training,
    "distill": _of_distilling,
    "ppo": _of_on_policy,
}


def told(stage: Any) -> str:
    """The stage's roles in one line, those at the same place together; empty where one place has all."""
    places = places_of(_roles_of(stage))
    said = "; ".join(f"{', '.join(roles)}: {where}" for where, roles in places.items())
    return f"{stage.name}: {said}" if len(places) > 1 else ""


def places_of(roles: Iterable[Role]) -> dict[str, list[str]]:
    """The roles by place."""
    places: dict[str, list[str]] = {}
    for role, _, where in roles:
        places.setdefault(where, []).append(role)
    return places


def rows(stages: list[Any], ledger: Ledger | None = None) -> list[dict[str, Any]]:
    """Plain values of the placement; with a run's ledger, each role's share of its stage's operations, and verifiers' core
    seconds.

    Who draws and who is trained are booked as one policy.
    """
    found = [asdict(placed) for placed in placement(stages)]
    if ledger is not None:
        for row in found:
            row |= _measured(ledger.counts.get(row["stage"], {}), row["role"])
    return found


def _measured(counts: Mapping[str, Mapping[str, float]], role: str) -> dict[str, float]:
    own, found = counts.get(role, {}), {}
    if "flops" in own:
        found["share_of_operations"] = own["flops"] / sum(c.get("flops", 0) for c in counts.values())
    if "verifier_seconds" in own:
        found["core_seconds"] = own["verifier_seconds"]
    return found
