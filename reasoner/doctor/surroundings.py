"""Checks of the machine: number formats, memory, disk, isolation, wandb, versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasoner.doctor.case import Case
from reasoner.doctor.findings import Finding
from reasoner.economics.memory import lora_parameters
from reasoner.economics.shape import inner_linears
from reasoner.pipeline import check
from reasoner.planning.lengths import counters, measure_sets
from reasoner.planning.peaks import facts_of, peaks
from reasoner.planning.room import check_room
from reasoner.registry import UserError
from verifiers.sandbox import pool
from verifiers.sandbox.probe import at_least


def references(case: Case) -> Iterator[Finding]:
    """What the keys name is there: stages, problem sets, data, models."""
    try:
        check(case.config)
    except UserError as problem:
        text = str(problem)
        key = next((w.rstrip(":") for w in text.split() if w.startswith(("stages.", "problems."))), "")
        yield Finding("references", "error", _numbered(case, key), text, "as the line says")


def _numbered(case: Case, key: str) -> str:
    """stages.NAME.key as stages.NUMBER.key."""
    parts = key.split(".")
    names = [s.name for s in case.config.stages]
    if parts[0] == "stages" and len(parts) > 1 and parts[1] in names:
        parts[1] = str(names.index(parts[1]))
    return ".".join(parts)


def formats(case: Case) -> Iterator[Finding]:
    """What the config asks for, the hardware does."""
    if case.machine.bfloat16:
        return
    device = "GPU" if case.machine.on_gpu else "CPU"
    for use in ("training", "inference"):
        asked = getattr(case.config.precision, use)
        if asked in ("bfloat16", "float16") and not (asked == "float16" and case.machine.on_gpu):
            yield Finding(
                "formats", "warning", f"precision.{use}", f"{asked} on a {device} without hardware for it is up to a hundred "
                "times slower", f"set precision.{use}=auto",
            )  # fmt: skip


def four_bit(case: Case) -> Iterator[Finding]:
    for key, stage in case.stages():
        if getattr(getattr(stage, "lora", None), "four_bit", False) and not case.machine.four_bit:
            yield Finding(
                "four_bit", "error", f"{key}.lora.four_bit", "a base in 4 bits needs bitsandbytes, which is not there",
                "pip install 'reasoner[qlora]', or set four_bit=false",
            )  # fmt: skip


def adapters(case: Case) -> Iterator[Finding]:
    """The layers that get an adapter are there."""
    for key, stage in case.stages():
        lora, config = getattr(stage, "lora", None), case.architecture(stage)
        if lora is None or config is None or lora.target_modules == "all-linear":
            continue
        names = [lora.target_modules] if isinstance(lora.target_modules, str) else lora.target_modules
        gone = [n for n in names if not lora_parameters(config, lora.r, [n])]
        if gone:
            there = sorted({n.rpartition(".")[2] for n in inner_linears(config)})
            yield Finding(
                "adapters", "error", f"{key}.lora.target_modules", f"the model has no layer called {', '.join(gone)}",
                f"take some of {', '.join(there)}, or all-linear",
            )  # fmt: skip


def memory(case: Case) -> Iterator[Finding]:
    """Every stage fits what is free now."""
    stages = case.config.stages
    facts = facts_of(stages, measure_sets(case.config.problems, case.items, counters(case.prompting), stages))
    for peak in peaks(stages, facts, case.architecture, case.machine.free.hardware):
        if peak.is_tight:
            near = peak.nearest()
            yield Finding(
                "memory", "error" if peak.is_over else "warning", f"stages.{peak.number}", peak.told(),
                f"the nearest choice that fits: {near}" if near else "take a smaller model",
            )  # fmt: skip


def disk(case: Case) -> Iterator[Finding]:
    """What the stages write has room."""
    try:
        check_room(
            case.config.stages, case.config.problems, Path(case.config.out), free=case.machine.free_disk
        )
    except UserError as problem:
        yield Finding("disk", "error", "out", str(problem), "as the line says")


def isolation(case: Case) -> Iterator[Finding]:
    """Programs and puzzle answers run behind the tier that is asked for; asked only where some are judged."""
    judged = {i.problem.verifier for n in case.judged() for i in case.items[n][:50]}
    if not judged & {"code", "logic"}:
        return
    asked = case.config.min_isolation
    try:
        slot = pool.Slot("bare")
    except pool.SlotFailed as problem:
        yield Finding(
            "isolation", "error", "min_isolation", f"no program can be run here: {problem}", "see python -m verifiers probe"
        )  # fmt: skip
        return
    found = pool.isolation_of(slot)
    problems = "; ".join(slot.problems)
    slot.end()
    if not at_least(found.tier, asked):
        yield Finding(
            "isolation", "error", "min_isolation", f"this machine isolates programs by tier {found.tier} and {asked} is asked "
            f"for: {problems or 'see python -m verifiers probe'}", "run where namespaces and seccomp are allowed, or lower it",
        )  # fmt: skip


def tracking(case: Case) -> Iterator[Finding]:
    """A wandb run that goes online has a login."""
    options: dict[str, Any] | None = case.config.wandb
    if options is None or options.get("mode") in ("offline", "disabled") or case.machine.logged_in:
        return
    yield Finding(
        "tracking", "warning", "wandb", "wandb is asked for online and there is no login on this machine",
        "run wandb login, or set wandb={mode: offline}",
    )  # fmt: skip


def versions(case: Case) -> Iterator[Finding]:
    """What is installed is what the package asks for."""
    for told in case.machine.outdated:
        yield Finding("versions", "warning", "", told, "install what launch/constraints.txt names")


def folder(case: Case) -> Iterator[Finding]:
    """The run's folder can be written."""
    out = Path(case.config.out).expanduser().absolute()
    there = next(p for p in (out, *out.parents) if p.exists())
    if not there.is_dir():
        yield Finding("folder", "error", "out", f"{there} is a file", "set out= to a folder")
