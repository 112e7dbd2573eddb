"""Where problems come from: reasoning-gym, benchmarks, puzzles, JSON lines; each source is one function in a table."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from reasoner.data.benchmarks import BENCHMARKS
from reasoner.data.demonstrator import work_out
from reasoner.data.puzzles import bracket_sums, gym
from reasoner.data.rows import Item, SourceConfig, gym_rows, need, read_rows
from reasoner.registry import UserError, lookup
from reasoner.tree import Problem
from verifiers import lookup as lookup_verifier


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
    for name, i, row in gym_rows(config):
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
    for i, row in enumerate(read_rows(config, "openai/gsm8k", "main")):
        need(row, ("question", "answer"), config, i)
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
    for i, row in enumerate(read_rows(config, "")):
        need(row, ("prompt",), config, i)
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


SOURCES: dict[str, Callable[[SourceConfig], Iterator[Item]]] = {
    "arithmetic": arithmetic,
    "gsm8k": gsm8k,
    "jsonl": jsonl,
    "labelled": labelled,
    "gym": gym,
    "bracket_sums": bracket_sums,
    **BENCHMARKS,
}
