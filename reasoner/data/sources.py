"""Where problems come from: reasoning-gym, benchmarks, puzzles, JSON lines; each source is one function in a table."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from reasoner.data.benchmarks import BENCHMARKS
from reasoner.data.constraints import smt
from reasoner.data.formal import FORMAL
from reasoner.data.puzzles import arithmetic, bracket_sums, gym
from reasoner.data.repeats import one_per_prompt
from reasoner.data.rows import (
    Item,
    SourceConfig,
    first_of,
    golds_of,
    is_empty,
    need,
    read_rows,
    where_of,
)
from reasoner.data.splits import normalised
from reasoner.data.theorems import coq
from reasoner.data.varied import old_word_problems, varied
from reasoner.data.varied_arithmetic import old_expressions, varied_arithmetic
from reasoner.data.ways import Old
from reasoner.registry import UserError, lookup
from reasoner.tree import Problem
from verifiers import lookup as lookup_verifier
from verifiers.extract import RULES


def load_items(config: SourceConfig) -> list[Item]:
    """The items of a source, distinct by prompt and each with an id of its own; none at all is a UserError.

    Of rows with one prompt the first counts; where their answers differ, a warning says how many do.
    """
    return own_ids(each_item(config))


def each_item(config: SourceConfig) -> Iterator[Item]:
    """As load_items, one after the other, under the ids that they come with."""
    source = lookup(SOURCES, config.name, "problem source")
    if config.extract:
        lookup(RULES, config.extract, "rule of extraction")
    known: set[str] = set()
    low, high = config.part
    num = num_kept = 0
    # a file's problems are its rows; the others are made, and made again
    for item in one_per_prompt(source(config), config.path or config.name, not config.path):
        if item.problem.verifier not in known:
            known.add(item.problem.verifier)
            _check_verifier(item.problem.verifier, config)
        num += 1
        if low <= place_of(item.problem.prompt) < high:
            num_kept += 1
            yield _judged(item, config)
    if not num_kept:
        what = f"has none of its {num} problems in part {list(config.part)}" if num else "is empty"
        raise UserError(
            f"the source {config.name} ({config.path or config.start}) {what}; expected at least one problem"
        )


def _judged(item: Item, config: SourceConfig) -> Item:
    """The item with what the config says of how answers are found and judged, if it is a mathematical one; a row's own stays."""
    asked: dict[str, Any] = {"extract": config.extract} if config.extract else {}
    if not config.worked_out:
        asked["worked_out"] = False
    if not asked or item.problem.verifier != "math":
        return item
    return item._replace(problem=replace(item.problem, reference={**asked, **item.problem.reference}))


def place_of(prompt: str) -> float:
    """Where a problem lies between 0 and 1: a hash of its text alone, so that a split stays as it is when files change.

    Case, spacing and typesetting don't count (data/splits): one problem written in two ways has one place.
    """
    digest = hashlib.sha256(normalised(prompt).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _check_verifier(name: str, config: SourceConfig) -> None:
    try:
        lookup_verifier(name)
    except KeyError as problem:
        raise UserError(
            f"the source {config.name} asks for a verifier that is not there: {problem}"
        ) from problem


def own_ids(items: Iterable[Item]) -> list[Item]:
    """The items, of which those that share an id have a hash of their prompt behind it.

    What is drawn for a problem, stored of it and found again hangs on its id, and files have sentinels and numbers that
    begin anew.
    """
    items = list(items)
    times = Counter(i.problem.id for i in items)
    return [i if times[i.problem.id] == 1 else i._replace(problem=own_id(i.problem)) for i in items]


def own_id(problem: Problem) -> Problem:
    """The problem under an id of its own, where its id is another's as well."""
    return replace(problem, id=f"{problem.id}#{_digest(problem.prompt)}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def gsm8k(config: SourceConfig) -> Iterator[Item]:
    """Grade-school word problems (Cobbe et al. 2021); solutions without their calculator marks."""
    for i, row in enumerate(read_rows(config, "openai/gsm8k", "main"), start=config.start):
        need(row, ("question", "answer"), config, i)
        working, mark, answer = row["answer"].rpartition("####")
        if not mark or not answer.strip():
            raise UserError(
                f"{where_of(row, config, i)} has no answer after ####; expected '#### number': {row['answer'][-60:]!r}"
            )
        yield Item(
            Problem(
                id=f"gsm8k/{config.split or 'train'}/{i}",
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
    for i, row in enumerate(read_rows(config, ""), start=config.start):
        need(row, ("prompt",), config, i)
        where = where_of(row, config, i)
        verifier = first_of(row, ("verifier",)) or "math"
        solution = first_of(row, ("solution",))
        if solution is not None and not isinstance(solution, str):
            raise UserError(f"{where} has a {type(solution).__name__} as its solution; expected text")
        number = first_of(row, ("id",))
        yield Item(
            Problem(
                id=f"{Path(config.path).stem}/{i}" if number is None else str(number),
                prompt=row["prompt"],
                verifier=verifier,
                reference=_reference(row, verifier, where),
                domain=config.domain or first_of(row, ("domain",)) or "",
                source=first_of(row, ("source",)) or Path(config.path).name,
                licence=first_of(row, ("licence", "license")) or "",
            ),
            solution,
        )


def _reference(row: dict, verifier: str, where: str) -> dict[str, Any]:
    """What a row's verifier is asked with: its `reference`, else its `answer`."""
    reference = first_of(row, ("reference",))
    if reference is None:
        reference = {"answer": row.get("answer")}
    if not isinstance(reference, dict) or is_empty(reference.get("answer", "0")):
        raise UserError(f"{where} has no answer; expected a key 'answer', or an object under 'reference'")
    if verifier == "math" and "answer" in reference:
        reference = {**reference, "answer": golds_of(reference["answer"], where)}
    return reference


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


SOURCES: dict[str, Callable[[SourceConfig], Iterator[Item]]] = {
    "arithmetic": arithmetic,
    "gsm8k": gsm8k,
    "varied": varied,
    "varied_arithmetic": varied_arithmetic,
    "jsonl": jsonl,
    "labelled": labelled,
    "gym": gym,
    "bracket_sums": bracket_sums,
    "coq": coq,
    "smt": smt,
    **FORMAL,
    **BENCHMARKS,
}

# of sources that make new problems: those that they make them from
OLD: dict[str, Callable[[SourceConfig], list[Old]]] = {
    "varied": old_word_problems,
    "varied_arithmetic": old_expressions,
}
