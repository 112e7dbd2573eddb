"""Public sets of programming problems: functions with tests, and contest problems with inputs and outputs.

Each source reads the field names that its data set is published with; every test of a row is used, the private
ones too. What the verifier does with the reference: verifiers/code_tests.py.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

from reasoner.data.packed import unpack
from reasoner.data.program_tests import against_solution, function_under_test
from reasoner.data.rows import Item, SourceConfig, first_of, read_rows, text_of
from reasoner.registry import UserError
from reasoner.tree import Problem

# LeetCode's starter code uses names that its judge imports before; LiveCodeBench's and APPS's judges do so too, and
# let programs recurse deeper than Python does by itself.
# The built-in functions come after the others, since `math` has a pow of its own; modules come last.
CONTEST_IMPORTS = "\n".join(
    [f"from {name} import *" for name in ("string", "re", "collections", "heapq", "bisect", "copy", "math", "random",
                                          "itertools", "functools", "operator", "typing", "builtins")]
    + [f"import {name}" for name in ("bisect", "collections", "copy", "datetime", "functools", "heapq", "itertools",
                                     "json", "math", "operator", "random", "re", "statistics", "string", "sys")]
    + ["sys.setrecursionlimit(50_000)"]
)  # fmt: skip
_PYTHON_3 = 3  # in CodeContests' list of languages


def humaneval(config: SourceConfig) -> Iterator[Item]:
    """HumanEval (Chen et al. 2021), and HumanEval+ by path, of any version: complete a function from its docstring."""
    for i, row in enumerate(read_rows(config, "openai/openai_humaneval"), start=config.start):
        prompt = text_of(row, ("prompt",), config, i, "prompt")
        test = text_of(row, ("test",), config, i, "test")
        solution = f"{row['prompt']}{row.get('canonical_solution') or ''}"
        more = against_solution(row, solution)
        reference = {
            "test": f"{test}\n{more}" if more else test,
            "prompt": row["prompt"],
            "entry_point": text_of(row, ("entry_point",), config, i, "entry_point"),
            **_for_many(f"{test}{more}" if more or "numpy" in test else ""),
        }
        asked = f"Complete this Python function.\n```python\n{prompt}\n```"
        yield _item(config, "humaneval", row.get("task_id", i), asked, reference, "MIT")


def mbpp(config: SourceConfig) -> Iterator[Item]:
    """MBPP (Austin et al. 2021), and MBPP+ by path, of any version: a function from one sentence and its tests.

    The asserts of test_list are shown; those of challenge_test_list, the text under `test` and the inputs of earlier
    versions are not.
    """
    for i, row in enumerate(read_rows(config, "google-research-datasets/mbpp"), start=config.start):
        text = text_of(row, ("text", "prompt"), config, i, "text")
        solution = str(first_of(row, ("code", "canonical_solution")) or "")
        shown = list(row.get("test_list") or [])
        assertion = str(row.get("assertion") or "").strip()
        hidden = [*(row.get("challenge_test_list") or []), *([assertion] if assertion else [])]
        hidden += [more for more in (str(row.get("test") or "").strip(),
                                     against_solution(row, solution, assertion or "\n".join(shown))) if more]  # fmt: skip
        if not shown and not hidden:
            raise UserError(
                f"row {i} of {config.path or 'MBPP'} has no test_list; expected assert statements"
            )
        setup = "\n".join([row.get("test_setup_code") or "", *(row.get("test_imports") or [])]).strip()
        asked = text.strip('"\n ') + (
            "\nYour code should pass these tests:\n" + "\n".join(shown) if shown else ""
        )
        name = row.get("entry_point") or function_under_test(solution, shown)
        reference = {
            "asserts": shown + hidden,
            "setup": setup,
            **({"entry_point": name} if name else {}),
            **_for_many("".join(hidden)),
        }
        yield _item(
            config, "mbpp", str(row.get("task_id", i)).removeprefix("Mbpp/"), asked, reference, "CC BY 4.0"
        )


def _for_many(tests: str) -> dict[str, Any]:
    """Reference keys for tests of many inputs, by their text: more time, and numpy where they use it."""
    return ({"cpu_s": 10.0} if tests else {}) | ({"warm": "science"} if "numpy" in tests else {})


def livecodebench(config: SourceConfig) -> Iterator[Item]:
    """LiveCodeBench (Jain et al. 2024): public_test_cases and private_test_cases as they are published, or `tests`,
    a list of {input, output, testtype}. Six seconds a test, as its own judge gives."""
    hub = "livecodebench/code_generation_lite"
    for i, row in enumerate(read_rows(config, hub), start=config.start):
        text = text_of(row, ("problem", "question_content"), config, i, "problem")
        tests = [
            test
            for key in ("tests", "public_test_cases", "private_test_cases")
            for test in _unpacked(row, key, config, i) or []
        ]
        if not tests:
            raise UserError(f"row {i} of {config.path or hub} has no tests; expected {{input, output}} pairs")
        reference = {**_pairs(tests, row, config, i), "preamble": CONTEST_IMPORTS, "cpu_s": 6.0}
        asked = _with_starter(text, row)
        yield _item(config, "livecodebench", row.get("question_id", i), asked, reference, "CC BY 4.0")


def apps(config: SourceConfig) -> Iterator[Item]:
    """APPS (Hendrycks et al. 2021): `input_output` holds inputs, outputs and, for functions, fn_name. Four seconds a
    test, and decimals within a tolerance, as its own judge has it. Rows without tests are left out. Problems with
    several right outputs are in it, and know one of them only."""
    hub, left_out = "metr-evals/apps", 0
    for i, row in enumerate(read_rows(config, hub), start=config.start):
        text = text_of(row, ("question",), config, i, "question")
        tests = _unpacked(row, "input_output", config, i) or {}
        if not tests.get("inputs"):
            left_out += 1
            continue
        if tests.get("fn_name"):
            reference = {
                "inputs": [[_int_keys(value) for value in given] for given in tests["inputs"]],
                "outputs": [_returned(value) for value in tests["outputs"]],
                "entry_point": tests["fn_name"],
            }
        else:
            reference = {key: [_lines(text) for text in tests[key]] for key in ("inputs", "outputs")}
        reference |= {"preamble": CONTEST_IMPORTS, "cpu_s": 4.0, "tolerance": 1e-6}
        number = first_of(row, ("problem_id", "apps_id"))
        solutions = _unpacked(row, "solutions", config, i) or [None]
        asked = _with_starter(text, row)
        yield _item(config, "apps", i if number is None else number, asked, reference, "MIT", solutions[0])
    _tell("apps", left_out, "have no tests")


def code_contests(config: SourceConfig) -> Iterator[Item]:
    """CodeContests (Li et al. 2022): public, private and generated tests, each under the problem's own limits; words
    are compared without case and numbers to 1e-5, as its own judge does. Problems that read or write files are left
    out. The limits were set for compiled programs: right ones in Python may be too slow."""
    hub, left_out = "deepmind/code_contests", 0
    for i, row in enumerate(read_rows(config, hub), start=config.start):
        text = text_of(row, ("description", "problem"), config, i, "description")
        if row.get("input_file") or row.get("output_file"):
            left_out += 1
            continue
        tests = [
            pair
            for key in ("tests", "public_tests", "private_tests", "generated_tests")
            for pair in _columns(_unpacked(row, key, config, i))
        ]
        if not tests:
            raise UserError(f"row {i} of {config.path or hub} has no tests; expected inputs and outputs")
        reference = {"inputs": [a for a, _ in tests], "outputs": [b for _, b in tests],
                     "tolerance": 1e-5, "ignore_case": True, **_limits(row)}  # fmt: skip
        written = row.get("solutions") or {}
        solution = next(
            (s for k, s in zip(written.get("language", ()), written.get("solution", ()), strict=True) if k == _PYTHON_3),
            None,
        )  # fmt: skip
        yield _item(config, "code_contests", row.get("name", i), text, reference, "CC BY 4.0", solution)
    _tell("code_contests", left_out, "read or write files")


def _unpacked(row: dict, key: str, config: SourceConfig, i: int) -> Any:
    """The value under the key, a JSON text unpacked; None where there is none."""
    value = row.get(key)
    if not isinstance(value, str):
        return value
    try:
        return unpack(value) if value.strip() else None
    except ValueError as problem:
        raise UserError(
            f"row {i} of {config.path or config.name}: {key} cannot be read: {problem}; expected JSON"
        ) from problem


def _pairs(tests: list[dict], row: dict, config: SourceConfig, i: int) -> dict[str, Any]:
    """Reference keys of the code verifier: standard input, or a method's arguments one a line in JSON."""
    if all(t.get("testtype") != "functional" for t in tests):
        return {"inputs": [t["input"] for t in tests], "outputs": [t["output"] for t in tests]}
    metadata = tests[0].get("metadata") or _unpacked(row, "metadata", config, i) or {}
    names = re.findall(r"def\s+(\w+)\s*\(", row.get("starter_code") or "")
    name = metadata.get("func_name") or (names[-1] if names else None)
    if name is None:
        raise UserError(
            f"row {i} of {config.path or config.name} tests a function without a name; expected func_name in "
            "metadata, or starter_code"
        )
    return {
        "inputs": [[json.loads(line) for line in t["input"].splitlines() if line.strip()] for t in tests],
        "outputs": [json.loads(t["output"]) for t in tests],
        "entry_point": name,
    }


def _columns(tests: Any) -> Iterator[tuple[str, str]]:
    """(input, output) of tests stored as two lists, or as a list of pairs."""
    if isinstance(tests, dict):
        given = tests.get("input", tests.get("inputs")) or []
        expected = tests.get("output", tests.get("outputs")) or []
        yield from zip(given, expected, strict=True)
    else:
        yield from ((test["input"], test["output"]) for test in tests or [])


def _limits(row: dict) -> dict[str, Any]:
    """The problem's own limits as reference keys; {seconds, nanos} is how protocol buffers write a duration."""
    limits: dict[str, Any] = {}
    seconds = row.get("time_limit") or {}
    if seconds.get("seconds") or seconds.get("nanos"):
        limits["cpu_s"] = (seconds.get("seconds") or 0) + (seconds.get("nanos") or 0) / 1e9
    if row.get("memory_limit_bytes"):
        limits["memory_mb"] = row["memory_limit_bytes"] >> 20
    return limits


def _lines(text: Any) -> str:
    """APPS writes some inputs and outputs as lists of lines."""
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def _returned(value: Any) -> Any:
    """APPS writes some return values inside a list of one, and JSON has turned a dict's integer keys into text."""
    choices = [value, *(value if isinstance(value, list) and len(value) == 1 else [])]
    choices += [keyed for choice in choices if (keyed := _int_keys(choice)) != choice]
    return {"any": choices} if len(choices) > 1 or isinstance(value, dict) else value


def _int_keys(value: Any) -> Any:
    if isinstance(value, dict) and value and all(re.fullmatch(r"-?\d{1,18}", str(key)) for key in value):
        return {int(key): inner for key, inner in value.items()}
    return value


def _with_starter(text: str, row: dict) -> str:
    starter = row.get("starter_code") or ""
    return text + (f"\nStart from this code:\n```python\n{starter}\n```" if starter else "")


def _item(
    config: SourceConfig,
    name: str,
    number: object,
    prompt: str,
    reference: dict,
    licence: str,
    program: str | None = None,
) -> Item:
    if config.tolerance is not None:
        reference = {**reference, "tolerance": config.tolerance}
    problem = Problem(
        id=f"{name}/{number}".replace(f"{name}/HumanEval/", "humaneval/"),
        prompt=prompt,
        verifier="code",
        reference=reference,
        domain=config.domain or name,
        source=name,
        licence=licence,
    )
    return Item(problem, f"```python\n{program}\n```" if program else None)


def _tell(name: str, left_out: int, why: str) -> None:
    if left_out:
        warnings.warn(f"{name}: {left_out} rows {why} and are left out", stacklevel=3)


PROGRAMS = {
    "humaneval": humaneval,
    "mbpp": mbpp,
    "livecodebench": livecodebench,
    "apps": apps,
    "code_contests": code_contests,
}
