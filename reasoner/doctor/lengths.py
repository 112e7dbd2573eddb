"""Checks of lengths: what of prompts, answers and worked solutions is beyond the limits, as each stage renders them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reasoner.doctor.case import Case, Lengths
from reasoner.doctor.findings import Finding

CUT = 0.1  # share of the worked solutions that may be longer than answers
LOST = 0.01  # share of demonstrations that may be left out or cut


def lengths(case: Case) -> Iterator[Finding]:
    """Prompts, solutions and max_tokens are within the model's positions, and solutions within max_tokens."""
    for key, stage in case.stages():
        config, given = case.architecture(stage), case.lengths(stage)
        if config is None or given is None or stage.kind == "init":
            continue
        room = getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 40
        if getattr(stage, "max_tokens", 0):
            yield from _answers(key, stage, given, room)
        elif given.solutions:
            yield from _demonstrations(key, stage, given, room)


def _answers(key: str, stage: Any, given: Lengths, room: int) -> Iterator[Finding]:
    """Of a stage that draws: each prompt has room for a whole answer, and an answer for a worked solution."""
    most, longest = stage.max_tokens, max(given.prompts)
    beyond = [n for n in given.prompts if n + most > room]
    if beyond:
        yield Finding(
            "lengths", "error", f"{key}.max_tokens", f"{_share(beyond, given.prompts)} prompts leave no room for {most:,} "
            f"tokens: the longest has {longest:,}, and the model has {room:,} positions",
            f"lower max_tokens to {room - longest:,}" if longest < room else "leave long problems out",
        )  # fmt: skip
    cut = [n for n in given.solutions if n > most]
    if cut:
        yield Finding(
            "lengths", "warning" if len(cut) > CUT * len(given.solutions) else "note", f"{key}.max_tokens",
            f"{_share(cut, given.solutions)} worked solutions are longer than the {most:,} tokens that answers may have",
            f"raise max_tokens to {max(cut):,}",
        )  # fmt: skip


def _demonstrations(key: str, stage: Any, given: Lengths, room: int) -> Iterator[Finding]:
    """Of a stage that imitates: a prompt and its solution are within the positions, and within what TRL keeps of them."""
    long = [n for n in given.demonstrations if n > room]
    if long:
        none = len(long) == len(given.demonstrations)
        yield Finding(
            "lengths", "error" if none else _severity(long, given.demonstrations), f"{key}.problems",
            f"{_share(long, given.demonstrations)} demonstrations are longer than the model's {room:,} positions, up to "
            f"{max(long):,} tokens: they are left out", "shorten them, or take a model with more positions",
        )  # fmt: skip
    kept = getattr(stage, "trl", {}).get("max_length")
    cut = [n for n in given.demonstrations if kept and kept < n <= room]
    if cut:
        yield Finding(
            "lengths", _severity(cut, given.demonstrations), f"{key}.trl.max_length",
            f"{_share(cut, given.demonstrations)} demonstrations are cut at {kept:,} tokens, and with them their answers: the "
            f"longest has {max(cut):,}", f"leave trl.max_length out, or raise it to {max(cut):,}",
        )  # fmt: skip


def _severity(some: Sequence[int], all: Sequence[int]) -> str:
    return "warning" if len(some) > LOST * len(all) else "note"


def _share(some: Sequence[int], all: Sequence[int]) -> str:
    return f"{len(some):,} of {len(all):,} ({len(some) / len(all):.0%})"
