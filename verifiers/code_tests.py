"""Candidate programs against tests: standard input and output, function calls, assert suites.

The candidate's process gets its code and one input. Expected outputs stay here, or, for assert
suites, in a second child; "passed" needs every test, each in fresh processes.
"""

import ast
import builtins
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial

from verifiers.extract import final_answer
from verifiers.fences import program
from verifiers.sandbox import equality, pool, values
from verifiers.sandbox.limits import MAX_OUTPUT, NOT_PLAIN, Limits, Outcome
from verifiers.verdict import Verdict, failure

_LOOKS_LIKE_CODE = re.compile(
    r"^(?:[ \t]{2,}\S|def |class |import |from |print\(|for |while |if |[A-Za-z_][\w, ]*=)", re.M
)
_FUTURE = re.compile(r"^from __future__ import \w[\w, ]*", re.M)
_ENDING_REASON = {
    "crashed": "runtime_error", "time_limit": "time_limit", "memory_limit": "memory_limit",
    "output_limit": "output_limit", "security": "security",
}  # fmt: skip


_MAX_CODE = 1 << 20
_WHITE = " \t\r\n"
_WORD = re.compile(r"[^ \t\r\n]+")
_WRAPPERS = frozenset(("abs", "set", "sorted", "tuple", "list", "round", "len", "str", "all", "any", "dict"))


class _Starved(Exception):
    """The machine did not give a runnable child its CPU."""


class _Untestable(Exception):
    """A test does what cannot be done across two processes."""


def code(
    response: str,
    inputs: list | None = None,
    outputs: list | None = None,
    asserts: list[str] | None = None,
    test: str | None = None,
    prompt: str = "",
    setup: str = "",
    preamble: str = "",
    entry_point: str | None = None,
    extract: str = "auto",
    tolerance: float = 0.0,
    ignore_case: bool = False,
    cpu_s: float = 2.0,
    memory_mb: int = 512,
    warm: str = "bare",
) -> Verdict:
    """Run the response's program on tests; the score is the share that passed.

    Reference keys: inputs and outputs (texts for standard input and output, or with entry_point
    argument lists and return values; an output {"any": [...]} accepts each of the list), or asserts
    (statements, after `setup`), or test (HumanEval's text that defines check, with prompt and
    entry_point). preamble: code put before the candidate's. tolerance: for floats, relative above 1,
    else absolute. ignore_case: of printed words. warm: "bare", or "science" with numpy and sympy.
    No tests at all: error/internal_error. No code: no_answer.
    """
    try:
        compare = partial(same_output, tolerance=tolerance, ignore_case=ignore_case)
        tests = list(_tests(inputs, outputs, asserts, test, prompt, setup, entry_point, tolerance, compare))
    except (ValueError, TypeError, SyntaxError) as problem:
        return failure(f"code tests: {problem}")
    if not tests:
        return failure("a test suite without tests, expected inputs and outputs, asserts, or test")
    candidate = _candidate(response, prompt, entry_point, extract, _names(asserts, entry_point))
    if candidate is None:
        return Verdict("no_answer", "unparseable", detail="no code in the response")
    if len(candidate) > _MAX_CODE:
        return Verdict("incorrect", "refused", detail=f"a program of {len(candidate)} characters")
    candidate = _behind(preamble, candidate)
    longest = max((len(str(text)) for text in outputs or []), default=0) if entry_point is None else 0
    limits = Limits(cpu_s=cpu_s, wall_s=3 * cpu_s, memory=memory_mb << 20,
                    stdout=max(MAX_OUTPUT, 8 * longest + 1000))  # fmt: skip
    try:
        return _judge(candidate, tests, limits, warm)
    except _Starved:
        return failure("a candidate was runnable and did not get the CPU")
    except _Untestable as problem:
        return failure(f"a test cannot be run here: {problem}")
    except pool.SlotFailed as problem:
        return failure(f"sandbox: {problem}", "unavailable")


def unreadable(
    inputs: list | None = None, outputs: list | None = None, asserts: list[str] | None = None, test: str | None = None,
    prompt: str = "", setup: str = "", entry_point: str | None = None, **others: object,
) -> str:  # fmt: skip
    """Why a reference can judge no program, "" where it can."""
    try:
        tests = list(_tests(inputs, outputs, asserts, test, prompt, setup, entry_point, 0.0, same_output))
    except (ValueError, TypeError, SyntaxError) as problem:
        return f"code tests: {problem}"
    return "" if tests else "a test suite without tests"


code.unreadable = unreadable  # pyright: ignore[reportFunctionMemberAccess]


def _behind(preamble: str, candidate: str) -> str:
    """The candidate's code behind the preamble; its imports from __future__ have to stay first."""
    if not preamble:
        return candidate
    futures = _FUTURE.findall(candidate)
    return "\n".join([*futures, preamble, _FUTURE.sub("", candidate)])


# A test: (header, blobs behind the candidate's code) → what to make of the outcome ("" = passed).
_Test = tuple[dict, tuple[bytes, ...], Callable[[Outcome], str]]


def _judge(candidate: str, tests: list[_Test], limits: Limits, warm: str) -> Verdict:
    passed = 0
    reason = detail = ""
    cpu_ms = 0.0
    isolation = "none"
    for number, (header, blobs, check) in enumerate(tests):
        outcome = pool.run(warm, header, candidate.encode("utf-8", "surrogatepass"), *blobs, limits=limits)
        cpu_ms, isolation = cpu_ms + outcome.cpu_ms, outcome.isolation
        if outcome.ending == "starved":
            raise _Starved
        problem = check(outcome)
        if not problem:
            passed += 1
        elif not reason:
            reason, detail = problem, f"test {number + 1} of {len(tests)}: {problem}. {_last_line(outcome)}"
        if outcome.ending == "time_limit":
            break  # a program that hangs on one input would hang on many; the rest counts as failed
    score = passed / len(tests)
    measured = {"score": score, "isolation": isolation, "cpu_ms": cpu_ms}
    if passed == len(tests):
        return Verdict("correct", "ok", **measured)
    return Verdict("incorrect", reason, detail=detail, **measured)


def _last_line(outcome: Outcome) -> str:
    text = (outcome.stderr or outcome.detail.encode()).decode("utf-8", "replace").strip()
    return text.splitlines()[-1][:200] if text else ""


def _names(asserts: list[str] | None, entry_point: str | None) -> tuple[str, ...]:
    """The names that the program has to define, where the tests say."""
    if entry_point:
        return (entry_point.rpartition(".")[2],)
    return tuple(_entries(asserts or []))


def _candidate(
    response: str, prompt: str, entry_point: str | None, extract: str, names: tuple[str, ...]
) -> str | None:
    """The program: fenced code, else the response itself where it looks like code."""
    if extract != "auto":
        found = final_answer(response, extract)
    else:
        text = response.rpartition("</think>")[2]
        found = program(text, names)
        if found is None:
            found = text if _LOOKS_LIKE_CODE.search(text) and "```" not in text else None
    if found is None or not found.strip():
        return None
    if not prompt:
        return found
    if entry_point and re.search(rf"^def\s+{re.escape(entry_point)}\b", found, re.MULTILINE):
        # A whole function: the prompt's helpers and imports still come first.
        return f"{_stub(prompt)}\n{found}"
    return prompt + found


def _stub(prompt: str) -> str:
    """The prompt as complete code: its last function gets a body."""
    return prompt.rstrip() + "\n    pass\n"


def _tests(inputs, outputs, asserts, test, prompt, setup, entry_point, tolerance, compare) -> Iterator[_Test]:
    """Every test of the reference. Raises ValueError where keys are missing or do not fit."""
    kinds = [
        name
        for name, given in (("inputs", inputs), ("asserts", asserts), ("test", test))
        if given is not None
    ]
    if len(kinds) != 1:
        raise ValueError(
            f"reference has {', '.join(kinds) or 'no tests'}, expected one of inputs, asserts, test"
        )
    if test is not None:
        if not entry_point:
            raise ValueError("test without entry_point")
        if "assert" not in test:
            raise ValueError("test without an assert")
        header = {"kind": "suite", "entries": [entry_point]}
        yield (
            header,
            (_stub(prompt).encode() if prompt else b"", f"{test}\ncheck({entry_point})".encode()),
            _reached,
        )
        return
    if asserts is not None:
        entries = [entry_point] if entry_point else _entries(asserts)
        for statement in asserts:
            yield {"kind": "suite", "entries": entries}, (b"", f"{setup}\n{statement}".encode()), _reached
        return
    if outputs is None or len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs or [])} outputs")
    for given, expected in zip(inputs, outputs, strict=True):
        if entry_point:
            try:
                encoded = values.encode(list(given))
            except values.NotPlain as problem:
                raise ValueError(f"an input is {problem}") from problem
            yield {"kind": "call", "entry": entry_point}, (encoded,), _value_check(expected, tolerance)
        else:
            yield {"kind": "program"}, (str(given).encode(),), _output_check(expected, compare)


def _entries(asserts: list[str]) -> list[str]:
    """The function that the asserts are about: the call common to all that is no builtin's, else one
    that tests do not wrap results in. Only it may shadow a builtin: `abs` in a test stays Python's,
    whatever the candidate defines."""
    called = [_called(statement) for statement in asserts]
    if not called:
        return []
    common = [name for name in called[0] if all(name in names for names in called)]
    if any(not hasattr(builtins, name) for names in called for name in names):
        # They are about functions that are not Python's, so that what is called like one of Python's is Python's.
        return [name for name in common if not hasattr(builtins, name)][-1:]
    return ([name for name in common if name not in _WRAPPERS] or common)[:1]


def _called(statement: str) -> list[str]:
    """The names that a statement calls, outermost first."""
    return [
        node.func.id for node in ast.walk(ast.parse(statement))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]  # fmt: skip


def _reached(outcome: Outcome) -> str:
    if outcome.ending == "done":
        return "" if outcome.value == b"every test reached" else "wrong"
    if outcome.detail == NOT_PLAIN:  # the tests' own child says so: a test passes on what cannot travel
        raise _Untestable(_last_line(outcome))
    if (
        outcome.ending == "crashed"
        and outcome.detail == "exception"
        and b"AssertionError" in outcome.stderr[-300:]
    ):
        return "wrong"
    return _ENDING_REASON[outcome.ending]


def _accepted(expected) -> list:
    is_choice = isinstance(expected, dict) and list(expected) == ["any"] and isinstance(expected["any"], list)
    return expected["any"] if is_choice else [expected]


def _value_check(expected, tolerance: float) -> Callable[[Outcome], str]:
    try:
        accepted = [equality.Expected(value) for value in _accepted(expected)]
    except values.NotPlain as problem:
        raise ValueError(f"an output is {problem}") from problem

    def check(outcome: Outcome) -> str:
        if outcome.ending != "done":
            return _ENDING_REASON[outcome.ending]
        if outcome.detail != "done":
            return "runtime_error"  # the program left (SystemExit) before it returned anything
        try:
            is_right = any(value.equals(outcome.value, tolerance) for value in accepted)
        except values.NotPlain:
            return "security"
        return "" if is_right else "wrong"

    return check


def _output_check(expected, compare: Callable[[str, str], bool]) -> Callable[[Outcome], str]:
    accepted = [str(text) for text in _accepted(expected)]

    def check(outcome: Outcome) -> str:
        if outcome.ending != "done":
            return _ENDING_REASON[outcome.ending]
        found = outcome.stdout.decode("utf-8", "replace")
        return "" if any(compare(text, found) for text in accepted) else "wrong"

    return check


def same_output(expected: str, found: str, tolerance: float = 0.0, ignore_case: bool = False) -> bool:
    """Equal but for white space at the ends of lines and at the end; all of it, no prefix of it.

    Where that fails: equal word by word, numbers by value (1.50 is 1.5) within the tolerance.
    """
    if ignore_case:
        expected, found = expected.lower(), found.lower()
    # Only these are white space: str.split would take "\x0b" and its like for line ends.
    expected, found = (text.replace("\r\n", "\n").rstrip(_WHITE) for text in (expected, found))
    if [line.rstrip(_WHITE) for line in expected.split("\n")] == [
        line.rstrip(_WHITE) for line in found.split("\n")
    ]:
        return True
    wanted, words = _WORD.findall(expected), _WORD.findall(found)
    return len(wanted) == len(words) and all(
        _same_word(a, b, tolerance) for a, b in zip(wanted, words, strict=True)
    )


def _same_word(expected: str, found: str, tolerance: float) -> bool:
    if expected == found:
        return True
    # Only decimals have two spellings of one value; 007 is not 7 where text was asked for.
    if len(expected) > 100 or len(found) > 100 or "." not in expected + found:
        return False
    try:
        a, b = Decimal(expected), Decimal(found)
        return a == b or (tolerance > 0 and abs(a - b) <= Decimal(tolerance) * max(Decimal(1), abs(a)))
    except ArithmeticError:
        return False  # no number, or one beyond decimal's range
