"""What every problem source shares: its config, its items, and the rows of local files and hub data sets."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from reasoner.config import Config
from reasoner.registry import UserError
from reasoner.tree import Problem


class SourceConfig(Config):
    """A set of problems."""

    name: str = Field(
        description="a name of SOURCES (arithmetic, gym, gsm8k, math, labelled, …), or module:function"
    )
    path: str = Field(
        "", description="file or folder with the rows; empty: the hub, for sources that live there"
    )
    split: str = Field("train", description="split of a hub data set")
    families: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="reasoning-gym families with their options; `share` sets a family's part",
    )
    start: int = Field(
        0, ge=0, description="first item; items depend on start + index, so far starts never meet"
    )
    size: int = Field(1000, ge=1, description="most problems to take")
    domain: str = Field("", description="name of this set in reports")
    worked: float = Field(
        1.0,
        ge=0,
        le=1,
        description="arithmetic: share of the solutions that show their working; others only answer",
    )


class Item(NamedTuple):
    """A problem, and a worked solution where the source has one."""

    problem: Problem
    solution: str | None


def need(row: dict, keys: tuple[str, ...], config: SourceConfig, i: int) -> None:
    """A UserError where a row lacks text under one of the keys."""
    missing = [k for k in keys if not isinstance(row.get(k), str) or not row[k].strip()]
    if missing:
        raise UserError(
            f"row {i} of {config.path or config.name} has no text under {', '.join(missing)}; it has the keys {sorted(row)}"
        )


def first_of(row: dict, keys: tuple[str, ...]) -> Any:
    """The value under the first of the keys that is there and not empty."""
    return next((row[k] for k in keys if row.get(k) not in (None, "", [])), None)


def text_of(row: dict, keys: tuple[str, ...], config: SourceConfig, i: int, what: str) -> str:
    """The text under the first of the keys; a UserError where a row has none."""
    found = first_of(row, keys)
    if found is None:
        raise UserError(
            f"row {i} of {config.path or config.name} has no {what}; expected one under {' or '.join(keys)}, "
            f"and it has the keys {sorted(row)}"
        )
    return str(found).strip()


def read_rows(config: SourceConfig, hub_name: str, subset: str | None = None) -> Iterator[dict]:
    """`size` rows from `start` on, of a local file or folder, else of the hub."""
    if not config.path:
        import datasets  # slow to import

        try:
            rows = datasets.load_dataset(hub_name, subset, split=config.split)
        except (OSError, ValueError) as problem:
            reason = str(problem).strip().splitlines()[0][:160]
            raise UserError(
                f"cannot get {hub_name} from the hub ({reason}); expected a network, or path: a local JSON-lines or Parquet file"
            ) from problem
        yield from map(dict, rows.skip(config.start).take(config.size))
        return
    path = Path(config.path).expanduser()
    files = (
        sorted(p for p in path.rglob("*") if p.suffix in (".jsonl", ".json", ".gz", ".parquet", ".csv"))
        if path.is_dir()
        else [path]
    )
    if not files or not files[0].exists():
        raise UserError(f"no data at {path}; expected a JSON-lines or Parquet file, or a folder of them")
    rows = (row for file in files for row in file_rows(file))
    yield from islice(rows, config.start, config.start + config.size)


def file_rows(path: Path) -> Iterator[dict]:
    """The rows of one JSON-lines (also gzipped), CSV or Parquet file."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(path).to_pylist()
        return
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8") as lines
    ):
        if path.suffix == ".csv":
            import csv

            yield from csv.DictReader(lines)
            return
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as problem:
                raise UserError(
                    f"line {number} of {path} is not JSON ({problem.msg}); expected one object a line"
                ) from problem
            if not isinstance(row, dict):
                raise UserError(f"line {number} of {path} is a JSON {type(row).__name__}; expected an object")
            yield row


def gym_rows(config: SourceConfig) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(family, number within it, row) of the source's reasoning-gym families, by their shares of its size."""
    import reasoning_gym  # slow to import, and only such sources need it

    if not config.families:
        raise UserError(
            f"source {config.name} has no families; expected e.g. families: {{chain_sum: {{max_terms: 3}}}}"
        )
    shares = {name: float(options.get("share", 1)) for name, options in config.families.items()}
    for name, options in config.families.items():
        options = {k: v for k, v in options.items() if k != "share"}
        size = round(config.size * shares[name] / sum(shares.values()))
        if size == 0:
            continue
        try:
            rows = reasoning_gym.create_dataset(name, size=size, seed=config.start, **options)
        except (TypeError, AssertionError, ValueError) as problem:
            raise UserError(
                f"families.{name} is {options}; expected options of that reasoning-gym family: {problem}"
            ) from problem
        for i, row in enumerate(rows):
            yield name, i, row
