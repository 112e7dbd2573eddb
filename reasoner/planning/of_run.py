"""What the stages of a config need and cost on each machine, and what a run of them did cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasoner.economics.hardware import Hardware
from reasoner.ledger import Ledger
from reasoner.planning.answers import Facts
from reasoner.planning.lengths import ProblemSet, counters, measure_sets, prompting_of, read_sets
from reasoner.planning.models import config_from, origin
from reasoner.planning.needs import nearest_fit, need_of
from reasoner.planning.of_model import answering, facts_of, gigabytes, reading
from reasoner.planning.pace import DECODING, PARALLEL, pace_of
from reasoner.planning.placement import rows as placement_rows
from reasoner.planning.work import Work, work_of
from reasoner.policy.models import TinyModel
from reasoner.registry import UserError
from reasoner.run_config import RunConfig

MEASURED = ("prefilled", "reused", "decoded", "scored", "trained", "verifications")


def plan_run(
    config: RunConfig,
    machines: Mapping[str, Hardware],
    table: Mapping[str, Hardware],
    mean_completion: float | None,
    against: Path | None,
) -> dict[str, Any]:
    """Plain values, as `--json` prints them. A stage that fits none of the machines is a UserError."""
    origins = _origins(config)
    configs = {name: config_from(o) for name, o in origins.items() if o}
    first = next((o for o in origins.values() if o), "")
    items, untold = read_sets(config.problems)
    prompting = prompting_of(first, config.prompt, items) if first else None
    sets = measure_sets(config.problems, items, counters(prompting), config.stages)
    works, notes = _works(config, sets, mean_completion)
    stages, seconds = [], {name: {} for name in machines}
    for stage in config.stages:
        work = works[stage.name]
        row: dict[str, Any] = {"stage": stage.name, "kind": stage.kind, "planned": work is not None}
        if work is not None:
            row |= {k: v for k, v in asdict(work).items() if k in MEASURED} | {
                "trajectories": work.trajectories
            }
            row["forward"], row["backward"] = work.forward, work.trained
        architecture = configs.get(stage.name)
        row["machines"] = {}
        for name, machine in machines.items():
            on = _on_machine(stage, work, architecture, sets, machine, table, seconds[name])
            row["machines"][name] = on
            seconds[name][stage.name] = on.get("expected_seconds", 0.0)
        stages.append(row)
    _check_some_fit(stages, machines)
    distinct = {_spoken(o): o for o in origins.values() if o}
    result = _result(origins, configs, config)
    return {
        "out": config.out,
        "models": [facts_of(told, config_from(one)) for told, one in distinct.items()],
        "hardware": {name: machine.model_dump() for name, machine in machines.items()},
        "stages": stages,
        "totals": {name: _total(stages, name, machine) for name, machine in machines.items()},
        "reading": reading(answering(result, machines)) if result is not None else [],
        "assumptions": [*untold, *notes, *_assumed(sets, mean_completion, prompting is not None)],
        "placement": placement_rows(config.stages, _ledger(against) if against else None),
        "against": _measured(_ledger(against), against, stages) if against else None,
    }  # fmt: skip


def _spoken(origin: TinyModel | str) -> str:
    return (
        f"the model that {getattr(origin, 'name', 'init')} makes" if isinstance(origin, TinyModel) else origin
    )


def _origins(config: RunConfig) -> dict[str, TinyModel | str]:
    earlier: dict[str, Any] = {}
    found: dict[str, TinyModel | str] = {}
    for stage in config.stages:
        found[stage.name] = origin(stage, earlier)
        earlier[stage.name] = stage
    return found


def _result(origins: Mapping[str, Any], configs: Mapping[str, Any], config: RunConfig) -> Any | None:
    """The architecture of the last stage that trains or makes a policy."""
    made = [s.name for s in config.stages if s.name in configs]
    return configs[made[-1]] if made else None


def _works(
    config: RunConfig, sets: Mapping[str, ProblemSet], mean_completion: float | None
) -> tuple[dict[str, Work | None], list[str]]:
    shown = [s.solution for s in sets.values() if s.solution]
    usual = mean_completion or (sum(shown) / len(shown) if shown else None)

    def completion(max_tokens: float) -> float:
        return max_tokens if usual is None else min(usual, max_tokens)

    done: dict[str, Work] = {}
    works: dict[str, Work | None] = {}
    notes = []
    stages = {s.name: s for s in config.stages}
    for stage in config.stages:
        work = work_of(stage, Facts(sets, completion, stages, done, mean_completion is not None))
        works[stage.name] = work
        if work is None:
            notes.append(f"{stage.name} is a stage whose fields no reading of the plan knows: not counted")
        elif hasattr(stage, "optimizer") and not work.trained and work.seconds is None:
            notes.append(f"{stage.name} learns from files of another run: its tokens are not counted")
        done[stage.name] = work or Work()
    return works, notes


def _on_machine(
    stage: Any, work: Work | None, architecture: Any, sets: Mapping[str, ProblemSet], machine: Hardware,
    table: Mapping[str, Hardware], seconds: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    if work is None or architecture is None:
        return {"fits": True}
    names = getattr(stage, "problems", ()) or tuple(sets)
    known = [sets[n] for n in names if n in sets] or [ProblemSet(0, 0, 0, work.sequence, 0)]
    given = max(known, key=lambda s: s.longest_prompt)
    found: dict[str, Any] = {"fits": True}
    need = need_of(stage, architecture, given, machine, work)
    if need is not None:
        found |= {"bytes": need.total, "parts": dict(need.parts), "has": machine.device_bytes}
        found["fits"] = need.total <= machine.device_bytes
        if not found["fits"]:
            found["nearest"] = nearest_fit(stage, architecture, given, machine, table, work)
    lora = getattr(stage, "lora", None) is not None
    recomputed = bool(getattr(stage, "gradient_checkpointing", False))
    pace = pace_of(work, architecture, machine, lora, recomputed)
    best, expected = pace.best, pace.expected
    if work.seconds is not None:
        best = expected = (
            work.seconds if work.seconds >= 0 else sum(seconds.get(s, 0.0) for s in stage.seconds_of)
        )
    found |= {
        "best_seconds": best, "expected_seconds": expected, "flops": pace.flops,
        "decode_tokens_per_second": pace.decode_tokens_per_second,
        "dollars": expected / 3600 * machine.dollars_per_hour,
    }  # fmt: skip
    return found


def _total(stages: list[dict[str, Any]], name: str, machine: Hardware) -> dict[str, float]:
    on = [row["machines"][name] for row in stages]
    return {
        key: sum(found.get(key, 0.0) for found in on)
        for key in ("best_seconds", "expected_seconds", "dollars", "flops")
    }


def _check_some_fit(stages: list[dict[str, Any]], machines: Mapping[str, Hardware]) -> None:
    """A UserError where some stage fits no machine: the one that comes nearest, by how much, and what would do."""
    for row in stages:
        on = {name: found for name, found in row["machines"].items() if "bytes" in found}
        if not on or any(found["fits"] for found in on.values()):
            continue
        name, found = min(on.items(), key=lambda x: x[1]["bytes"] - x[1]["has"])
        near = found["nearest"]
        todo = (
            f"the nearest choice that does: {near}"
            if near
            else "no choice of its keys or of the table does: a smaller model"
        )
        raise UserError(
            f"stage {row['stage']} does not fit {name}: it needs {gigabytes(found['bytes'])}, "
            f"{gigabytes(found['bytes'] - found['has'])} more than {gigabytes(found['has'])}; {todo}"
        )


def _assumed(sets: Mapping[str, ProblemSet], mean_completion: float | None, tokenized: bool) -> list[str]:
    shown = [s.solution for s in sets.values() if s.solution]
    if mean_completion:
        length = f"answers have {mean_completion:g} tokens, as given"
    elif shown:
        length = (
            "answers are as long as what their policy learned from: its demonstrations, or where verdicts reward it the "
            "solutions of its problems; an untrained one writes to max_tokens, and a model that no stage makes "
            f"{sum(shown) / len(shown):.0f} tokens, the mean of all solutions"
        )
    else:
        length = "answers are as long as max_tokens allows: give their mean by --completion"
    return [
        length + ("" if tokenized else "; tokens are counted as four letters each, for want of the tokenizer"),
        "every tree and every chain is of use, and no two chains of a problem begin alike: what is filtered out or shared "
        "costs less",
        f"time: expected is {PARALLEL:.0%} of the peak for what runs in parallel and {DECODING:.0%} of the roofline for "
        "decoding; best is all of both; loading, saving and verdicts are left out, and what it takes to start "
        "operations, which on models of a few million parameters is most of it",
    ]  # fmt: skip


def _ledger(run: Path) -> Ledger:
    path = run / "ledger.json"
    if not path.is_file():
        raise UserError(f"--against {run}: there is no {path}; expected the folder of a run")
    return Ledger.load(path)


def _measured(ledger: Ledger, run: Path, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ledger of a run beside the plan, stage by stage."""
    rows = []
    for row in stages:
        models = ledger.counts.get(row["stage"], {})
        counted = {name: sum(m.get(name, 0) for m in models.values()) for name in MEASURED}
        if row["stage"] not in ledger.seconds:
            continue
        rows.append(
            {"stage": row["stage"], "seconds": ledger.seconds[row["stage"]],
             "planned": {name: row.get(name, 0.0) for name in MEASURED}, "measured": counted,
             "planned_seconds": {name: found.get("expected_seconds", 0.0) for name, found in row["machines"].items()}}
        )  # fmt: skip
    if not rows:
        raise UserError(
            f"--against {run}: its ledger has the stages {', '.join(ledger.seconds) or 'none'} and the plan has "
            f"{', '.join(r['stage'] for r in stages)}; expected a run of the same config"
        )
    return rows
