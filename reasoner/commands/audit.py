"""reasoner audit: whether a run's folder still holds what its stages wrote, and what was made from what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open

from reasoner.config import read_yaml, validate
from reasoner.registry import UserError
from reasoner.seal import check_seal, sha256
from reasoner.stages.references import earlier_stages
from reasoner.store import is_done


@dataclass
class Audited:
    """A stage of a run: whether it ended, what it read of the run, what it wrote, and what is wrong with that."""

    stage: str
    kind: str
    is_done: bool
    reads: list[str] = field(default_factory=list)
    wrote: dict[str, int] = field(default_factory=dict)  # files, bytes, rows by folder
    faults: list[str] = field(default_factory=list)


def audit(out: Path) -> list[Audited]:
    """Every stage of a run, in order; reads every byte once. A folder without a run is a UserError."""
    from reasoner.run_config import RunConfig

    if not (out / "config.yaml").is_file():
        raise UserError(f"{out} holds no config.yaml; expected the folder of a run")
    config = validate(RunConfig, read_yaml(out / "config.yaml"), str(out / "config.yaml"))
    found: list[Audited] = []
    for stage in config.stages:
        before = config.stages[: len(found)]
        one = Audited(stage.name, stage.kind, False, earlier_stages(stage, before))
        found.append(one)
        try:
            info = is_done(out / "stages" / stage.name)
        except UserError as problem:
            one.faults.append(str(problem))
            continue
        if info is None:
            continue
        one.is_done = True
        one.faults += [
            f"it is done, and reads {name}, which is not" for name in one.reads if not _ended(name, found)
        ]
        _check_files(out, one, info)
        one.faults += _changed_data(info.get("data", {}))
        one.faults += _foreign(out, stage.name, info.get("files", {}))
    return found


def _ended(name: str, stages: list[Audited]) -> bool:
    return any(one.stage == name and one.is_done for one in stages)


def _check_files(out: Path, one: Audited, info: dict) -> None:
    """Sizes and hashes by the marker, one file at a time so that each damaged one is named; numbers that are none."""
    files = info.get("files", {})
    one.wrote = {"files": len(files), "bytes": sum(known["size"] for known in files.values())}
    for name, known in files.items():
        try:
            check_seal(out, one.stage, {"files": {name: known}})
        except UserError as problem:
            one.faults.append(str(problem))
            continue
        try:
            if name.endswith(".parquet"):
                kind = "/".join(Path(name).parts[2:-1]) or Path(name).parts[0]
                one.wrote[kind] = one.wrote.get(kind, 0) + pq.read_metadata(out / name).num_rows
            elif name.endswith(".safetensors"):
                one.faults += [
                    f"{out / name} holds NaN or infinity in {tensor}" for tensor in _not_finite(out / name)
                ]
        except (pa.ArrowException, SafetensorError, OSError) as problem:
            one.faults.append(f"{out / name} cannot be read ({problem}), though it is as the stage wrote it")


def _not_finite(path: Path) -> Iterator[str]:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            if tensor.is_floating_point() and not tensor.isfinite().all():
                yield name


def _changed_data(known: dict[str, dict]) -> Iterator[str]:
    """Data files that are other now than when the stage read them."""
    for name, then in known.items():
        path = Path(name)
        if not path.is_file():
            yield f"the data file {name} is gone since the stage read it"
        elif path.stat().st_size != then["size"] or sha256(path) != then["sha256"]:
            yield f"the data file {name} is another than the stage read"


def _foreign(out: Path, stage: str, files: dict[str, dict]) -> Iterator[str]:
    """Files among the stage's models, trees and records that it did not write."""
    for kind in ("models", "trees", "records"):
        for path in sorted((out / kind / stage).rglob("*")):
            if path.is_file() and path.relative_to(out).as_posix() not in files:
                yield f"{path} was not written by the stage"


def show_audit(out: Path, as_json: bool, width: int) -> int:
    """Print what was found; 1 where anything is wrong, else 0."""
    found = audit(out)
    if as_json:
        print(json.dumps([asdict(one) for one in found]))
    else:
        console = Console(width=width)
        table = Table(box=None, pad_edge=False)
        for column in ("stage", "made from", "wrote", ""):
            table.add_column(column)
        for one in found:
            wrote = ", ".join(f"{n:,} {what}" for what, n in one.wrote.items())
            state = (
                f"{len(one.faults)} faults"
                if one.faults
                else "as it was written"
                if one.is_done
                else "not done"
            )
            table.add_row(Text(one.stage), Text(", ".join(one.reads)), Text(wrote), Text(state))
        console.print(table)
        for one in found:
            for fault in one.faults:
                console.print(Text(f"{one.stage}: {fault}"))
    return int(any(one.faults for one in found))
