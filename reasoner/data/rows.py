"""What every problem source shares: its config, its items, and the rows of local files and hub data sets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from reasoner.config import Config, DataFile, Entry
from reasoner.data import files
from reasoner.data.files import SUFFIXES, LeftOut, data_files
from reasoner.registry import UserError
from reasoner.tree import Problem


def _span(part: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= part[0] < part[1] <= 1:
        raise ValueError(f"got part={list(part)}; expected two numbers from 0 to 1, the smaller one first")
    return part


# keys that other sources would pass over in silence
_TAKEN_BY = {"ways": ("varied", "varied_arithmetic"), "of": ("varied_arithmetic",)}


class SourceConfig(Config):
    """A set of problems."""

    name: Annotated[str, Entry("problem source", "reasoner.data.sources:SOURCES")] = Field(
        description="a name of SOURCES (arithmetic, gym, gsm8k, math, labelled, …), or module:function"
    )
    path: Annotated[str, DataFile()] = Field(
        "", description="file or folder with the rows; empty: the hub, for sources that live there"
    )
    split: str = Field(
        "",
        description="split of a hub data set; empty: the one that the source is used for, train where it has that",
    )
    families: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="families of reasoning-gym, coq or smt with their options; `share` sets a family's part",
    )
    start: int = Field(
        0, ge=0, description="first item; items depend on start + index, so far starts never meet"
    )
    size: int = Field(1000, ge=1, description="most problems to take")
    part: Annotated[tuple[float, float], AfterValidator(_span)] = Field(
        (0.0, 1.0),
        description="of these, the problems whose text hashes into this span of 0 to 1, e.g. [0.0, 0.2]: where spans don't "
        "overlap, no problem is in two of them, whichever files it is in",
    )
    domain: str = Field("", description="name of this set in reports")
    extract: Annotated[str, Entry("rule of extraction", "verifiers.extract:RULES")] = Field(
        "",
        description="math: how the final answer is found in a response, a rule of verifiers.extract as boxed, hashes or "
        "last_math (for models that end with a sentence); empty: auto",
    )
    worked_out: bool = Field(
        True,
        description="math: where the gold answer is a number, a calculation that has its value is none (6 + 9 for 15); false: "
        "it is right",
    )
    tolerance: float | None = Field(
        None,
        ge=0,
        description="programs: how far floats may be off, relative above 1; empty: as the set's own judge",
    )
    worked: float = Field(
        1.0,
        ge=0,
        le=1,
        description="arithmetic: share of the solutions that show their working; others only answer",
    )
    ways: Annotated[
        dict[str, Annotated[float, Field(ge=0)]],
        Entry("way to make problems", "reasoner.data.varied:WAYS", "reasoner.data.varied_arithmetic:WAYS"),
    ] = Field(
        default_factory=dict,
        description="varied, varied_arithmetic: weights of the ways in which new problems are made (numbers, longer, combined, "
        "turned, or module:function); empty: numbers",
    )
    of: int | None = Field(
        None, ge=1, description="varied_arithmetic: how many old problems the new ones are made from"
    )

    @model_validator(mode="after")
    def _takes(self) -> SourceConfig:
        for key, names in _TAKEN_BY.items():
            if getattr(self, key) and self.name not in names and ":" not in self.name:
                raise ValueError(
                    f"the source {self.name} takes no {key}; expected it beside {' or '.join(names)}: leave it out"
                )
        if self.ways and not sum(self.ways.values()):
            raise ValueError(
                f"got ways={self.ways}, which gives weight to none; expected one above 0, e.g. ways: {{numbers: 1}}"
            )
        return self


class Item(NamedTuple):
    """A problem, and a worked solution where the source has one."""

    problem: Problem
    solution: str | None


class SourceRow(dict):
    """A row of a source, which knows its place for messages."""

    where: str = ""


def where_of(row: dict, config: SourceConfig, i: int) -> str:
    """The place of a row as a user finds it: its line and file, else its number in the source."""
    return getattr(row, "where", "") or f"row {i} of {config.path or config.name}"


def need(row: dict, keys: tuple[str, ...], config: SourceConfig, i: int) -> None:
    """A UserError where a row lacks text under one of the keys."""
    missing = [k for k in keys if not isinstance(row.get(k), str) or not row[k].strip()]
    if missing:
        raise UserError(
            f"{where_of(row, config, i)} has no text under {', '.join(missing)}; expected text there, "
            f"and it has the keys {sorted(map(str, row))}"
        )


def first_of(row: dict, keys: tuple[str, ...]) -> Any:
    """The value under the first of the keys that is there and not empty: null, NaN and blank text are no values."""
    return next((row[k] for k in keys if not is_empty(row.get(k))), None)


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN (as pandas writes null), blank text or an empty list."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


def text_of(row: dict, keys: tuple[str, ...], config: SourceConfig, i: int, what: str) -> str:
    """The text under the first of the keys; a UserError where a row has none."""
    found = first_of(row, keys)
    if not isinstance(found, str):
        got = "no" if found is None else f"a {type(found).__name__} as"
        raise UserError(
            f"{where_of(row, config, i)} has {got} {what}; expected text under {' or '.join(keys)}, "
            f"and it has the keys {sorted(map(str, row))}"
        )
    return found.strip()


def golds_of(value: Any, where: str) -> str | list[str]:
    """A gold answer, or a list of them of which any one is right."""
    if isinstance(value, list) and value:
        return [gold_of(one, where) for one in value]
    return gold_of(value, where)


def gold_of(value: Any, where: str) -> str:
    """A gold answer as text: text or a finite number, 27.0 as 27; a UserError for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or is_empty(value):
        raise UserError(f"{where} has {value!r} as its answer; expected text or a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{where} has {value!r} as its answer; expected text or a finite number")
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value).strip()


# the splits that each source has on the hub; where the config names none, the first is taken
SPLITS: dict[str, tuple[str, ...]] = {
    "gsm8k": ("train", "test"),
    "varied": ("train", "test"),
    "math_train": ("train",),
    "math500": ("test",),
    "aime": ("train",),
    "amc": ("train",),
    "svamp": ("train", "test"),
    "mawps": ("train", "validation", "test"),
    "asdiv": ("validation",),
    "olympiadbench": ("train",),
    "countdown": ("train",),
    "humaneval": ("test",),
    "mbpp": ("train", "validation", "test", "prompt"),
    "livecodebench": ("test",),
    "apps": ("train", "test"),
    "code_contests": ("train", "valid", "test"),
    "minif2f": ("validation", "test"),
    "proofnet": ("validation", "test"),
}


def hub_split(config: SourceConfig) -> str:
    """The split that a source reads on the hub, as `test` or `test[:10%]`; a UserError for one that is not there."""
    there = SPLITS.get(config.name)
    if there is None or not config.split:
        return config.split or (there or ("train",))[0]
    names = [re.split(r"[\[(]", part)[0].strip() for part in config.split.split("+")]
    gone = [name for name in names if name not in (*there, "all")]
    if gone:
        raise UserError(
            f"the source {config.name} has split {config.split!r}, and on the hub it has no {gone[0]!r}; expected "
            f"{' or '.join(there)}: set split, or path to a local file"
        )
    return config.split


def read_rows(config: SourceConfig, hub_name: str, subset: str | None = None) -> Iterator[SourceRow]:
    """`size` rows from `start` on, of a local file or folder, else of the hub."""
    if config.path:
        rows = (row for file in data_files(config.path) for row in file_rows(file))
        yield from islice(rows, config.start, config.start + config.size)
        return
    split = hub_split(config)
    import datasets  # slow to import

    try:
        rows = datasets.load_dataset(hub_name, subset, split=split)
    except (OSError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0][:160]
        raise UserError(
            f"cannot get {hub_name} from the hub ({reason}); expected a network, or path: a local file ({', '.join(SUFFIXES)})"
        ) from problem
    for i, row in enumerate(rows.skip(config.start).take(config.size), start=config.start):
        yield _placed(dict(row), f"row {i} of {hub_name}, {split}")


def file_rows(path: Path) -> Iterator[SourceRow]:
    """The rows of one data file; what can't be read, and a file without rows, is a UserError."""
    is_some = False
    for row in files.read_rows(path):
        is_some = True
        if isinstance(row, LeftOut):
            raise UserError(
                f"line {row.line} of {path}: {row.reason}; expected UTF-8 text with one JSON object a line, a JSON "
                "array of objects, or CSV or Parquet by the file's name"
            )
        yield _placed(row.value, f"line {row.line} of {path}")
    if not is_some:
        raise UserError(f"{path} is empty; expected rows in it, so write it again or take it away")


def _placed(row: dict, where: str) -> SourceRow:
    placed = SourceRow(row)
    placed.where = where
    return placed


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


def family_sizes(
    config: SourceConfig, known: tuple[str, ...], hardest: int
) -> Iterator[tuple[str, int, int]]:
    """(family, difficulty, number) of the source's items, by the families' shares; all of them where none is named.

    Options of a family: `difficulty`, a number from 1 to `hardest` or a list of them, and `share`.
    """
    families = config.families or {name: {} for name in known}
    shares = {}
    for name, options in families.items():
        levels = _levels(options.get("difficulty", 1))
        fits = all(isinstance(d, int) and 1 <= d <= hardest for d in levels) and levels
        if name not in known or not fits or set(options) - {"difficulty", "share"}:
            raise UserError(
                f"families.{name} is {options}; expected one of {', '.join(known)}, with difficulty (1 to {hardest}) and share"
            )
        shares[name] = float(options.get("share", 1))
    for name, options in families.items():
        levels = _levels(options.get("difficulty", 1))
        for i in range(round(config.size * shares[name] / sum(shares.values()))):
            yield name, levels[i % len(levels)], config.start + i


def _levels(difficulty: Any) -> list:
    return difficulty if isinstance(difficulty, list) else [difficulty]
