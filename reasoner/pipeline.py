"""Run the stages of one YAML in order, each restartable: a finished stage leaves a marker and is not run again."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from accelerate import PartialState

from reasoner.config import check_entries, difference, save_resolved, with_new_keys
from reasoner.data.rows import hub_split
from reasoner.folder import begin, check_shared, claimed, held_by, withdraw
from reasoner.interrupt import going_on
from reasoner.ledger import Ledger
from reasoner.parts import are_of, begin_parts, give_up_parts, marked, read_whole, unmark_damaged, write_whole
from reasoner.planning.booked import flops_of
from reasoner.planning.free import free_here
from reasoner.planning.peaks import check_memory
from reasoner.planning.placement import told as placed
from reasoner.planning.room import check_room
from reasoner.policy.machine import use
from reasoner.registry import UserError
from reasoner.report.page import write_report
from reasoner.report.rows import MetricRow, from_json
from reasoner.report.rows import to_json as rows_to_json
from reasoner.run_config import RunConfig
from reasoner.scoring.outcome import TooManyFailed
from reasoner.seal import changed, check_seal, fingerprint, seal
from reasoner.stages import EVERYWHERE, IN_PARTS, MAKERS, MEASURES, STAGES
from reasoner.stages.basis import basis, data_files
from reasoner.stages.beforehand import check_problems
from reasoner.stages.context import Context
from reasoner.stages.needs import check_needs
from reasoner.stages.pools import Crew, check_pools, ranks_of
from reasoner.stages.references import check_data, check_references, data_in, earlier_stages, made_sets
from reasoner.store import is_done, saying_what_is_full, to_json, write_text
from reasoner.tracking import Tracker, wandb_run
from reasoner.trainers.checkpoint import latest_step
from reasoner.trainers.loop import Session
from reasoner.trainers.ranks import from_everyone, start, wait_for_everyone
from reasoner.watchdog import beat, watching
from verifiers.sandbox import pool

CHECKPOINTS = "checkpoints"  # in a stage's folder, while it trains
PARTS = "parts"  # in a stage's folder, while it works through many trees
BASIS = "basis.json"  # in a stage's folder: the part of the config that its result rests on
ROWS = "rows.json"  # in a stage's folder, if it measures


# (stage, done, total, note, numbers): the numbers are the stage's latest metrics, its tokens by counter, and, when it has
# ended, its seconds.
Progress = Callable[[str, int, int, str, Mapping[str, Any]], None]


def run(config: RunConfig, progress: Progress = lambda *_: None, crew: Crew | None = None) -> list[MetricRow]:
    """Run what is not done yet; returns the metric rows. A change of what finished stages rest on is a UserError.

    `crew` has stages, or servers of theirs, on machines elsewhere (reasoner/cluster).
    """
    check(config)
    pool.require(config.min_isolation)
    use(config.precision)
    state = start()
    if crew is not None and state.num_processes > 1:
        raise UserError(
            f"got --ray on {state.num_processes} processes; expected one, whose workers and ranks Ray starts: leave torchrun "
            "out and set ray.ppo.workers and the like, or let it go on with the trainers without --ray"
        )
    out = Path(config.out)
    with (
        going_on(),
        claimed(out) if state.is_main_process else nullcontext(),
        wandb_run(
            out, _wandb_options(config, state.is_main_process), config.model_dump(mode="json"), config.title
        ) as tracked,
    ):
        told: dict[str, str] = {}
        if state.is_main_process:
            finished = _take_up(config, out)
            told = _check_data_and_room(config, out, set(finished), crew)
            save_resolved(config, out / "config.yaml")
        wait_for_everyone()
        check_shared(out, from_everyone(held_by(out))[0])
        ledger = Ledger.load(out / "ledger.json") if (out / "ledger.json").is_file() else Ledger()
        for stage in config.stages:
            folder = out / "stages" / stage.name
            info = is_done(folder)
            if info is not None:
                ledger.seconds.setdefault(stage.name, info.get("seconds", 0.0))
                if state.is_main_process:
                    _tidy(folder)  # a kill just after the marker leaves them
                progress(stage.name, 1, 1, "done before", {"seconds": ledger.seconds.get(stage.name, 0.0)})
                continue
            if state.is_main_process:
                read = earlier_stages(stage, config.stages)
                for name in read:
                    if name in finished:
                        check_seal(out, name, finished.pop(name))  # once is enough
                work = _work(stage, config, out, read) if stage.kind in IN_PARTS else ""
                goes_on = bool(work) and are_of(folder / PARTS, work)
                begin(out, stage.name, goes_on)
                if goes_on:
                    unmark_damaged(folder / PARTS)
                elif work:
                    begin_parts(folder / PARTS, work)
                (folder / ROWS).unlink(missing_ok=True)
                write_whole(folder / BASIS, basis(stage, config))
            ledger.seconds.pop(stage.name, None)
            ledger.counts.pop(stage.name, None)
            ledger.processes.pop(stage.name, None)
            wait_for_everyone()
            if line := told.get(stage.name):
                print(line, file=sys.stderr)
            if stage.kind in EVERYWHERE or state.is_main_process:
                _run_whole(stage, config, out, ledger, state.is_main_process, progress, tracked, crew)
            wait_for_everyone()
            if not state.is_main_process:
                ledger = Ledger.load(out / "ledger.json")
        rows = _conclude(config, out, ledger) if state.is_main_process else []
        if tracked is not None:
            tracked.summary.update({f"{r.when}/{r.metric} {r.method} {r.subset}": r.value for r in rows})
        return rows


def _wandb_options(config: RunConfig, is_main: bool) -> dict[str, Any] | None:
    """The options of the run in wandb; None where none is wanted, or nothing is left to do."""
    folders = [Path(config.out) / "stages" / stage.name for stage in config.stages]
    return config.wandb if is_main and not all(is_done(folder) for folder in folders) else None


def _run_whole(
    stage, config: RunConfig, out: Path, ledger: Ledger, is_main: bool, progress: Progress, tracked: Any, crew: Any
) -> None:  # fmt: skip
    """Run a stage and mark it as done; where a fault of the user's ends it, nothing half-made stays."""
    folder = out / "stages" / stage.name
    try:
        with saying_what_is_full(folder):
            data = fingerprint(data_files(stage, config)) if is_main else {}
            _run_stage(stage, config, out, ledger, is_main, progress, tracked, crew)
            if stage.kind in EVERYWHERE:
                ledger.gather(stage.name, from_everyone(ledger.to_dict()))
            if is_main:
                ledger.dollars[stage.name] = ledger.seconds[stage.name] / 3600 * config.dollars_per_hour
                ledger.save(out / "ledger.json")
                facts = {
                    "seconds": ledger.seconds[stage.name],
                    "processes": ledger.processes.get(stage.name, 1),
                    "basis": basis(stage, config),
                    "data": data,
                }
                seal(out, stage.name, facts)
                _tidy(folder)
    except UserError as problem:
        # whole parts stay, but for verdicts of a verifier that does not work
        if isinstance(problem, TooManyFailed):
            give_up_parts(folder / PARTS)
        if is_main and (isinstance(problem, TooManyFailed) or not marked(folder / PARTS)):
            shutil.rmtree(folder / PARTS, ignore_errors=True)
            withdraw(out, stage.name)
        raise


def _tidy(folder: Path) -> None:
    """Remove what a stage kept in case that it would be killed."""
    for name in (CHECKPOINTS, PARTS):
        shutil.rmtree(folder / name, ignore_errors=True)


def _work(stage, config: RunConfig, out: Path, read: list[str]) -> str:
    """A digest of what the parts of a stage rest on: its config, its data, and the files of the stages that it reads."""
    infos = [is_done(out / "stages" / name) or {} for name in read]
    rests_on = [
        basis(stage, config),
        {name: info.get("files") for name, info in zip(read, infos, strict=True)},
        {name: facts["sha256"] for name, facts in fingerprint(data_files(stage, config)).items()},
    ]
    return hashlib.sha256(to_json(rests_on).encode()).hexdigest()


def _run_stage(
    stage, config: RunConfig, out: Path, ledger: Ledger, is_main: bool, progress: Progress, tracked: Any, crew: Any
) -> None:  # fmt: skip
    folder = out / "stages" / stage.name
    models = out / "models" / stage.name if stage.kind in MAKERS else folder
    checkpoints = folder / CHECKPOINTS
    latest: dict[str, Any] = {}

    def log(metrics: Mapping[str, Any], step: int) -> None:
        beat()
        tracker.log({"stage": stage.name, **metrics}, step)
        latest.update(metrics)

    def tell(done: int, total: int, note: str, **more: float) -> None:
        beat()
        counted = sum(map(Counter, ledger.counts.get(stage.name, {}).values()), Counter())
        progress(stage.name, done, total, note, {**latest, **counted, **more})

    tell(0, 0, "", goes_on=float(latest_step(checkpoints) > 0))
    state = PartialState()
    with (
        watching(
            config.stalled_after,
            folder,
            f"the stage {stage.name}",
            out,
            state.process_index,
            state.num_processes,
        ),
        Tracker(folder, tracked, latest_step(checkpoints), is_main) as tracker,
        ledger.stage(stage.name),
    ):
        session = Session(
            out=models,
            ledger=ledger,
            log=log,
            progress=tell,
            seed=config.seed,
            checkpoints=checkpoints,
            parts=folder / PARTS,
        )
        if crew is not None:
            session.crew = partial(crew.parts, config, stage, session)
            session.hosts = partial(crew.hosts, config, stage, session)
        with session.ending:
            context = context_of(stage, config, session)
            if crew is not None and ranks_of(config.ray, stage):
                crew.ranks(config, stage, session)
            else:
                STAGES[stage.kind](stage, context)
            _book(stage, config, out, ledger, is_main)
    tell(1, 1, "", seconds=ledger.seconds[stage.name])


def _book(stage, config: RunConfig, out: Path, ledger: Ledger, is_main: bool) -> None:
    """What follows from what a stage has counted and written: this process's operations, and the run's bytes."""
    earlier = {s.name: s for s in config.stages}
    for model, flops in flops_of(stage, earlier, ledger.counts.get(stage.name, {})).items():
        ledger.add(model, flops=flops)
    if is_main:
        folders = [out / part / stage.name for part in ("models", "trees", "records", "stages")]
        files = [
            f for folder in folders for f in folder.rglob("*") if CHECKPOINTS not in f.parts and f.is_file()
        ]
        ledger.add("disk", bytes_written=sum(f.stat().st_size for f in files))


def context_of(stage, config: RunConfig, session: Session) -> Context:
    """What a stage shares with the others, which may read the problem sets that those before it have made."""
    out, before = Path(config.out), takewhile(lambda s: s.name != stage.name, config.stages)
    sets = {**config.problems, **made_sets(before, out)}
    return Context(out, sets, config.prompt, session, config.contamination, measured_on(config))


def measured_on(config: RunConfig) -> tuple[str, ...]:
    """The problem sets of which nothing may be trained on: `test`, and those that are evaluated and that no stage reads
    to train (who evaluates on the training set as well wants to see just that)."""
    evaluated, trained = set[str](), set[str]()
    for stage in config.stages:
        (evaluated if stage.kind in MEASURES else trained).update(getattr(stage, "problems", ()))
    return tuple(sorted({"test"} | (evaluated - trained)))


def check(config: RunConfig) -> None:
    """What can be known before the first stage: names, sources, files, and what each stage reads of earlier ones."""
    names = [s.name for s in config.stages]
    # on some file systems two names that differ in case are one folder
    repeated = [n for n in names if sum(n.casefold() == other.casefold() for other in names) > 1]
    if repeated:
        raise UserError(
            f"stage names repeat: {', '.join(repeated)}; expected each once, set name: in the stages"
        )
    check_entries(config, lambda key: _by_name(key, config))
    for name, sources in config.problems.items():
        for i, source in enumerate(sources):
            if not source.path:
                hub_split(source)
            for key, path in data_in(source):
                check_data(f"problems.{name}.{i}.{key}", path)
    check_pools(config.ray, config.stages)
    check_references(config.stages, config.problems, Path(config.out))
    check_needs(config.stages, config.prompt.steps.rule)


def _check_data_and_room(
    config: RunConfig, out: Path, finished: set[str], crew: Crew | None
) -> dict[str, str]:
    """Of the stages that are to run: the problems in files, and the room on disk, in memory and on a cluster; what is told of
    each, where its models live and what memory it needs. The memory of other machines is not known."""
    open_stages = [s for s in config.stages if s.name not in finished]
    check_problems(open_stages, config.problems, lambda line: print(line, file=sys.stderr))
    check_room(config.stages, config.problems, out, finished.__contains__)
    free, ranks = free_here(PartialState().num_processes), {}
    if crew is not None:
        crew.check(config, open_stages)
        ranks = {s.name: n for s in config.stages if (n := ranks_of(config.ray, s))}
    needs = check_memory(
        config.stages, config.problems, config.prompt, free, lambda name: name in finished or name in ranks
    )
    by = {
        name: f"{name}: by {n} rank{'s' if n > 1 else ''} of the cluster, each:" for name, n in ranks.items()
    }
    return {
        s.name: "\n".join(filter(None, [by.get(s.name), placed(s), needs.get(s.name)])) for s in open_stages
    }


def _by_name(key: str, config: RunConfig) -> str:
    """stages.NAME.key of stages.NUMBER.key."""
    parts = key.split(".")
    if parts[0] == "stages":
        parts[1] = config.stages[int(parts[1])].name
    return ".".join(parts)


def _take_up(config: RunConfig, out: Path) -> dict[str, dict[str, Any]]:
    """The markers of the finished stages; a config or data that they, or checkpoints, do not rest on is a UserError."""
    finished = {}
    for stage in config.stages:
        folder = out / "stages" / stage.name
        info = is_done(folder)
        if info is not None:
            _check_same(f"{out} holds the finished stage {stage.name}", info.get("basis"), stage, config,
                        "set out= to another folder, or take the change back")  # fmt: skip
            other = changed(info.get("data", {}), data_files(stage, config))
            if other is not None:
                raise UserError(
                    f"the data in {other} changed since the stage {stage.name} of {out} read it; expected the same: "
                    "restore it, or set out= to another folder"
                )
            finished[stage.name] = info
        elif latest_step(folder / CHECKPOINTS) and (known := read_whole(folder / BASIS)) is not None:
            _check_same(
                f"{out} holds the half-done stage {stage.name}", known, stage, config,
                f"take the change back, or remove {folder / CHECKPOINTS} to begin the stage again",
            )  # fmt: skip
    return finished


def _check_same(what: str, known: Any, stage, config: RunConfig, remedy: str) -> None:
    """A stage that was made, or begun, with another config is a UserError; keys that came with a later version are told."""
    present, given = (json.loads(to_json(basis(stage, config, d))) for d in (True, False))  # as once written
    found = difference(with_new_keys(known, present, given), present)
    if found:
        raise UserError(
            f"{what}, made with another config ({'; '.join(found[:3])}{' …' if len(found) > 3 else ''}); expected the "
            f"same one: {remedy}"
        )
    new = [line.partition(":")[0] for line in difference(known, present)]
    if new:
        print(
            f"reasoner: {what}, made before there were {', '.join(new)}: they stand at their defaults",
            file=sys.stderr,
        )


def _read(path: Path, reader: Callable[[str], Any] = json.loads) -> Any:
    """What a stage wrote to a file; a damaged one is a UserError."""
    try:
        return reader(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, AttributeError) as problem:
        raise UserError(
            f"got {path}, which cannot be read ({problem}); expected what a stage wrote: restore it, or remove "
            f"{path.parent} to run that stage again"
        ) from problem


def _lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def _conclude(config: RunConfig, out: Path, ledger: Ledger) -> list[MetricRow]:
    """Join the stages' files: metrics.json, metrics.jsonl and report.html."""
    rows: list[MetricRow] = []
    samples: list[dict] = []
    history: list[dict] = []
    for stage in config.stages:
        folder = out / "stages" / stage.name
        if (folder / ROWS).is_file():
            rows += _read(folder / ROWS, from_json)
            samples += _read(folder / "samples.json")
        if (folder / "metrics.jsonl").is_file():
            history += _read(folder / "metrics.jsonl", _lines)
    write_text(out / "metrics.json", rows_to_json(rows))
    write_text(out / "metrics.jsonl", "".join(json.dumps(h, ensure_ascii=False) + "\n" for h in history))
    costs = {**ledger.counts, "seconds": ledger.seconds}
    config_yaml = (out / "config.yaml").read_text(encoding="utf-8")
    write_report(out / "report.html", config.title or out.name, rows, costs, config_yaml, history, samples)
    return rows
