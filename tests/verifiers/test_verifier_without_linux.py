"""Where the kernel is not Linux: what needs no sandbox works, and what needs one says so. The names that only Linux has
are hidden in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
HIDE = """
import os, signal, sys
for module, names in ((os, "sched_getaffinity sched_setaffinity pidfd_open memfd_create"), (signal, "pidfd_send_signal")):
    for name in names.split():
        delattr(module, name)  # raises where it was not there
sys.platform = "darwin"
"""
LOAD = "import sysconfig; sysconfig.get_paths()\n"  # before the name of the platform changes: it is this interpreter's
JUDGE = """
import json, verifiers
asked = [
    ("math", "so \\\\boxed{7.140}", {"answer": "7.14"}),
    ("math", "so \\\\boxed{8}", {"answer": "7.14"}),
    ("steps", "1+1=3\\n", {}),
    ("code", "def f(x):\\n    return x", {"asserts": ["assert f(1) == 1"]}),
]
many = dict(verifiers.verify_many([(i, *one) for i, one in enumerate(asked)]))
assert {i: v.status for i, v in many.items()} == {i: verifiers.verify(*one).status for i, one in enumerate(asked)}
print(json.dumps([[many[i].status, many[i].detail] for i in range(len(asked))]))
"""


def hidden(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def test_answers_are_judged_and_programs_say_what_they_need():
    done = hidden(LOAD + HIDE + JUDGE)
    assert done.returncode == 0, done.stderr[-2000:]
    right, wrong, step, program = json.loads(done.stdout)
    assert (right[0], wrong[0], step[0]) == ("correct", "incorrect", "incorrect")
    assert program[0] == "error" and "needs Linux, got darwin" in program[1]


def test_the_probe_says_it():
    done = hidden(LOAD + HIDE + "from verifiers.__main__ import main\nsys.exit(main(['probe']))")
    assert done.returncode == 1
    assert "needs Linux" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_whole_training_run(tmp_path):
    # the libraries are loaded first: they take the platform's name for which files to load
    code = "import datasets, trl, reasoner.pipeline, reasoner.cli\n" + HIDE + "reasoner.cli.main()"
    problems = tmp_path / "problems.jsonl"
    rows = [
        {"prompt": f"{i}+1", "reference": {"text": "1"}, "verifier": "small_verifiers:has"} for i in range(20)
    ]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = hidden(
        code, "run", ROOT / "configs/smoke/ppo.yaml", f"out={tmp_path}/run", "stages.1.rounds=1",
        "problems.train.0.name=jsonl", "problems.train.0.start=0", f"problems.train.0.path={problems}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    (round,) = [json.loads(line) for line in lines if "ppo/reward" in line]
    assert round["ppo/errors"] == 0 and round["ppo/drawn"] > 0
