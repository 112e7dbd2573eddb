"""verify, verify_many, verdicts: the contract that everything above relies on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import verifiers
from verifiers import Verdict, verify, verify_many

ROOT = Path(__file__).resolve().parents[2]


def test_verdict_checks_its_values():
    with pytest.raises(ValueError, match="status is 'right'"):
        Verdict("right", "ok")
    with pytest.raises(ValueError, match="reason is 'bad'"):
        Verdict("incorrect", "bad")
    with pytest.raises(ValueError, match="error goes with"):
        Verdict("incorrect", "internal_error")
    with pytest.raises(AttributeError):
        Verdict("correct", "ok").status = "incorrect"


def test_unknown_verifier_names_the_nearest():
    with pytest.raises(KeyError) as caught:
        verify("maths", "5", {"answer": "5"})
    assert "unknown verifier 'maths'" in str(caught.value) and "did you mean 'math'?" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_outside_code_by_module_and_function(tmp_path, monkeypatch):
    (tmp_path / "my_lab_checks.py").write_text(
        "from verifiers import Verdict\n"
        "def units(response, unit):\n"
        "    return Verdict('correct', 'ok') if unit in response else Verdict('incorrect', 'wrong')\n"
        "def broken(response):\n"
        "    raise RuntimeError('disk on fire')\n"
        "def forgetful(response):\n"
        "    return True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert verify("my_lab_checks:units", "5 cm", {"unit": "cm"}).status == "correct"
    broken = verify("my_lab_checks:broken", "5 cm", {})
    assert (broken.status, broken.reason) == ("error", "internal_error") and "disk on fire" in broken.detail
    assert "returned a bool" in verify("my_lab_checks:forgetful", "5 cm", {}).detail
    with pytest.raises(KeyError, match="cannot be loaded"):
        verify("my_lab_checks:absent", "5 cm", {})
    with pytest.raises(KeyError, match="cannot be loaded"):
        verify("no_such_lab:units", "5 cm", {})


def test_our_failures_are_errors():
    assert verify("math", "5", {}).status == "error"
    assert verify("math", "5", {"answer": "5", "colour": "red"}).status == "error"
    assert verify("math", None, {"answer": "5"}).status == "error"
    assert verify("math", "5", {"answer": "5", "extract": "magic"}).status == "error"
    assert verify("math", "5", {"answer": ""}).status == "error"


def test_bytes_in_a_wrong_encoding_are_read():
    assert verify("math", b"\xff\xfe \\boxed{5}", {"answer": "5"}).status == "correct"


def test_verify_many_keeps_ids():
    requests = ((n, "math", rf"\boxed{{{n}}}", {"answer": str(n - n % 2)}) for n in range(10))
    verdicts = dict(verify_many(requests))
    assert sorted(verdicts) == list(range(10))
    assert [verdicts[n].status for n in range(4)] == ["correct", "incorrect", "correct", "incorrect"]


def test_verify_many_of_nothing():
    assert list(verify_many([])) == []


def test_import_is_light():
    script = (
        "import sys, time; t = time.perf_counter(); import verifiers;"
        "s = time.perf_counter() - t;"
        "print(s, [m for m in ('torch', 'sympy', 'numpy', 'math_verify') if m in sys.modules])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    ]
    assert min(float(run.split()[0]) for run in runs) < 0.1
    assert all(run.split()[1] == "[]" for run in runs)
    assert verifiers.verify("math", "response: \\boxed{5}", {"answer": "5"}).status == "correct"


UNRULY = """
import threading, time
from verifiers import Verdict
def leaves(response): raise SystemExit(0)
def interrupts(response): raise KeyboardInterrupt
def stops(response): raise GeneratorExit
def hangs(response):
    if response == "hang": threading.Event().wait()
    return Verdict("correct", "ok")
"""


@pytest.fixture
def unruly(tmp_path, monkeypatch):
    (tmp_path / "unruly.py").write_text(UNRULY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "unruly", None)
    del sys.modules["unruly"]
    return tmp_path


def test_whatever_a_verifier_raises_is_a_failure(unruly):
    names = [f"unruly:{name}" for name in ("leaves", "interrupts", "stops")]
    found = dict(verify_many([(name, name, "", {}) for name in names], workers=2))
    assert {name: verdict.status for name, verdict in found.items()} == dict.fromkeys(names, "error")
    assert "SystemExit" in found["unruly:leaves"].detail
    assert verify("unruly:leaves", "", {}).status == "error"
    with pytest.raises(KeyboardInterrupt):  # in the main thread it may be the user's
        verify("unruly:interrupts", "", {})


def test_a_verifier_that_never_returns_holds_nothing_up(unruly, monkeypatch):
    monkeypatch.setattr(verifiers, "PATIENCE_S", 1.0)
    responses = ["hang", "hang", "hang", *["fine"] * 20]
    found = dict(verify_many([(n, "unruly:hangs", r, {}) for n, r in enumerate(responses)], workers=2))
    assert [found[n].status for n in range(23)] == ["error"] * 3 + ["correct"] * 20
    assert found[0].reason == "unavailable" and "did not return in 1 s" in found[0].detail


@pytest.mark.parametrize("how", ["judge([tree], str)", "judge_while(lambda on_node: None, [tree], str)"])
def test_one_interrupt_ends_a_run_whose_verifier_hangs(unruly, how):
    script = (
        "from reasoner.scoring.outcome import judge, judge_while\nfrom reasoner.tree import Node, Problem, Tree\n"
        "tree = Tree.of_prompt(Problem('p', '', 'unruly:hangs', {}), [0])\n"
        "for _ in range(4): tree.add(Node(0, 1, (1,), step_ends=(0,)))\n"
        f"str = lambda ids: 'hang'\nprint('begun', flush=True)\n{how}\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(unruly)])},
    )  # fmt: skip
    try:
        assert run.stdout.readline() == "begun\n"
        time.sleep(1)
        assert run.poll() is None
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=10)
        assert "KeyboardInterrupt" in told
    finally:
        run.kill()
        run.wait()
