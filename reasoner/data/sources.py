"""Where problems come from: reasoning-gym families, GSM8K, or JSON lines; each source is one function in a table."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from reasoner.config import Config
from reasoner.data.demonstrator import work_out
from reasoner.registry import UserError, lookup
from reasoner.tree import Problem
from verifiers import lookup as lookup_verifier


class SourceConfig(Config):
    """A set of problems."""

    name: str = Field(description="arithmetic | gsm8k | jsonl | labelled, or module:function")
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
        1.0, ge=0, le=1, description="share of the solutions with their working; the others state the answer alone"
    )


class Item(NamedTuple):
    """A problem, and a worked solution where the source has one."""

    problem: Problem
    solution: str | None


def load_items(config: SourceConfig) -> list[Item]:
    """The items of a source, distinct by prompt; none at all is a UserError."""
    source = lookup(SOURCES, config.name, "problem source")
    distinct: dict[str, Item] = {}
    for item in source(config):
        distinct.setdefault(item.problem.prompt, item)
    for name in {i.problem.verifier for i in distinct.values()}:
        try:
            lookup_verifier(name)
        except KeyError as problem:
            raise UserError(
                f"the source {config.name} asks for a verifier that is not there: {problem}"
            ) from problem
    if not distinct:
        raise UserError(
            f"the source {config.name} ({config.path or config.start}) is empty; expected at least one problem"
        )
    return list(distinct.values())


def arithmetic(config: SourceConfig) -> Iterator[Item]:
    """reasoning-gym's arithmetic, posed as bare expressions and worked out by our demonstrator.

    The answer is our own exact result, not the generator's, whose scorer gives credit for substrings.
    """
    import reasoning_gym  # slow to import, and only this source needs it

    if not config.families:
        raise UserError(
            "source arithmetic has no families; expected e.g. families: {chain_sum: {max_terms: 3}}"
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
            meta = row["metadata"]
            numbers = ",".join(map(str, meta.get("numbers", ())))
            prompt = meta["expression"].replace(" ", "") if "expression" in meta else f"{name}({numbers})"
            solution = work_out(prompt)
            if solution is None:
                continue  # a division that does not come out even has no working in decimals
            problem = Problem(
                id=f"{name}/{config.start + i}",
                prompt=prompt,
                verifier="math",
                reference={"answer": solution.rpartition("#### ")[2]},
                domain=config.domain or name,
                source=f"reasoning-gym {name}",
                licence="Apache-2.0",
            )
            shows = random.Random(prompt).random() < config.worked
            yield Item(problem, solution if shows else f"#### {problem.reference['answer']}")


def gsm8k(config: SourceConfig) -> Iterator[Item]:
    """Grade-school word problems (Cobbe et al. 2021); solutions without their calculator marks."""
    for i, row in enumerate(_rows(config, "openai/gsm8k", "main")):
        _need(row, ("question", "answer"), config, i)
        working, mark, answer = row["answer"].rpartition("####")
        if not mark or not answer.strip():
            raise UserError(
                f"row {i} of {config.path or 'GSM8K'} has no answer after ####; expected '#### number': {row['answer'][-60:]!r}"
            )
        yield Item(
            Problem(
                id=f"gsm8k/{config.split}/{i}",
                prompt=row["question"].strip(),
                verifier="math",
                reference={"answer": answer.strip().replace(",", "")},
                domain=config.domain or "gsm8k",
                source="openai/gsm8k",
                licence="MIT",
            ),
            re.sub(r"<<.*?>>", "", working).strip() + f"\n#### {answer.strip()}",
        )


def jsonl(config: SourceConfig) -> Iterator[Item]:
    """Rows {prompt, reference: {...}} or {prompt, answer}; optional id, verifier, solution, licence."""
    if not config.path:
        raise UserError("source jsonl has no path; expected path: FILE.jsonl with rows of prompt and answer")
    for i, row in enumerate(_rows(config, "", None)):
        _need(row, ("prompt",), config, i)
        reference = row.get("reference", {"answer": row["answer"]} if "answer" in row else None)
        if not isinstance(reference, dict) or reference.get("answer", "") is None:
            raise UserError(f"row {i} of {config.path} has no answer; expected a key 'answer' or 'reference'")
        yield Item(
            Problem(
                id=str(row.get("id", f"{Path(config.path).stem}/{i}")),
                prompt=row["prompt"],
                verifier=row.get("verifier", "math"),
                reference=reference,
                domain=config.domain or row.get("domain", ""),
                source=row.get("source", Path(config.path).name),
                licence=row.get("licence", ""),
            ),
            row.get("solution"),
        )


def labelled(config: SourceConfig) -> Iterator[Item]:
    """The problems of files with labelled steps, each with the longest of its solutions without a step called bad."""
    from reasoner.data.importers import Import

    if not config.path:
        raise UserError("source labelled has no path; expected path: a file or folder of labelled steps")
    for tree in islice(Import(config.path), config.start, config.start + config.size):
        good = [p for p in map(tree.path, tree.leaves()) if all(not tree.labels[i] < 0.5 for i in p)]
        best = max(good, key=len, default=[])
        yield Item(
            Problem(
                id=tree.problem_id,
                prompt=tree.prompt,
                verifier="math",
                reference={"answer": tree.answer},
                domain=config.domain or Path(config.path).name.partition(".")[0],
                source=tree.source,
                licence=tree.licence,
            ),
            ("" if tree.is_pieces else "\n").join(tree.steps[i] for i in best) or None,
        )


def _need(row: dict, keys: tuple[str, ...], config: SourceConfig, i: int) -> None:
    missing = [k for k in keys if not isinstance(row.get(k), str) or not row[k].strip()]
    if missing:
        raise UserError(
            f"row {i} of {config.path or config.name} has no text under {', '.join(missing)}; it has the keys {sorted(row)}"
        )


def _rows(config: SourceConfig, hub_name: str, subset: str | None) -> Iterator[dict]:
    """`size` rows from `start` on, of a local file or folder, else of the hub."""
    import datasets  # slow to import

    if not config.path:
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
        sorted(p for p in path.rglob("*") if p.suffix in (".jsonl", ".json", ".gz", ".parquet"))
        if path.is_dir()
        else [path]
    )
    if not files or not files[0].exists():
        raise UserError(f"no data at {path}; expected a JSON-lines or Parquet file, or a folder of them")
    rows = (row for file in files for row in _file_rows(file))
    yield from islice(rows, config.start, config.start + config.size)


def _file_rows(path: Path) -> Iterator[dict]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(path).to_pylist()
        return
    import gzip

    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8") as lines
    ):
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


SOURCES: dict[str, Callable[[SourceConfig], Iterator[Item]]] = {
    "arithmetic": arithmetic,
    "gsm8k": gsm8k,
    "jsonl": jsonl,
    "labelled": labelled,
}
