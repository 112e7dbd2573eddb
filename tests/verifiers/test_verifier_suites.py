"""Assert suites: what tests bring is theirs, what a candidate fakes is its own, and our limits are nobody's fault."""

import contextlib
import time

import pytest

from reasoner.data.programs import CONTEST_IMPORTS
from verifiers import verify
from verifiers.code_tests import _entries
from verifiers.sandbox import equality, values


def status(program: str, asserts: list[str], **reference) -> str:
    verdict = verify("code", program, {"asserts": asserts, "extract": "whole", **reference})
    assert verdict.isolation != "none" or verdict.status == "error", verdict
    return verdict.status


FAKES = {
    "module": (
        "class math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef f(x): return 0",
        ["assert math.isclose(f(1), 2)", "assert math.isclose(f(2), 3)"],
    ),
    "module imported as data": (
        "import types\nre = types.SimpleNamespace(fullmatch=lambda p, s: True)\ndef f(x): return ''",
        ["assert re.fullmatch('a+', f(3))"],
    ),
    "numpy": (
        "class np:\n    allclose = staticmethod(lambda *a, **k: True)\ndef f(x): return [0]",
        ["assert np.allclose(f(3), [3])"],
    ),
    "function of a module": (
        "def isclose(*a, **k): return True\ndef f(x): return 0",
        ["assert isclose(f(1), 2)", "assert isclose(f(2), 3)"],
    ),
    "StopIteration in map": (
        "def f(x): raise StopIteration",
        ["assert all(map(lambda r: r == 2, map(f, [1, 2])))", "assert list(map(f, [])) == []"],
    ),
    "StopIteration in zip": (
        "def f(x): raise StopIteration",
        ["for x, y in zip([1, 2], map(f, [1, 2])): assert x == y", "for _ in (f(x) for x in [1]): pass"],
    ),
    "own StopIteration": (
        "class StopIteration(StopIteration): pass\ndef f(x): raise StopIteration",
        ["assert all(r == 2 for r in map(f, [1, 2]))"],
    ),
    "len": (
        "def len(x): return 3\ndef f(x): return []\ndef g(x): return []",
        ["assert len(f(1)) == 3", "assert len(g(1)) == 3"],
    ),
    "sum": (
        "def sum(x): return 3\ndef f(x): return []\ndef g(x): return []",
        ["assert sum(f(1)) == 3", "assert sum(g(1)) == 3"],
    ),
    "isinstance": (
        "def isinstance(*a): return True\ndef f(x): return 'x'\ndef g(x): return 'x'",
        ["assert isinstance(f(1), int)", "assert isinstance(g(1), int)"],
    ),
    "truth of an object": (
        "class T:\n    def __bool__(self): return 'yes'\ndef f(x): return T()",
        ["assert f(1)"],
    ),
    "an argument emptied": (
        "def f(x):\n    x.clear()\n    return []",
        ["x = [2, 1]\nassert f(x) == sorted(x)"],
    ),
    "an argument emptied before": (
        "def f(x):\n    x.clear()\n    return []",
        ["x = [2, 1]\nr = f(x)\nassert r == sorted(x)"],
    ),
    "a function of the tests' called with a liar": (
        "class A:\n    def __eq__(self, o): return True\ndef f(g): return g(A())",
        ["assert f(lambda x: x == 3) is True"],
    ),
}


@pytest.mark.parametrize("name", FAKES)
def test_fakes_are_found_out(name):
    program, asserts = FAKES[name]
    assert status(program, asserts) == "incorrect"


HONEST = {
    "module": ("import math\ndef f(x): return math.sqrt(x)", ["assert math.isclose(f(4), 2)"]),
    "function of a module": (
        "def f(x): return x + 1",
        ["assert isclose(f(1), 2)", "assert isclose(f(2), 3)"],
    ),
    "a function called like one of a module's": (
        "def gcd(a, b): return b and gcd(b, a % b) or a",
        ["assert gcd(4, 6) == 2", "assert gcd(5, 7) == 1"],
    ),
    "a function called like one of Python's": (
        "def sum(a, b): return a + b",
        ["assert abs(sum(1, 2) - 3) < 1e-9", "assert abs(sum(0, 2) - 2) < 1e-9"],
    ),
    "map and zip": ("def f(x): return x + 1", ["assert list(map(f, [1, 2])) == [2, 3]"]),
    "a lambda as argument": (
        "def f(g, xs): return [g(x) for x in xs]",
        ["assert f(lambda x: x * 2, [1, 2]) == [2, 4]", "assert f(str, [1]) == ['1']"],
    ),
    "a lambda that fails": (
        "def f(g):\n    try: g(0)\n    except ZeroDivisionError: return 'caught'",
        ["assert f(lambda x: 1 / x) == 'caught'"],
    ),
    "a lambda over the candidate's objects": (
        "class P:\n    def __init__(self, x): self.x = x\ndef f(key): return max([P(1), P(3)], key=key).x",
        ["assert f(lambda p: p.x) == 3"],
    ),
    "a lambda that comes back": (
        "def f(g): return g",
        ["g = lambda x: x + 1\nassert f(g) is g and f(g)(1) == 2"],
    ),
    "a list changed in place": ("def f(x): x.sort()", ["x = [3, 1, 2]\nf(x)\nassert x == [1, 2, 3]"]),
    "a list changed in place and returned": (
        "def f(x):\n    x.sort()\n    return x",
        ["x = [3, 1, 2]\nf(x)\nassert x == [1, 2, 3]", "assert f([2, 1]) == [1, 2]"],
    ),
    "a dict and a set changed in place": (
        "def f(d, s):\n    d['a'] = [1]\n    s.discard(2)",
        ["d, s = {}, {1, 2}\nassert f(d, s) is None\nassert d == {'a': [1]} and s == {1}"],
    ),
    "a match as truth value": (
        "import re\ndef f(s): return re.match('a', s)",
        ["assert f('abc')", "assert not f('x')"],
    ),
    "a long integer": ("def f(n): return 1 << n", ["assert f(100_000) == 1 << 100_000"]),
    "a long value": ("def f(n): return ['x' * 10] * n", ["assert f(150_000) == ['x' * 10] * 150_000"]),
    "a deep value": (
        "def f(n):\n    r = []\n    for _ in range(n): r = [r]\n    return r",
        ["r = []\nfor _ in range(100): r = [r]\nassert f(100) == r"],
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(name):
    program, asserts = HONEST[name]
    assert status(program, asserts, cpu_s=4.0) == "correct"


def test_a_test_that_passes_on_what_cannot_travel_is_our_error():
    asserts = ["class C: pass\nassert f(C())"]
    for program in ("def f(x): return True", "def f(x): return False"):
        assert status(program, asserts) == "error"


def test_a_candidate_cannot_make_a_test_untestable():
    for reply in (b'{"t":["ok",{"h":7}', b"[" * 500, b'{"x":1}'):
        program = f"import os\nos.write(5, {len(reply).to_bytes(4, 'little') + reply!r})\ndef f(x): return 0"
        assert status(program, ["assert f(1) == 41"]) == "incorrect"


@pytest.mark.parametrize(
    ("asserts", "entry"),
    [
        (["assert f(g(1)) == 2"], ["g"]),
        (["assert len(f(1)) == 3", "assert len(g(1)) == 3"], []),
        (["assert sum(1, 2) == 3"], ["sum"]),
        (["assert set(f(1)) == {1}", "assert f(2) == 3"], ["f"]),
    ],
)
def test_what_the_asserts_are_about(asserts, entry):
    assert _entries(asserts) == entry


# --- returned values ---


def equal(expected, found, tolerance: float = 0.0) -> bool:
    return equality.Expected(expected).equals(values.encode(found), tolerance)


def test_equality_of_values_has_types():
    assert equal([1, 2.0], (1, 2))
    assert equal(1, 1.0) and equal(2**70, float(2**70))
    assert not equal(1, True) and not equal(True, 1)
    assert not equal(None, 0) and not equal(0, None)
    assert not equal(float("nan"), float("nan"))
    assert not equal({float("nan")}, {float("nan")})
    assert not equal([1], [1, 2])
    assert not equal({1, 2}, [1, 2]) and not equal([1, 2], {1, 2})
    assert not equal("1", 1) and not equal(b"1", "1")
    assert equal({"a": [0.1]}, {"a": [0.1 + 1e-9]}, 1e-6)
    assert not equal({"a": [0.1]}, {"a": [0.1 + 1e-9]})
    assert equal({1, 2.5, (3, "x"), frozenset({4})}, {2.5, 1.0, frozenset({4}), (3, "x")})
    assert equal({1: "a", None: 2}, {None: 2, 1.0: "a"}) and not equal({1: "a"}, {"1": "a"})
    assert not equal({(1, 2)}, {(2, 1)}) and not equal({1}, {1, 2})
    assert not equal(1, 2, 1e-6) and equal(1.0, 1.0 + 1e-7, 1e-6) and not equal(1.0, float("inf"), 1e-6)
    assert equal(1j, 1j) and not equal(1j, 2j) and equal({2}, {2 + 0j})


@pytest.mark.parametrize("forged", [b"", b"{", b'{"x":1}', b'{"t":1,"s":2}', b"1.5", b"NaN", b"[" * 9000, b'{"s":[[1]]}',
                                    b'{"i":"zz"}', b'{"f":[]}', b'{"s":1}', b'{"d":[1]}'])  # fmt: skip
def test_forged_encodings_equal_nothing(forged):
    for expected in (1, [1], {1}, {1: 2}, "x" * 9000):
        with contextlib.suppress(values.NotPlain):
            assert not equality.Expected(expected).equals(forged)


PRIME = 2**61 - 1  # integers that differ by it hash alike


def test_colliding_integers_cost_the_caller_nothing():
    # The candidate builds its set once and returns it two hundred times; here each would be built anew.
    program = f"s = {{i * {PRIME} for i in range(1000)}}\ndef f(): return [s] * 200"
    reference = {
        "entry_point": "f",
        "inputs": [[]],
        "outputs": [[[1, 2]] * 4000],
        "cpu_s": 10.0,
        "extract": "whole",
    }
    verify("code", "def f(): return 1", reference)
    verdict = verify("code", program, reference)
    assert (verdict.status, verdict.reason) == ("incorrect", "wrong")
    same = [{i * PRIME for i in range(1000)}] * 200
    encoded, expected = values.encode(same), equality.Expected(same)
    started = time.thread_time()
    assert expected.equals(encoded)
    assert time.thread_time() - started < 5  # a hundred times as much where sets are built
    started = time.thread_time()
    assert not equality.Expected([1]).equals(encoded)
    assert time.thread_time() - started < 0.01


def test_long_values_and_outputs_are_no_limit_of_the_candidates():
    calls = {"entry_point": "f", "inputs": [[150_000]], "outputs": [["x" * 10] * 150_000], "extract": "whole"}
    assert verify("code", "def f(n): return ['x' * 10] * n", calls).status == "correct"
    bits = {"entry_point": "f", "inputs": [[100_000]], "outputs": [1 << 100_000], "extract": "whole"}
    assert verify("code", "def f(n): return 1 << n", bits).status == "correct"
    assert verify("code", "def f(n): return 1 << n - 1", bits).status == "incorrect"
    printed = {"inputs": [""], "outputs": ["x" * 3_000_000], "extract": "whole"}
    assert verify("code", "print('x' * 3_000_000)", printed).status == "correct"
    assert verify("code", "while True: print('x' * 1000)", printed).reason == "output_limit"


def test_integers_of_more_than_4300_digits():
    reference = {"inputs": ["7" * 6000 + "\n"], "outputs": ["7" * 5999 + "8\n"], "extract": "whole"}
    assert verify("code", "print(int(input()) + 1)", reference).status == "correct"
    called = {"entry_point": "f", "inputs": [["7" * 6000]], "outputs": ["7" * 5999 + "8"], "extract": "whole"}
    assert verify("code", "def f(s): return str(int(s) + 1)", called).status == "correct"
    asserts = {"asserts": ["assert len(str(f(5000))) == 5001"], "extract": "whole"}
    assert verify("code", "def f(n): return 10 ** n", asserts).status == "correct"


def test_an_output_beyond_what_can_be_compared_is_our_error():
    deep = []
    for _ in range(400):
        deep = [deep]
    reference = {"entry_point": "f", "inputs": [[1]], "outputs": [deep], "extract": "whole"}
    assert verify("code", "def f(x): return x", reference).status == "error"


@pytest.mark.parametrize(
    "name", ["search", "merge", "shuffle", "sum", "count", "compile", "product", "reverse"]
)
def test_imports_of_a_contest_hide_no_method(name):
    reference = {
        "entry_point": name,
        "inputs": [[3]],
        "outputs": [4],
        "preamble": CONTEST_IMPORTS,
        "extract": "whole",
    }
    program = f"class Solution:\n    def {name}(self, x): return x + 1"
    assert verify("code", program, reference).status == "correct"
    assert verify("code", f"def {name}(x): return x + 1", reference).status == "correct"
    assert verify("code", program.replace("+ 1", "+ 2"), reference).status == "incorrect"
