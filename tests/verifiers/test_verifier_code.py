"""Code tests: real programs in the real sandbox, in every form of test."""

import pytest

from verifiers import verify
from verifiers.code_tests import same_output
from verifiers.sandbox import values

ADD = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}


@pytest.mark.parametrize(
    "program",
    [
        "a, b = map(int, input().split())\nprint(a + b)",
        "import sys\nprint(sum(map(int, sys.stdin.buffer.readline().split())))",
        "import sys\nfor line in sys.stdin: print(sum(map(int, line.split())))",
        "import os\nprint(sum(map(int, os.read(0, 100).split())))",
        "import sys\nsys.stdout.buffer.write(str(sum(map(int, input().split()))).encode())",
        "t = 0\ndef f():\n    global t\n    t = sum(map(int, input().split()))\nf()\nprint(t)",
        "def f(): print(sum(map(int, open(0).read().split())))\nif __name__ == '__main__': f()",
        "import sys\nprint(sum(map(int, input().split())))\nsys.exit(0)",
        "import sys, threading\nthreading.stack_size(1 << 25)\n"
        "def main(): print(sum(map(int, input().split())))\nthreading.Thread(target=main).start()",
        "print(sum(map(int, input().split())))\nexit()\nprint(5)",
        "print(sum(map(int, input().split())))\nif True: quit(0)",
        "import atexit\natexit.register(lambda: print(sum(map(int, input().split()))))",
        "from collections import *\nfrom heapq import *\nprint(sum(map(int, input().split())))",
        "with open('x', 'w') as f: f.write(input())\nprint(sum(map(int, open('/box/x').read().split())))",
        "print(sum(map(int, input().split())), end='')",
        "print(f'{sum(map(int, input().split()))}  \\n\\n')",
    ],
)
def test_honest_programs_pass(program):
    verdict = verify("code", f"Here it is:\n```python\n{program}\n```\nDone.", ADD)
    assert (verdict.status, verdict.score, verdict.isolation) == ("correct", 1.0, "A"), verdict


def test_partial_credit_and_the_first_failure():
    verdict = verify("code", "print(3)", ADD)
    assert (verdict.status, verdict.reason, verdict.score) == ("incorrect", "wrong", 0.5)
    assert verdict.detail.startswith("test 2 of 2: wrong")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print(1 / 0)", "runtime_error"),
        ("while True: pass", "time_limit"),
        ("x = bytearray(1 << 31)", "memory_limit"),
        ("while True: print('x' * 1000)", "output_limit"),
        ("import os\nos.chroot('/')", "security"),
        ("this is no python", "runtime_error"),
    ],
)
def test_how_programs_fail(program, reason):
    verdict = verify("code", f"```\n{program}\n```", {**ADD, "cpu_s": 0.3})
    assert (verdict.status, verdict.reason, verdict.score) == ("incorrect", reason, 0.0)


def test_a_large_output_is_read_while_it_runs():
    program = "print('x' * 900_000)"
    assert verify("code", program, {"inputs": [""], "outputs": ["x" * 900_000]}).status == "correct"


def test_function_calls():
    reference = {"entry_point": "f", "inputs": [[[3, 1]], [[]]], "outputs": [[1, 3], []]}
    assert verify("code", "def f(x): return sorted(x)", reference).status == "correct"
    solution = "class Solution:\n    def f(self, x): return tuple(sorted(x))"
    assert verify("code", solution, reference).status == "correct"
    assert verify("code", "def f(x): return x", reference).score == 0.5
    assert verify("code", "def f(x): return sorted(x) == x", reference).reason == "wrong"
    floats = {"entry_point": "f", "inputs": [[3]], "outputs": [0.3333333333]}
    assert verify("code", "def f(x): return 1 / x", floats).status == "incorrect"
    assert verify("code", "def f(x): return 1 / x", {**floats, "tolerance": 1e-6}).status == "correct"


def test_several_acceptable_outputs():
    called = {"entry_point": "f", "inputs": [[3], [4]], "outputs": [{"any": [[3], 3]}, {"any": [[4], 4]}]}
    assert verify("code", "def f(x): return x", called).score == 1.0
    assert verify("code", "def f(x): return [x]", called).score == 1.0
    assert verify("code", "def f(x): return {'any': [[x], x]}", called).score == 0.0
    printed = {"inputs": [""], "outputs": [{"any": ["1 2\n", "2 1\n"]}]}
    assert verify("code", "print(2, 1)", printed).status == "correct"
    assert verify("code", "print(2, 2)", printed).status == "incorrect"


def test_a_preamble_comes_first_but_for_the_future():
    reference = {
        "entry_point": "f",
        "inputs": [[[2, 1]]],
        "outputs": [[1, 2]],
        "preamble": "from typing import *",
    }
    method = "class Solution:\n    def f(self, x: List[int]) -> List[int]: return sorted(x)"
    assert verify("code", method, reference).status == "correct"
    assert verify("code", method, {**reference, "preamble": ""}).reason == "runtime_error"
    future = "from __future__ import annotations, division\nclass Solution:\n    def f(self, x: Later) -> Any: return sorted(x)"
    assert verify("code", future, reference).status == "correct"


def test_a_huge_program_is_refused():
    verdict = verify("code", "x = 1\n" * 400_000, ADD)
    assert (verdict.status, verdict.reason, verdict.isolation) == ("incorrect", "refused", "none")


def test_assert_suites_with_setup_and_objects():
    # The tests build and pass the candidate's own objects, as some of MBPP's do.
    candidate = (
        "class Node:\n    def __init__(self, value): self.value, self.next = value, None\n"
        "def total(node):\n    s = 0\n    while node: s, node = s + node.value, node.next\n    return s\n"
    )
    reference = {
        "asserts": ["assert total(head) == 3", "assert total(Node(7)) == 7", "assert total(None) == 0"],
        "setup": "head = Node(1)\nhead.next = Node(2)",
    }
    assert verify("code", candidate, reference).score == 1.0
    # `sum` may be the tested function, `abs` in the same tests stays Python's.
    shadow = {"asserts": ["assert abs(sum(1, 2) - 3) < 1e-9", "assert abs(sum(0, 2) - 2) < 1e-9"]}
    assert verify("code", "def sum(a, b): return a + b", shadow).status == "correct"
    assert verify("code", "def abs(x): return 0\ndef sum(a, b): return 99", shadow).status == "incorrect"


def test_human_eval_form():
    prompt = 'def helper(x):\n    return x + 1\n\ndef f(x):\n    """Two more than x."""\n'
    reference = {
        "prompt": prompt,
        "entry_point": "f",
        "test": "def check(c):\n    assert c(1) == helper(2)\n",
    }
    assert verify("code", "    return helper(x) + 1\n", reference).status == "correct"
    assert (
        verify("code", "```python\ndef f(x):\n    return helper(helper(x))\n```", reference).status
        == "correct"
    )
    assert verify("code", "    return x\n", reference).reason == "wrong"
    assert verify("code", "def helper(x): return 0\ndef f(x): return 0", reference).reason == "wrong"


@pytest.mark.parametrize(
    "reference",
    [
        {},
        {"inputs": [], "outputs": []},
        {"asserts": []},
        {"inputs": ["1"], "outputs": []},
        {"inputs": ["1"], "outputs": ["1"], "asserts": ["assert f()"]},
        {"test": "def check(c): pass", "entry_point": "f"},
        {"test": "def check(c): assert c()"},
        {"asserts": ["assert ("]},
        {"entry_point": "f", "inputs": [[object()]], "outputs": [1]},
    ],
)
def test_a_suite_without_tests_is_our_error(reference):
    verdict = verify("code", "def f(): return 1", reference)
    assert (verdict.status, verdict.reason) == ("error", "internal_error"), verdict


@pytest.mark.parametrize("response", ["", "I cannot solve this.", "```python\n\n```", "```python\nprint(1)"])
def test_no_code_is_no_answer(response):
    assert verify("code", response, ADD).status == "no_answer"


def test_numpy_and_sympy_in_the_science_set():
    program = "import numpy as np, sympy\nprint(int(np.array([1, 2]).sum()), sympy.factorint(12))"
    reference = {"inputs": [""], "outputs": ["3 {2: 2, 3: 1}"], "warm": "science"}
    assert verify("code", program, reference).status == "correct"


def test_outputs_are_compared_whole():
    assert same_output("1\n2\n", "1\n2")
    assert same_output("1 2\n", "1  2 \n\n")
    assert same_output("1.5", "1.50")
    assert not same_output("1\n2\n", "1\n")
    assert not same_output("1\n", "1\n2\n")
    assert not same_output("", "1")
    assert not same_output("7", "007")
    assert not same_output("0.3333", "0.3334")
    assert same_output("0.3333", "0.3334", 1e-3)
    assert not same_output("nan", "NaN.")
    assert not same_output("1.0", "1e999999999", 1e-3)  # beyond decimal's range, and no failure of ours
    assert not same_output("1.5e999999", "-1e999999999", 1e-3)
    assert not same_output("1\n2\n", "1\x0b2\n")
    assert same_output("1\n2\n", "1\r\n2\r\n")
    assert not same_output("YES\nNo\n", "Yes\nno\n")
    assert same_output("YES\nNo\n", "Yes\nno\n", ignore_case=True)
    assert not same_output("YES\nNo\n", "Yes\nYes\n", ignore_case=True)


def test_values_survive_the_crossing():
    value = [
        None,
        True,
        2**100,
        -5,
        1.5,
        float("inf"),
        "ü\ud800",
        b"\x00",
        (1, [2]),
        {1, 2},
        {(1, 2): {"a": 1j}},
    ]
    assert values.decode(values.encode(value)) == value
    assert values.decode(values.encode({"n": float("nan")}))["n"] != values.decode(
        values.encode(float("nan"))
    )


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"{",
        b'{"x":1}',
        b'{"t":1,"s":2}',
        b"NaN",
        b"1.5",
        b'{"i":"zz"}',
        b"[" * 100_000,
        b'{"h":0}',
        b'{"s":[[1]]}',
    ],
)
def test_hostile_encodings_are_refused(encoded):
    with pytest.raises(values.NotPlain):
        values.decode(encoded)
