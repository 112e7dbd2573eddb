"""Run the stages of one YAML in order, each restartable: a finished stage leaves a marker and is not run again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml
from accelerate import PartialState
from pydantic import Field

from reasoner.config import Config, difference, save_resolved
from reasoner.data.prompting import PromptConfig
from reasoner.data.sources import SourceConfig
from reasoner.evals.report import write_report
from reasoner.evals.rows import MetricRow, from_json, to_json
from reasoner.ledger import Ledger
from reasoner.registry import UserError
from reasoner.stages import STAGES, TRAINERS, Context, StageConfig, clear
from reasoner.store import is_done, mark_done, read_json, write_text
from reasoner.tracking import Tracker
from reasoner.trainers.loop import Session


class RunConfig(Config):
    """A whole experiment: problem sets and the stages that use them."""

    out: str = Field("", description="folder of the run; by default runs/<name of the config file>")
    seed: int = Field(0, description="seed of everything random")
    title: str = Field("", description="headline of the report")
    wandb: dict[str, Any] | None = Field(None, description="options of wandb.init, e.g. {project: mine, mode: offline}")
    prompt: PromptConfig = PromptConfig()
    problems: dict[str, list[SourceConfig]] = Field(description="problem sets by name; prompts of `test` are kept out of the others")
    stages: list[Annotated[StageConfig, Field(discriminator="kind")]] = Field(min_length=1, description="what to do, in order")


Progress = Callable[[str, int, int, str], None]


def run(config: RunConfig, progress: Progress = lambda stage, done, total, note: None) -> list[MetricRow]:
    """Run what is not done yet; returns the metric rows. Another config in the same folder is a UserError."""
    names = [s.name for s in config.stages]
    if len(set(names)) != len(names):
        raise UserError(f"stage names repeat: {', '.join(names)}; expected each once, set name: in the stages")
    state = PartialState(cpu=not torch.cuda.is_available())
    out = Path(config.out)
    with _main_first(state):
        _check_same(config, out)
    ledger = Ledger.load(out / "ledger.json") if (out / "ledger.json").is_file() else Ledger()
    for stage in config.stages:
        folder = out / "stages" / stage.name
        if is_done(folder):
            progress(stage.name, 1, 1, "done before")
            continue
        if state.is_main_process:
            clear(stage.name, out)
            folder.mkdir(parents=True, exist_ok=True)
            ledger.seconds.pop(stage.name, None)
            ledger.counts.pop(stage.name, None)
        state.wait_for_everyone()
        if stage.kind in TRAINERS or state.is_main_process:
            _run_stage(stage, config, out, ledger, state.is_main_process, progress)
        state.wait_for_everyone()
        if state.is_main_process:
            ledger.save(out / "ledger.json")
            mark_done(folder, {"seconds": ledger.seconds[stage.name]})
        state.wait_for_everyone()
    return _conclude(config, out, ledger) if state.is_main_process else []


def _run_stage(stage, config: RunConfig, out: Path, ledger: Ledger, is_main: bool, progress: Progress) -> None:
    models = out / "models" / stage.name if stage.kind in (*TRAINERS, "init") else out / "stages" / stage.name
    with Tracker(out / "stages" / stage.name, config.wandb, main=is_main) as tracker, ledger.stage(stage.name):
        session = Session(
            out=models,
            ledger=ledger,
            log=lambda metrics, step: tracker.log({"stage": stage.name, **metrics}, step),
            progress=lambda done, total, note: progress(stage.name, done, total, note),
            seed=config.seed,
        )
        STAGES[stage.kind](stage, Context(out, config.problems, config.prompt, session))
    progress(stage.name, 1, 1, f"{ledger.seconds[stage.name]:.0f} s")


class _main_first:
    """Let the first process go through a block before the others."""

    def __init__(self, state: PartialState):
        self.state = state

    def __enter__(self):
        if not self.state.is_main_process:
            self.state.wait_for_everyone()

    def __exit__(self, *exception):
        if self.state.is_main_process and exception[0] is None:
            self.state.wait_for_everyone()


def _check_same(config: RunConfig, out: Path) -> None:
    """Check that the folder belongs to this config, and claim it."""
    saved = out / "config.yaml"
    mine = config.model_dump(mode="json")
    if saved.is_file():
        other = yaml.safe_load(saved.read_text(encoding="utf-8"))
        found = [d for d in difference(other, mine) if not d.startswith("out:")]
        if found:
            raise UserError(
                f"{out} holds a run of another config ({'; '.join(found[:3])}{' …' if len(found) > 3 else ''}); "
                "expected the same one: set out= to another folder, or remove this one"
            )
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"cannot make the folder {out} ({problem.strerror}); expected a writable place, set out=") from problem
    save_resolved(config, saved)


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

