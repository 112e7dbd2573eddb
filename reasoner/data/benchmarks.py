"""Public benchmarks as problems: mathematics and number puzzles here, programs in reasoner/data/programs.py; from
local files or from the hub.

Each source reads the field names that its data sets are published with. `path` names a local file; without
it the rows come from the hub. Licences travel with the problems.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from reasoner.data.programs import PROGRAMS
from reasoner.data.rows import Item, SourceConfig, first_of, golds_of, read_rows, text_of, where_of
from reasoner.registry import UserError
from reasoner.tree import Problem
from verifiers.extract import boxed

Source = Callable[[SourceConfig], Iterator[Item]]
_UNIT = re.compile(r"\s*\(([^()]*[^()\d\s.,/+*-][^()]*)\)\s*$")  # "(2 weeks)", and not "(1/3)"
_CALCULATION = re.compile(r"[(]*\d[\d.()]*(?:[-+*/][\d.()]+)+")


def mathematics(
    name: str,
    hub: str,
    licence: str,
    question: tuple[str, ...] = ("problem", "question"),
    answer: tuple[str, ...] = ("answer",),
    subset: str | None = None,
    solution: str = "solution",
) -> Source:
    """A source of questions with one final answer; where no field holds it, it is the solution's last box."""

    def source(config: SourceConfig) -> Iterator[Item]:
        for i, row in enumerate(read_rows(config, hub, subset), start=config.start):
            prompt = text_of(row, question, config, i, "question")
            body = first_of(row, ("body", "Body"))
            if isinstance(body, str) and not prompt.startswith(body.strip()):
                prompt = f"{body.strip()} {prompt}"
            worked = row.get(solution) if isinstance(row.get(solution), str) else None
            gold: Any = first_of(row, answer)
            if gold is None and worked:
                gold = boxed(worked)
            where = where_of(row, config, i)
            if gold is None:
                raise UserError(
                    f"{where} has no answer; expected {' or '.join(answer)}, or a box in its solution, and it has the "
                    f"keys {sorted(map(str, row))}"
                )
            number = first_of(row, ("id", "ID", "unique_id", "idx"))
            yield Item(
                Problem(
                    id=f"{name}/{i if number is None else number}",
                    prompt=prompt,
                    verifier="math",
                    reference={"answer": golds_of(gold, where)},
                    domain=config.domain or name,
                    source=hub,
                    licence=licence,
                ),
                worked,
            )

    return source


def math_train(config: SourceConfig) -> Iterator[Item]:
    """The problems that MATH (Hendrycks et al. 2021) has for training, with their solutions; by path any of its files
    that is not for testing. Rows that say that they are of the test split, from which MATH-500 comes, are left out."""
    if config.split not in ("", "train"):
        raise UserError(
            f"source math_train has split {config.split!r}; expected train: of the others are the problems of MATH-500, "
            "which is the source math500"
        )
    plain = mathematics("math_train", "DigitalLearningGmbH/MATH-lighteval", "MIT")
    left_out = 0
    for item in plain(config):
        if item.problem.id.startswith("math_train/test/"):
            left_out += 1
        else:
            yield item
    if left_out:
        warnings.warn(f"math_train: {left_out} rows are of MATH's test split and are left out", stacklevel=2)


def asdiv(config: SourceConfig) -> Iterator[Item]:
    """ASDiv (Miao et al. 2020): the unit in parentheses behind the answer is left out, and a number there is none.

    Where the formula is one calculation with the answer as its result, it is the worked solution: "7 + 2 = 9 apples".
    """
    plain = mathematics("asdiv", "EleutherAI/asdiv", "CC BY-NC 4.0", solution="formula")
    for item in plain(config):
        given = item.problem.reference["answer"]
        unit = _UNIT.search(given)
        answer = given[: unit.start()] if unit else given
        reference = {**item.problem.reference, "answer": answer}
        yield Item(Problem(**{**_fields(item.problem), "reference": reference}),
                   _sentence(item.solution or "", answer, unit.group(1) if unit else ""))  # fmt: skip


def _sentence(formula: str, answer: str, unit: str) -> str | None:
    left, _, result = formula.partition("=")
    if not _CALCULATION.fullmatch(left) or result.strip() != answer:
        return None
    spaced = re.sub(r"([-+*/])", r" \1 ", left)
    return f"{spaced} = {answer} {unit}".strip()


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
        listed = item.problem.reference["answer"]
        answers = [a.strip().strip("$") for a in ([listed] if isinstance(listed, str) else listed)]
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
                f"{where_of(row, config, i)} has no numbers and target; expected nums and target, or Puzzles"
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
    "math500": mathematics("math500", "HuggingFaceH4/MATH-500", "MIT"),
    "math_train": math_train,
    "aime": mathematics("aime", "HuggingFaceH4/aime_2024", "see source"),
    "amc": mathematics("amc", "AI-MO/aimo-validation-amc", "Apache-2.0"),
    "svamp": mathematics(
        "svamp", "ChilleD/SVAMP", "MIT", ("question_concat", "Question", "question"), ("Answer", "answer")
    ),
    "mawps": mathematics(
        "mawps", "MU-NLPC/Calc-mawps", "MIT", ("question", "input"), ("result", "target", "answer")
    ),
    "asdiv": asdiv,
    "olympiadbench": olympiadbench,
    "countdown": countdown,
    **PROGRAMS,
}
