"""Fenced code as models write it: which block is the program, and what its text is."""

import time

import pytest

from verifiers import verify
from verifiers.extract import fenced_code
from verifiers.fences import blocks

F = "def f(x):\n    return x + 1\n"
P = f"```python\n{F}```\n"

RESPONSES = {
    "plain": P,
    "notes behind it": f"{P}Complexity:\n```\nTime: O(n)\nSpace: O(1)\n```\n",
    "a session behind it": f"{P}```\n>>> f(1)\n2\n```\n",
    "output behind it": f"{P}Output:\n```\n2\n3\n```\n",
    "output marked as such": f"{P}```output\n2\n```\n",
    "a session in Python behind it": f"{P}```python\n>>> f(1)\n2\n```\n",
    "output in Python behind it": f"{P}```python\n2\n```\n",
    "a use of it behind it": f"{P}Use it:\n```python\nprint(f(1))\n```\n",
    "a draft before it": f"```python\ndef f(x):\n    return x\n```\nBetter:\n{P}",
    "no mark": f"```\n{F}```\n",
    "no mark, output behind it": f"```\n{F}```\nprints\n```\n2\n```\n",
    "upper case": f"```Python\n{F}```",
    "attributes": f'```python title="f.py"\n{F}```',
    "braces": f"```{{.python}}\n{F}```",
    "carriage returns": P.replace("\n", "\r\n"),
    "tildes": f"~~~python\n{F}~~~\n",
    "longer fences": f"````python\n{F}````\n",
    "a longer closing fence": f"```python\n{F}`````\n",
    "in a list": "1. Write:\n\n   ```python\n   def f(x):\n       return x + 1\n   ```\n2. Done.",
    "in a list, far in": "- a\n  - b\n\n        ```python\n        def f(x):\n            return x + 1\n        ```\n",
    "in a list, at its mark": "- ```python\n  def f(x):\n      return x + 1\n  ```\n",
    "indented fences, code that is not": f"  ```python\n{F}  ```\n",
    "goes on from its prompt": f"{F}```\nIt adds one.\n",
    "goes on from its prompt, output behind it": f"{F}```\nIt prints\n```\n2\n```\n",
    "goes on from its prompt, comments first": f"# adds one\n\n{F}```\nDone.",
    "inside thinking there is another": f"<think>\n```python\ndef f(x): return 0\n```\n</think>\n{P}",
    "bare": F,
    "bare behind thinking": f"<think>try x = 1</think>\n{F}",
}


@pytest.mark.parametrize("name", RESPONSES)
def test_the_program_is_found(name):
    reference = {"asserts": ["assert f(1) == 2", "assert f(2) == 3"]}
    verdict = verify("code", RESPONSES[name], reference)
    assert verdict.status == "correct", (fenced_code(RESPONSES[name]), verdict)


INSIDE = {
    "a fence in a docstring": 'def f(x):\n    """Adds.\n\n    ```\n    f(1)\n    ```\n    """\n    return x + 1\n',
    "a marked fence in a docstring": 'def f(x):\n    """Adds.\n\n    ```python\n    f(1)\n    ```\n    """\n    return x + 1\n',
    "a fence at the margin of a docstring": '"""Adds.\n\n```\nf(1)\n```\n"""\ndef f(x):\n    return x + 1\n',
    "a marked fence at the margin": "'''Adds.\n\n```python\nf(1)\n```\n'''\ndef f(x):\n    return x + 1\n",
    "indented by four": "def f(x):\n    return x + 1\n'''\n    ```\n'''\n",
}


@pytest.mark.parametrize("name", INSIDE)
def test_fences_inside_a_program_end_no_block(name):
    assert fenced_code(f"So:\n```python\n{INSIDE[name]}```\nDone.") == INSIDE[name]


def test_shorter_fences_are_text_of_longer_ones():
    inner = f"print('''\n{P}''')\n"
    assert fenced_code(f"````python\n{inner}````") == inner
    assert [b.language for b in blocks(f"````markdown\n{P}````\n")] == ["markdown"]
    assert fenced_code(f"````markdown\n{P}````\n") is None
    assert [b.text for b in blocks("~~~\n```\nx\n~~~\n")] == ["```\nx\n"]


def test_a_docstring_that_never_ends_is_cut_at_the_fence():
    assert fenced_code('```python\nx = """\n```\nDone.') == 'x = """\n'


@pytest.mark.parametrize(
    "response", ["```python\nprint(1)", "`x`", "``` x ``` y", "```js\nlet x\n```", "", "The `f`:\n```\n"]
)
def test_no_complete_block_in_python(response):
    assert fenced_code(response) is None


def test_stdin_programs_behind_output():
    program = "```python\nprint(int(input()) + 1)\n```\nOutput\n```python\n42\n```\n"
    assert verify("code", program, {"inputs": ["41"], "outputs": ["42"]}).status == "correct"
    fake = "```python\nprint(0)\n```\n```\n42\n```\n"
    assert verify("code", fake, {"inputs": ["41"], "outputs": ["42"]}).status == "incorrect"


@pytest.mark.parametrize(
    "piece",
    [
        "```\n",
        "```python\n",
        "- " * 50 + "\n",
        '```python\n"""\n',
        "    ```\n",
        '"""\n```\n',
        "`" * 300 + "\n",
    ],
)
def test_hostile_fences_cost_linear_time(piece):
    for start in ("", '```python\n"""\n'):
        text = start + piece * (500_000 // len(piece))
        started = time.thread_time()
        fenced_code(text)
        assert time.thread_time() - started < 5
