"""Public benchmarks as problems: mathematics, code and number puzzles, from local files or from the hub.

Each source reads the field names that its data sets are published with. `path` names a local file; without
it the rows come from the hub. Licences travel with the problems.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from reasoner.data.rows import Item, SourceConfig, read_rows
from reasoner.registry import UserError
from reasoner.tree import Problem
from verifiers.extract import boxed

Source = Callable[[SourceConfig], Iterator[Item]]


def _first(row: dict, keys: tuple[str, ...]) -> Any:
    """The value under the first of the keys that is there and not empty."""
    return next((row[k] for k in keys if row.get(k) not in (None, "", [])), None)


def _text_of(row: dict, keys: tuple[str, ...], config: SourceConfig, i: int, what: str) -> str:
    found = _first(row, keys)
    if found is None:
        raise UserError(
            f"row {i} of {config.path or config.name} has no {what}; expected one under {' or '.join(keys)}, "
            f"and it has the keys {sorted(row)}"
        )
    return str(found).strip()


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
            prompt = _text_of(row, question, config, i, "question")
            if row.get("body") or row.get("Body"):
                prompt = f"{_first(row, ('body', 'Body'))} {prompt}"
            solution = row.get("solution") if isinstance(row.get("solution"), str) else None
            gold: Any = _whole_number(_first(row, answer))
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


def humaneval(config: SourceConfig) -> Iterator[Item]:
    """HumanEval (Chen et al. 2021), and HumanEval+ by path: complete a function from its docstring."""
    for i, row in enumerate(read_rows(config, "openai/openai_humaneval"), start=config.start):
        prompt = _text_of(row, ("prompt",), config, i, "prompt")
        reference = {
            "test": _text_of(row, ("test",), config, i, "test"),
            "prompt": row["prompt"],
            "entry_point": _text_of(row, ("entry_point",), config, i, "entry_point"),
        }
        asked = f"Complete this Python function.\n```python\n{prompt}\n```"
        yield _code(config, "humaneval", row.get("task_id", i), asked, reference, "MIT")


def mbpp(config: SourceConfig) -> Iterator[Item]:
    """MBPP (Austin et al. 2021), and MBPP+ by path: a function from one sentence and its tests."""
    for i, row in enumerate(read_rows(config, "google-research-datasets/mbpp"), start=config.start):
        text = _text_of(row, ("text", "prompt"), config, i, "text")
        tests = row.get("test_list") or []
        if not tests:
            raise UserError(
                f"row {i} of {config.path or 'MBPP'} has no test_list; expected assert statements"
            )
        setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or [])
        asked = f"{text}\nYour code should pass these tests:\n" + "\n".join(tests)
        reference = {"asserts": list(tests), "setup": setup}
        yield _code(config, "mbpp", row.get("task_id", i), asked, reference, "CC BY 4.0")


def livecodebench(config: SourceConfig) -> Iterator[Item]:
    """LiveCodeBench (Jain et al. 2024) with its tests as a list of {input, output, testtype}."""
    hub = "livecodebench/code_generation_lite"
    for i, row in enumerate(read_rows(config, hub), start=config.start):
        text = _text_of(row, ("problem", "question_content"), config, i, "problem")
        tests = _first(row, ("tests", "public_test_cases"))
        tests = json.loads(tests) if isinstance(tests, str) else tests
        if not tests:
            raise UserError(f"row {i} of {config.path or hub} has no tests; expected {{input, output}} pairs")
        starter = row.get("starter_code") or ""
        reference = _io_tests(tests, row)
        asked = text + (f"\nStart from this code:\n```python\n{starter}\n```" if starter else "")
        yield _code(config, "livecodebench", row.get("question_id", i), asked, reference, "CC BY 4.0")


def _io_tests(tests: list[dict], row: dict) -> dict[str, Any]:
    """Reference keys of the code verifier: standard input, or a method's arguments one a line in JSON."""
    functional = [t for t in tests if t.get("testtype") == "functional"]
    if not functional:
        return {"inputs": [t["input"] for t in tests], "outputs": [t["output"] for t in tests]}
    metadata = functional[0].get("metadata") or row.get("metadata") or {}
    metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
    name = metadata.get("func_name") or re.findall(r"def\s+(\w+)\s*\(", row.get("starter_code") or "x")[-1]
    return {
        "inputs": [
            [json.loads(line) for line in t["input"].splitlines() if line.strip()] for t in functional
        ],
        "outputs": [json.loads(t["output"]) for t in functional],
        "entry_point": name,
    }


def _code(
    config: SourceConfig, name: str, number: object, prompt: str, reference: dict, licence: str
) -> Item:
    problem = Problem(
        id=f"{name}/{number}".replace(f"{name}/HumanEval/", "humaneval/"),
        prompt=prompt,
        verifier="code",
        reference=reference,
        domain=config.domain or name,
        source=name,
        licence=licence,
    )
    return Item(problem, None)


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
    "humaneval": humaneval,
    "mbpp": mbpp,
    "livecodebench": livecodebench,
    "countdown": countdown,
}
