"""How many bytes a stage needs on one device, and the nearest choice of its keys with which it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reasoner.economics.hardware import Hardware
from reasoner.economics.memory import activation_bytes, logit_bytes, training_memory
from reasoner.economics.policy_memory import engine_memory, policy_memory
from reasoner.economics.shape import count_parameters, shape_of
from reasoner.planning.lengths import ProblemSet
from reasoner.planning.work import Work
from reasoner.policy.adapters import LoRA
from reasoner.policy.logprobs import CHUNK_ELEMENTS
from reasoner.signals.advantages import CRITIC

LEAST_TOKENS = 256  # of a micro-batch that is still worth while


@dataclass(frozen=True)
class Need:
    """Bytes by what they hold; `total` is the most at once."""

    parts: Mapping[str, float]
    total: float


def need_of(stage: Any, config: Any, given: ProblemSet, hardware: Hardware, work: Work) -> Need | None:
    """What a stage needs on one device of this hardware; None where it runs no model."""
    longest = _longest(stage, given, work)
    for fields, needed in NEEDS:
        if all(hasattr(stage, field) for field in fields):
            return needed(stage, config, longest, hardware, work)
    return None


def _longest(stage: Any, given: ProblemSet, work: Work) -> int:
    after = getattr(stage, "max_tokens", 0) or max(given.solution, work.sequence - given.prompt)
    return max(1, int(given.longest_prompt + after))


def _way(stage: Any) -> tuple[str, int]:
    """(full, lora or 4bit; rank)."""
    if stage.lora is None:
        return "full", 0
    return ("4bit" if stage.lora.four_bit else "lora"), stage.lora.r


def _training(stage: Any, config: Any, longest: int, hardware: Hardware, tokens: int, copies: int) -> Need:
    trained, rank = _way(stage)
    packed = hasattr(stage, "tokens_per_batch")
    memory = training_memory(
        config, tokens, trained, rank, hardware.value_bytes, _checkpoints(stage), longest=longest if packed else 0,
        logit_elements=CHUNK_ELEMENTS if packed else None, on_gpu=hardware.is_gpu,
    )  # fmt: skip
    parts = {k: float(v) for k, v in vars(memory).items()}
    total = memory.total
    if copies and trained == "full":  # a reference beside, which an adapter's base is itself
        parts["reference"] = count_parameters(config).total * hardware.value_bytes
        total += parts["reference"]
    return Need(parts, total)


def _checkpoints(stage: Any) -> bool:
    trl = getattr(stage, "trl", {})
    return bool(getattr(stage, "gradient_checkpointing", False) or trl.get("gradient_checkpointing"))


def _rows(stage: Any, hardware: Hardware) -> int:
    trl = getattr(stage, "trl", {})
    share = -(-stage.batch_size // hardware.count)
    return int(trl.get("per_device_train_batch_size", share))


def imitating(stage: Any, config: Any, longest: int, hardware: Hardware, work: Work) -> Need:
    return _training(stage, config, longest, hardware, _rows(stage, hardware) * longest, 0)


def preferring(stage: Any, config: Any, longest: int, hardware: Hardware, work: Work) -> Need:
    return _training(stage, config, longest, hardware, 2 * _rows(stage, hardware) * longest, 1)


def distilling(stage: Any, config: Any, longest: int, hardware: Hardware, work: Work) -> Need:
    """As imitating, with a teacher beside, which is taken to be as big as the student."""
    need = imitating(stage, config, longest, hardware, work)
    teacher = float(count_parameters(config).total * hardware.value_bytes)
    return Need({**need.parts, "teacher": teacher}, need.total + teacher)


def judging(stage: Any, config: Any, longest: int, hardware: Hardware, work: Work) -> Need:
    return _training(stage, config, longest, hardware, stage.tokens_per_batch, 0)


def on_policy(stage: Any, config: Any, longest: int, hardware: Hardware, work: Work) -> Need:
    trained, rank = _way(stage)
    reward = stage.advantage.reward
    frozen = ["ref"] if stage.kl_weight else []
    frozen += [n for n in ("prm", "orm") if getattr(stage, n) and getattr(reward, f"{n}_weight") > 0]
    engine = engine_memory(
        config, stage.num_slots, longest, hardware.value_bytes,
        float(stage.problems_per_round * stage.tree.num_roots * longest) / hardware.count, trained != "full",
    )  # fmt: skip
    tokens = max(stage.tokens_per_batch, longest)
    memory = policy_memory(
        config, tokens, longest, engine, trained, rank, stage.advantage.method in CRITIC, frozen,
        hardware.value_bytes, stage.gradient_checkpointing, micro_batches=2, on_gpu=hardware.is_gpu,
    )  # fmt: skip
    return Need({k: float(v) for k, v in vars(memory).items()}, memory.total)


def drawing(stage: Any, config: Any, longest: int, hardware: Hardware, work: Work) -> Need:
    engine = engine_memory(
        config, stage.num_slots, longest, hardware.value_bytes, work.decoded + work.prefilled
    )
    weights = count_parameters(config).total * hardware.value_bytes
    models = 1 + sum(bool(getattr(stage, name, None)) for name in ("prm", "orm"))
    parts = {"weights": models * weights, "engine": engine.total}
    return Need(parts, sum(parts.values()))


Needed = Callable[[Any, Any, int, Hardware, Work], Need]
NEEDS: tuple[tuple[tuple[str, ...], Needed], ...] = (
    (("rounds", "problems_per_round", "tree"), on_policy),
    (("labels", "trl", "batch_size"), preferring),
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
    of_token = (
        activation_bytes(shape, config, 1, hardware.value_bytes, True, sequence, trained == "full")
        + logit_bytes(shape, 1)
    )  # fmt: skip
    high = max(0, int((room - fixed) / max(1.0, of_token))) * 4 + 1
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if total(middle) <= room else (low, middle - 1)
    return fixed, low
