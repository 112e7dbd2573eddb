"""Public benchmarks as problems: mathematics and number puzzles here, programs in reasoner/data/programs.py; from
local files or from the hub.

Each source reads the field names that its data sets are published with. `path` names a local file; without
it the rows come from the hub. Licences travel with the problems.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from reasoner.data.programs import PROGRAMS
from reasoner.data.rows import Item, SourceConfig, first_of, read_rows, text_of
from reasoner.registry import UserError
from reasoner.tree import Problem
from verifiers.extract import boxed

Source = Callable[[SourceConfig], Iterator[Item]]


def _whole_number(value: object) -> object:
    """27.0 as 27: some files hold integer answers as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def mathematics(
    name: str,
    hub: str,
    licence: str,
    question: tuple[str, ...] = ("problem", "question"),
    answer: tuple[str, ...] = ("answer",),
    subset: str | None = None,
) -> Source:
    """A source of questions with one final answer; where no field holds it, it is the solution's last box."""

    def source(config: SourceConfig) -> Iterator[Item]:
        for i, row in enumerate(read_rows(config, hub, subset), start=config.start):
            prompt = text_of(row, question, config, i, "question")
            if row.get("body") or row.get("Body"):
                prompt = f"{first_of(row, ('body', 'Body'))} {prompt}"
            solution = row.get("solution") if isinstance(row.get("solution"), str) else None
            gold: Any = _whole_number(first_of(row, answer))
            if gold is None and solution:
                gold = boxed(solution)
            if gold is None:
                raise UserError(
                    f"row {i} of {config.path or hub} has no answer; expected {' or '.join(answer)}, or a box in its solution"
                )
            yield Item(
                Problem(
                    id=f"{name}/{row.get('id', row.get('unique_id', row.get('idx', i)))}",
                    prompt=prompt,
                    verifier="math",
                    reference={"answer": gold if isinstance(gold, list) else str(gold)},
                    domain=config.domain or name,
                    source=hub,
                    licence=licence,
                ),
                solution,
            )

    return source


def asdiv(config: SourceConfig) -> Iterator[Item]:
    """ASDiv (Miao et al. 2020): the unit in parentheses behind the answer is left out."""
    plain = mathematics("asdiv", "EleutherAI/asdiv", "CC BY-NC 4.0")
    for item in plain(config):
        answer = re.sub(r"\s*\([^()]*\)\s*$", "", item.problem.reference["answer"])
        reference = {**item.problem.reference, "answer": answer}
        yield Item(Problem(**{**_fields(item.problem), "reference": reference}), None)


def olympiadbench(config: SourceConfig) -> Iterator[Item]:
    """OlympiadBench (He et al. 2024), open-ended English mathematics: several final answers are all asked for."""
    plain = mathematics(
        "olympiadbench",
        "Hothan/OlympiadBench",
        "Apache-2.0",
        ("question",),
        ("final_answer",),
        "OE_TO_maths_en_COMP",
    )
    for item in plain(config):
        answers = [str(a).strip().strip("$") for a in item.problem.reference["answer"]]
        reference = {**item.problem.reference, "answer": ", ".join(answers)}
        yield Item(Problem(**{**_fields(item.problem), "reference": reference}), None)


def _fields(problem: Problem) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in Problem.__dataclass_fields__}


def countdown(config: SourceConfig) -> Iterator[Item]:
    """Countdown (rows of nums and target), or the game of 24 (rows with Puzzles, four numbers)."""
    for i, row in enumerate(read_rows(config, "Jiayi-Pan/Countdown-Tasks-3to4"), start=config.start):
        if row.get("Puzzles"):
            numbers, target, name = [int(x) for x in str(row["Puzzles"]).split()], 24, "game_of_24"
        else:
            numbers, target, name = row.get("nums") or row.get("numbers"), row.get("target"), "countdown"
        if not numbers or target is None:
            raise UserError(
                f"row {i} of {config.path or 'Countdown'} has no numbers and target; expected nums and target, or Puzzles"
            )
        listed = ", ".join(map(str, numbers))
        yield Item(
            Problem(
                id=f"{name}/{i}",
                prompt=f"Use the numbers {listed}, each exactly once, with + - * / and parentheses to make {target}. "
                "End with: #### expression",
                verifier="logic",
                reference={"puzzle": "countdown", "numbers": list(map(int, numbers)), "target": int(target)},
                domain=config.domain or name,
                source=name,
                licence="MIT" if name == "game_of_24" else "Apache-2.0",
            ),
            None,
        )


BENCHMARKS: dict[str, Source] = {
    "math": mathematics("math", "HuggingFaceH4/MATH-500", "MIT"),
    "aime": mathematics("aime", "HuggingFaceH4/aime_2024", "see source"),
    "amc": mathematics("amc", "AI-MO/aimo-validation-amc", "Apache-2.0"),
    "svamp": mathematics(
        "svamp", "ChilleD/SVAMP", "MIT", ("question_concat", "Question", "question"), ("Answer", "answer")
    ),
    "asdiv": asdiv,
    "olympiadbench": olympiadbench,
    "countdown": countdown,
    **PROGRAMS,
}
