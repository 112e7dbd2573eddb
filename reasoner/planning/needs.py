"""How many bytes a stage needs on one device, and the nearest choice of its keys with which it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reasoner.economics.hardware import Hardware
from reasoner.economics.memory import activation_bytes, logit_bytes, tiled_logit_bytes, training_memory
from reasoner.economics.policy_memory import EngineMemory, PolicyMemory, engine_memory, policy_memory
from reasoner.economics.shape import count_parameters, shape_of
from reasoner.engine.kv import ROWS, capacity
from reasoner.planning.lengths import ProblemSet
from reasoner.planning.work import Work, chains_of
from reasoner.policy.adapters import LoRA
from reasoner.policy.logprobs import CHUNK_ELEMENTS
from reasoner.signals.advantages import CRITIC
from reasoner.trainers.policy_config import uses

LEAST_TOKENS = 256  # of a micro-batch that is still worth while


@dataclass(frozen=True)
class Need:
    """Bytes by what they hold; `total` is the most at once."""

    parts: Mapping[str, float]
    total: float


def need_of(stage: Any, config: Any, given: ProblemSet, hardware: Hardware, work: Work) -> Need | None:
    """What a stage needs on one device of this hardware; None where it runs no model.

    Slots that no sequence will have take nothing.
    """
    longest = _longest(stage, given, work)
    if hasattr(stage, "num_slots"):
        taken = capacity(max(1, round(work.at_once)), stage.num_slots, ROWS)
        stage = stage.model_copy(update={"num_slots": taken})
    for fields, needed in NEEDS:
        if all(hasattr(stage, field) for field in fields):
            return needed(stage, config, longest, hardware, work)
    return None


def _longest(stage: Any, given: ProblemSet, work: Work) -> int:
    after = getattr(stage, "max_tokens", 0) or max(given.solution, work.sequence - given.prompt)
    shown = getattr(stage, "examples", 1)  # problems in one prompt
    return max(1, int(given.longest_prompt * shown + after))


def _way(stage: Any) -> tuple[str, int]:
    """(full, lora or 4bit; rank)."""
    if stage.lora is None:
        return "full", 0
    return ("4bit" if stage.lora.four_bit else "lora"), stage.lora.r


def _training(
    stage: Any, config: Any, longest: int, hardware: Hardware, tokens: int, logits: float, copies: int = 0
) -> Need:
    """`logits` are the bytes of what becomes of the vocabulary's logits."""
    trained, rank = _way(stage)
    memory = training_memory(
        config, tokens, trained, rank, hardware.value_bytes, _checkpoints(stage), _shards(stage, hardware),
        longest=longest if hasattr(stage, "tokens_per_batch") else 0, logit_elements=0, on_gpu=hardware.is_gpu,
    )  # fmt: skip
    memory = replace(memory, logits=logits, **(OFFLOADED if _keeps_on_cpu(stage, hardware) else {}))
    parts = {k: float(v) for k, v in vars(memory).items()}
    total = memory.total
    if copies and trained == "full":  # a reference beside, which an adapter's base is itself
        parts["reference"] = count_parameters(config).total * hardware.value_bytes / _shards(stage, hardware)
        total += parts["reference"]
    return Need(parts, total)


def _logits(stage: Any, config: Any, hardware: Hardware, tokens: int) -> float:
    """Of TRL's losses, or where the model is cut of those of our own loop."""
    shape = shape_of(config)
    if getattr(stage, "shard", None) is not None:
        return logit_bytes(shape, tokens, CHUNK_ELEMENTS)
    return tiled_logit_bytes(shape, tokens, hardware.value_bytes, stage.lora is None, hardware.is_gpu)


OFFLOADED = {"weights": 0.0, "gradients": 0.0, "optimizer": 0.0, "scratch": 0.0}


def _shards(stage: Any, hardware: Hardware) -> int:
    """Over how many devices weights, gradients and moments are cut."""
    return hardware.count if getattr(stage, "shard", None) is not None else 1


def _keeps_on_cpu(stage: Any, hardware: Hardware) -> bool:
    shard = getattr(stage, "shard", None)
    return hardware.is_gpu and shard is not None and shard.offload


def _checkpoints(stage: Any) -> bool:
    trl = getattr(stage, "trl", {})
    return bool(getattr(stage, "gradient_checkpointing", False) or trl.get("gradient_checkpointing"))


def _rows(stage: Any, hardware: Hardware) -> int:
    trl = getattr(stage, "trl", {})
    share = -(-stage.batch_size // hardware.count)
    return int(trl.get("per_device_train_batch_size", share))


def imitating(stage: Any, config: Any, longest: int, hardware: Hardware, work: Work) -> Need:
    tokens = _rows(stage, hardware) * longest * (2 if getattr(stage, "two_tasks", None) else 1)
    return _training(stage, config, longest, hardware, tokens, _logits(stage, config, hardware, tokens))


def preferring(stage: Any, config: Any, longest: int, hardware: Hardware, work: Work) -> Need:
    tokens = 2 * _rows(stage, hardware) * longest
    return _training(stage, config, longest, hardware, tokens, _logits(stage, config, hardware, tokens), 1)


def comparing(stage: Any, config: Any, longest: int, hardware: Hardware, work: Work) -> Need:
    """Both sides of each pair, and one logit for each instead of the vocabulary's."""
    return _training(stage, config, longest, hardware, 2 * _rows(stage, hardware) * longest, 0.0)


def distilling(stage: Any, config: Any, longest: int, hardware: Hardware, work: Work) -> Need:
    """As imitating, with a teacher beside, which is taken to be as big as the student."""
    need = imitating(stage, config, longest, hardware, work)
    teacher = float(count_parameters(config).total * hardware.value_bytes)
    return Need({**need.parts, "teacher": teacher}, need.total + teacher)


def judging(stage: Any, config: Any, longest: int, hardware: Hardware, work: Work) -> Need:
    """Packed solutions, as many as fit, but no more than there are in an update."""
    most = -(-stage.batch_size // hardware.count) * longest
    tokens = max(longest, min(stage.tokens_per_batch, most))
    reads_all = stage.reads in ("likelihood", "implicit")
    logits = logit_bytes(shape_of(config), tokens, CHUNK_ELEMENTS) if reads_all else 0.0
    return _training(stage, config, longest, hardware, tokens, logits, copies=int(stage.reads == "implicit"))


def on_policy(stage: Any, config: Any, longest: int, hardware: Hardware, work: Work) -> Need:
    trained, rank = _way(stage)
    implicit = stage.implicit_prm is not None
    frozen = ["ref"] if stage.kl_weight or (implicit and trained == "full") else []
    frozen += ["its reference"] if implicit and trained != "full" else []
    frozen += [n for n in ("prm", "orm") if getattr(stage, n) and uses(stage, n)]
    is_local, shards = stage.engine.kind == "local", _shards(stage, hardware)
    finished = float(stage.problems_per_round * stage.tree.num_roots * longest) / hardware.count
    engine = (
        _bounded(
            stage,
            engine_memory(
                config, stage.num_slots, longest, hardware.value_bytes, finished, trained != "full"
            ),
        )
        if is_local
        else SERVED
    )
    memory = policy_memory(
        config, _positions(stage, longest, hardware, work), longest, engine, trained, rank,
        stage.advantage.method in CRITIC, frozen, hardware.value_bytes, stage.gradient_checkpointing, shards,
        micro_batches=2, on_gpu=hardware.is_gpu, implicit=implicit,
    )  # fmt: skip
    if _keeps_on_cpu(stage, hardware):
        memory = replace(memory, **OFFLOADED)
    parts, total = _parts(memory)
    if shards > 1 and is_local:  # each draws from a whole copy
        parts["sampler"] = float(count_parameters(config).total * hardware.value_bytes)
        total += parts["sampler"]
    return Need(parts, total)


def _bounded(stage: Any, engine: EngineMemory) -> EngineMemory:
    """With no more for sequences under way than the stage allows."""
    most = stage.engine.kv_bytes
    return engine if most is None else replace(engine, slots=min(engine.slots, float(most)))


SERVED = EngineMemory(0.0, 0.0, 0.0, 0.0)  # of an engine on servers


def _parts(memory: PolicyMemory) -> tuple[dict[str, float], float]:
    return {k: float(v) for k, v in vars(memory).items()}, memory.total


def _positions(stage: Any, longest: int, hardware: Hardware, work: Work) -> int:
    """Packed positions of a pass: tokens_per_batch, a whole path where it is longer, and no more than an update has."""
    whole, inside = chains_of(stage.tree)
    prompt = max(1, longest - stage.max_tokens)
    of_tree = int(prompt + (whole + inside / 2) * min(stage.max_tokens, max(1.0, work.sequence - prompt)))
    trees = -(-stage.problems_per_round // (hardware.count * stage.minibatches))
    return max(longest, min(stage.tokens_per_batch, trees * max(longest, of_tree)))


def drawing(stage: Any, config: Any, longest: int, hardware: Hardware, work: Work) -> Need:
    """The models that draw and score; servers have their own memory."""
    weights = count_parameters(config).total * hardware.value_bytes
    models = sum(bool(getattr(stage, name, None)) for name in ("prm", "orm"))
    if stage.engine.kind != "local":
        return Need({"weights": models * weights, "engine": 0.0}, models * weights)
    engine = _bounded(
        stage,
        engine_memory(config, stage.num_slots, longest, hardware.value_bytes, work.decoded + work.prefilled),
    )
    parts = {"weights": (1 + models) * weights, "engine": engine.total}
    return Need(parts, sum(parts.values()))


Needed = Callable[[Any, Any, int, Hardware, Work], Need]
NEEDS: tuple[tuple[tuple[str, ...], Needed], ...] = (
    (("rounds", "problems_per_round", "tree"), on_policy),
    (("labels", "trl", "batch_size", "beta"), preferring),
    (("labels", "trl", "batch_size"), comparing),
    (("teacher", "trl", "batch_size"), distilling),
    (("problems", "trl", "batch_size"), imitating),
    (("labels", "tokens_per_batch"), judging),
    (("num_slots", "max_tokens"), drawing),
)


def choices(stage: Any, longest: int) -> Iterator[tuple[str, Any]]:
    """(keys as one would write them, the stage with them), each with those before it: from what costs least to what most."""
    said: list[str] = []

    def changed(**update: Any) -> tuple[str, Any]:
        nonlocal stage
        stage = stage.model_copy(update=update)
        for key, value in update.items():
            text = str(value).lower() if isinstance(value, bool) else value
            said[:] = [s for s in said if not s.startswith(f"{key}=")]
            said.append(f"{key}={text if not isinstance(value, LoRA) else _written(value)}")
        return " ".join(said), stage

    fields = type(stage).model_fields
    least = max(LEAST_TOKENS, longest)
    while "tokens_per_batch" in fields and stage.tokens_per_batch // 2 >= least:
        yield changed(tokens_per_batch=stage.tokens_per_batch // 2)
    while "num_slots" in fields and stage.num_slots > 8:
        yield changed(num_slots=stage.num_slots // 2)
    if "gradient_checkpointing" in fields and not stage.gradient_checkpointing:
        yield changed(gradient_checkpointing=True)
    if "trl" in fields and not stage.trl.get("gradient_checkpointing"):
        yield changed(trl={**stage.trl, "gradient_checkpointing": True})
    while "trl" in fields and "batch_size" in fields and stage.batch_size > 1:
        yield changed(batch_size=stage.batch_size // 2)
    if "lora" in fields and stage.lora is None:
        yield changed(lora=LoRA.model_validate({}))
    adapter: Any = getattr(stage, "lora", None)
    if adapter is not None and not adapter.four_bit:
        yield changed(lora=adapter.model_copy(update={"four_bit": True}))


def _written(lora: LoRA) -> str:
    return f"{{r: {lora.r}, alpha: {lora.alpha}{', four_bit: true' if lora.four_bit else ''}}}"


def nearest_fit(
    stage: Any, config: Any, given: ProblemSet, hardware: Hardware, table: Mapping[str, Hardware], work: Work
) -> str:
    """The least change of the stage's keys with which it fits, else the smallest machine on which it does as it stands."""
    for said, changed in choices(stage, _longest(stage, given, work)):
        need = need_of(changed, config, given, hardware, work)
        if need is not None and need.total <= hardware.device_bytes:
            return said
    for name, other in sorted(table.items(), key=lambda x: x[1].device_bytes):
        need = need_of(stage, config, given, other, work)
        if need is not None and need.total <= other.device_bytes:
            return f"the machine {name}"
    return ""


def largest_micro_batch(
    config: Any, hardware: Hardware, trained: str, sequence: int, five_models: bool = False
) -> tuple[float, int]:
    """(bytes that are there before any token, the most tokens of a step of training with checkpointed layers).

    `sequence` is the longest sequence; five_models are PPO's, drawn beside by an engine of eight sequences.
    """
    shape, room = shape_of(config), hardware.device_bytes
    sizes = {"bytes_per_value": hardware.value_bytes, "checkpointing": True, "on_gpu": hardware.is_gpu}

    def total(tokens: int) -> float:
        if five_models:
            engine = engine_memory(
                config, 8, sequence, hardware.value_bytes, 8.0 * sequence, trained != "full"
            )
            return policy_memory(config, tokens, sequence, engine, trained, **sizes).total
        return training_memory(
            config, tokens, trained, longest=sequence, logit_elements=CHUNK_ELEMENTS, **sizes
        ).total

    fixed = total(0)
    kept = activation_bytes(shape, config, 1, hardware.value_bytes, True, sequence, trained == "full")
    of_token = sum(kept) + logit_bytes(shape, 1)
    high = int(room / max(1.0, of_token)) * 4 + 1 if fixed <= room else 0
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if total(middle) <= room else (low, middle - 1)
    return fixed, low
