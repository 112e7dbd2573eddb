"""Run the stages of one YAML in order, each restartable: a finished stage leaves a marker and is not run again."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from accelerate import PartialState
from pydantic import Field

from reasoner.config import Config, difference, save_resolved
from reasoner.data.prompting import PromptConfig
from reasoner.data.sources import SOURCES, SourceConfig
from reasoner.data.splits import ContaminationConfig
from reasoner.evals.report import write_report
from reasoner.evals.rows import MetricRow, from_json, to_json
from reasoner.ledger import Ledger
from reasoner.registry import UserError, lookup
from reasoner.stages import STAGES, TRAINERS, StageConfig
from reasoner.stages.context import Context, clear
from reasoner.store import is_done, mark_done, read_json, write_text
from reasoner.tracking import Tracker
from reasoner.trainers.checkpoint import latest_step
from reasoner.trainers.loop import Session
from verifiers.sandbox import pool

CHECKPOINTS = "checkpoints"  # in a stage's folder, while it trains


class RunConfig(Config):
    """A whole experiment: problem sets and the stages that use them."""

    out: str = Field("", description="folder of the run; by default runs/<name of the config file>")
    seed: int = Field(0, description="seed of everything random")
    title: str = Field("", description="headline of the report")
    wandb: dict[str, Any] | None = Field(
        None, description="options of wandb.init, e.g. {project: mine, mode: offline}"
    )
    min_isolation: Literal["A", "B", "B-landlock", "C"] = Field(
        "B", description="verifiers run programs behind at least this tier, or not at all; see python -m verifiers probe"
    )
    prompt: PromptConfig = PromptConfig()
    contamination: ContaminationConfig = ContaminationConfig()
    problems: dict[str, list[SourceConfig]] = Field(
        description="problem sets by name; problems of `test` are kept out of all training"
    )
    stages: list[Annotated[StageConfig, Field(discriminator="kind")]] = Field(
        min_length=1, description="what to do, in order"
    )


# (stage, done, total, note, numbers): the numbers are the stage's latest metrics, its tokens by counter, and, when it has
# ended, its seconds.
Progress = Callable[[str, int, int, str, Mapping[str, Any]], None]


def run(config: RunConfig, progress: Progress = lambda *_: None) -> list[MetricRow]:
    """Run what is not done yet; returns the metric rows. Another config in the same folder is a UserError."""
    names = [s.name for s in config.stages]
    if len(set(names)) != len(names):
        raise UserError(
            f"stage names repeat: {', '.join(names)}; expected each once, set name: in the stages"
        )
    _check_names(config)
    pool.require(config.min_isolation)
    state = PartialState(cpu=not torch.cuda.is_available())
    out = Path(config.out)
    if state.is_main_process:
        _claim(config, out)
    state.wait_for_everyone()
    ledger = Ledger.load(out / "ledger.json") if (out / "ledger.json").is_file() else Ledger()
    for stage in config.stages:
        folder = out / "stages" / stage.name
        if is_done(folder):
            progress(stage.name, 1, 1, "done before", {"seconds": ledger.seconds.get(stage.name, 0.0)})
            continue
        if state.is_main_process:
            clear(stage.name, out)
            folder.mkdir(parents=True, exist_ok=True)
            ledger.seconds.pop(stage.name, None)
            ledger.counts.pop(stage.name, None)
        state.wait_for_everyone()
        if stage.kind in TRAINERS or state.is_main_process:
            try:
                _run_stage(stage, config, out, ledger, state.is_main_process, progress)
            except UserError:
                if state.is_main_process:
                    _withdraw(stage.name, config, out)
                raise
        state.wait_for_everyone()
        if state.is_main_process:
            ledger.save(out / "ledger.json")
            mark_done(folder, {"seconds": ledger.seconds[stage.name]})
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        state.wait_for_everyone()
    return _conclude(config, out, ledger) if state.is_main_process else []


def _run_stage(
    stage, config: RunConfig, out: Path, ledger: Ledger, is_main: bool, progress: Progress
) -> None:
    folder = out / "stages" / stage.name
    models = out / "models" / stage.name if stage.kind in (*TRAINERS, "init") else folder
    checkpoints = folder / CHECKPOINTS
    latest: dict[str, Any] = {}

    def log(metrics: Mapping[str, Any], step: int) -> None:
        tracker.log({"stage": stage.name, **metrics}, step)
        latest.update(metrics)

    def tell(done: int, total: int, note: str, **more: float) -> None:
        counted = sum(map(Counter, ledger.counts.get(stage.name, {}).values()), Counter())
        progress(stage.name, done, total, note, {**latest, **counted, **more})

    tell(0, 0, "")
    with (
        Tracker(folder, config.wandb, latest_step(checkpoints), is_main) as tracker,
        ledger.stage(stage.name),
    ):
        session = Session(
            out=models,
            ledger=ledger,
            log=log,
            progress=tell,
            seed=config.seed,
            checkpoints=checkpoints,
        )
        STAGES[stage.kind](stage, Context(out, config.problems, config.prompt, session, config.contamination))
    tell(1, 1, "", seconds=ledger.seconds[stage.name])


def _check_names(config: RunConfig) -> None:
    """Sources and problem sets exist; every model is an earlier stage, a folder, or may be a name on the hub."""
    for sources in config.problems.values():
        for source in sources:
            lookup(SOURCES, source.name, "problem source")
    for stage in config.stages:
        for name in (*getattr(stage, "problems", ()), *getattr(stage, "demonstrations", ())):
            lookup(config.problems, name, "problem set")
    earlier: set[str] = set()
    for stage in config.stages:
        for key in ("model", "critic", "prm", "orm"):
            name = getattr(stage, key, None)
            if name and name not in earlier and "/" not in name and not Path(name).is_dir():
                known = ", ".join(sorted(earlier)) or "none so far"
                raise UserError(
                    f"stages.{stage.name}.{key} is {name!r}, which is no earlier stage ({known}) and no folder; "
                    "expected one of these, or a hub name like Qwen/Qwen2.5-0.5B"
                )
            if name and name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
                raise UserError(
                    f"stages.{stage.name}.{key}: there is no folder {name}; expected a Hugging Face model folder"
                )
        earlier.add(stage.name)


def _claim(config: RunConfig, out: Path) -> None:
    """Make the folder this config's own; one in which another config has finished a stage is a UserError."""
    saved = out / "config.yaml"
    if saved.is_file() and any((out / "stages").glob("*/done")):
        other = yaml.safe_load(saved.read_text(encoding="utf-8"))
        found = [d for d in difference(other, config.model_dump(mode="json")) if not d.startswith("out:")]
        if found:
            raise UserError(
                f"{out} holds a run of another config ({'; '.join(found[:3])}{' …' if len(found) > 3 else ''}); "
                "expected the same one: set out= to another folder, or remove this one"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_resolved(config, saved)
    except OSError as problem:
        raise UserError(
            f"cannot write to {out} ({problem.strerror}); expected a writable place with room, set out="
        ) from problem


def _withdraw(stage: str, config: RunConfig, out: Path) -> None:
    """Leave nothing half-written of a stage that could not run but its checkpoints; nothing at all where no stage is done."""
    clear(stage, out)
    if latest_step(out / "stages" / stage / CHECKPOINTS):
        return
    shutil.rmtree(out / "stages" / stage, ignore_errors=True)
    if not any((out / "stages").glob("*/done")):
        shutil.rmtree(out, ignore_errors=True)


def _conclude(config: RunConfig, out: Path, ledger: Ledger) -> list[MetricRow]:
    """Join the stages' files: metrics.json, metrics.jsonl and report.html."""
    rows: list[MetricRow] = []
    samples: list[dict] = []
    history: list[dict] = []
    for stage in config.stages:
        folder = out / "stages" / stage.name
        if (folder / "rows.json").is_file():
            rows += from_json((folder / "rows.json").read_text(encoding="utf-8"))
            samples += read_json(folder / "samples.json")
        if (folder / "metrics.jsonl").is_file():
            lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            history += [json.loads(line) for line in lines]
    write_text(out / "metrics.json", to_json(rows))
    write_text(out / "metrics.jsonl", "".join(json.dumps(h, ensure_ascii=False) + "\n" for h in history))
    costs = {**ledger.counts, "seconds": ledger.seconds}
    config_yaml = (out / "config.yaml").read_text(encoding="utf-8")
    write_report(out / "report.html", config.title or out.name, rows, costs, config_yaml, history, samples)
    return rows
