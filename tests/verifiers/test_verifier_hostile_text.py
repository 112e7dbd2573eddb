"""Long hostile responses: each verdict comes at once, since a regular expression that goes back and forth over
them would stop the whole trainer (Python's hold the interpreter's lock), and no time limit of ours would see it."""

import signal
from contextlib import contextmanager

import pytest

from verifiers import verify
from verifiers.extract import final_answer

REFERENCES = {
    "math": [{"answer": "5"}, {"answer": "5", "extract": "last_math"}, {"answer": "A", "extract": "choice"}],
    "steps": [{}],
    "logic": [{"puzzle": "countdown", "numbers": [4, 6, 1, 1], "target": 24}],
    "code": [{"inputs": ["1"], "outputs": ["2"], "cpu_s": 0.2}],
}
PARTS = {
    "newlines": "\n", "spaces": " ", "tabs": "\t", "ideographic_spaces": "\u3000", "returns": "\r", "nul": "\0",
    "open_boxes": r"\boxed{", "boxes_side_by_side": r"\boxed{6} ", "open_braces": "{", "closed_braces": "}",
    "dollars": "$", "escaped_dollars": r"\$", "display_open": r"\[", "inline_open": r"\(", "backslashes": "\\",
    "hashes": "####", "answer_is": "the answer is ", "fences": "```", "opening_fences": "```python\n",
    "texts": r"\text{", "fractions": r"\frac", "lefts": r"\left(", "roots": r"\sqrt{", "environments": r"\begin{a}",
    "parentheses": "(", "digits": "9", "ones": "1 ", "commas": "1,", "points": "1.", "signs": "-", "percents": "7%",
    "equals": "1=1=", "sums": "1+", "wrong_lines": "1+1=3\n", "thoughts": "<think>", "closed_thoughts": "</think>",
    "definitions": "def ", "words": "word ", "letters": "B ", "ands": "and ", "surrogates": "\ud800",
    "right_to_left": "\u202e6", "powers": "9^", "factorials": "9!", "columns": "1&", "rows": r"1\\",
}  # fmt: skip


@contextmanager
def at_most(seconds: int):
    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", PARTS)
def test_forty_thousand_characters_of_one_kind(name):
    part = PARTS[name]
    for text in (part * (40_000 // len(part)), f"so {part * (40_000 // len(part))} 6"):
        for verifier, references in REFERENCES.items():
            for reference in references:
                # An honest verdict takes a hundredth of a second; the quadratic ones took ten and more.
                with at_most(8):
                    verdict = verify(verifier, text, reference)
                assert verdict.status in ("incorrect", "no_answer"), (verifier, reference, verdict)


def test_escaped_signs_open_no_formula():
    assert final_answer(r"It costs \$3 and then $7$ more", "last_math") == "7"
    assert final_answer(r"a row \\[2pt] and \[x = 4\]", "last_math") == "x = 4"
    assert final_answer(r"first \[1\] then \[\begin{matrix}1\\[2pt]2\end{matrix}\]", "last_math") == (
        r"\begin{matrix}1\\[2pt]2\end{matrix}"
    )
    assert final_answer(r"\(a \[ b\) so \(c\)", "last_math") == "c"
