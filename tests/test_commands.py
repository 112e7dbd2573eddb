"""Every command that the documents show: the quick ones run here as they stand, the rest by a test or for a reason that is named."""

# ruff: noqa: E501  (commands stand whole)
import ast
import contextlib
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from small_models import save_small_qwen, writes_after
from test_documents import blocks, documents
from typer.testing import CliRunner

import verifiers
from reasoner.cli import app
from reasoner.commands.execute import resolved_config
from reasoner.policy.models import load_model, load_tokenizer, save
from reasoner.stages import TRAINERS
from tests import warm
from tests.shown_commands import ELSEWHERE, ENDS, NEVER, NOT_RUN, QUICK, SECONDS

ROOT = Path(__file__).parent.parent
# what there was, and how figures were made
ELSEWHERE_TOLD = ("reasoner/CHANGELOG.md", "tests/benchmarks/README.md")
SPAN = re.compile(
    r"(?:reasoner|bash|torchrun|accelerate|sbatch|vllm|python -[mc]|ACCELERATE_USE_CPU=true) \S+ ?.*"
)


def plain(line: str) -> str:
    """A command without the comment behind it, its spaces one by one."""
    return " ".join(re.split(r"\s#\s", line)[0].split())


def shown(page: Path) -> list[str]:
    """The commands of a page: lines of its blocks, and what stands in a line of text with something behind its name."""
    text = page.read_text("utf-8")
    lines = [
        line
        for block in blocks(text, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip()
    ]
    if str(page.relative_to(ROOT)) not in ELSEWHERE_TOLD:
        spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        lines += [
            span
            for span in spans
            if SPAN.fullmatch(span) and (span.count(" ") > 1 or not span.startswith("reasoner"))
        ]
    return [plain(line) for line in lines]


def test_every_command_is_known():
    found = {
        command for page in documents() for command in shown(page) if not command.startswith(tuple(NEVER))
    }
    known = [*QUICK, *ELSEWHERE, *NOT_RUN]
    assert sorted(set(known)) == sorted(known)
    assert sorted(found - set(known)) == [], "a document shows them, and no table here says who runs them"
    assert sorted(set(known) - found) == [], "no document shows them"


def test_the_tests_that_run_them_are_there():
    for where in set(ELSEWHERE.values()):
        path, name = where.split("::")
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, where


def test_train_is_shown_for_configs_with_one_trainer_alone():
    """It refuses others; here are those too whose commands take too long to be run."""
    lines = {
        line
        for page in documents()
        for line in re.findall(r"reasoner train configs/\S+yaml", page.read_text("utf-8"))
    }
    assert len(lines) >= 3
    for line in lines:
        stages = resolved_config(Path(line.split()[2]), []).stages
        assert len([stage for stage in stages if stage.kind in TRAINERS]) == 1, line


RUN = {
    "out": "runs/my",
    "problems": {"train": [{"name": "jsonl", "path": "problems.jsonl"}]},
    "stages": [
        {"kind": "sft", "model": "start", "problems": ["train"], "batch_size": 4, "max_steps": 1, "optimizer": {"lr": 1e-9}},
        {"kind": "rollout", "model": "sft", "num_problems": 4, "max_tokens": 4, "tree": {"num_roots": 4, "num_points": 0}},
        {"kind": "verify", "model": "sft"},
        {"kind": "label", "model": "sft"},
        {"kind": "prm", "model": "sft", "epochs": 1, "holdout": 0, "batch_size": 4},
    ],
}  # fmt: skip
WORDS = {
    "CONFIG": "my.yaml", "FILE": "my.yaml", "RUN": "runs/my", "MODEL": "runs/my/models/sft/model",
    "PRM": "runs/my/models/prm/model",
}  # fmt: skip
TYPED = {"chat": "3 + 4\n\n", "init": "start\nproblems.jsonl\n\n"}


def save_start(folder: Path) -> None:
    """A model that answers 7 nine times in ten, whatever it is asked."""
    lm, tokenizer = (
        load_model(str(save_small_qwen(folder, ["3 + 4 = 7\n", "1 + 6"] * 9, 300))),
        load_tokenizer(str(folder)),
    )
    lm.config.tie_word_embeddings = False
    seven = tokenizer("7").input_ids[0]
    ends = {tokenizer(f"3 + {i}").input_ids[-1]: seven for i in range(7)}
    save(writes_after(lm, {**ends, seven: tokenizer.eos_token_id}), tokenizer, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder as somebody has it who follows the documents, with a small run of their own."""
    folder = tmp_path_factory.mktemp("own")
    save_start(folder / "start")
    problems = [{"prompt": f"3 + {i}", "answer": str(3 + i), "solution": "7"} for i in (4, 1, 5, 2, 3, 6)]
    samples = [
        {"id": i, "problem": "3 + 4", "responses": ["7", "8"] * 4, "correct": [1, 0] * 4} for i in range(3)
    ]
    labels = [
        {"prompt": "1+1?", "completions": ["one and one", "is two"], "labels": [True, right]}
        for right in (True, False)
    ]
    for name, rows in (("problems", problems), ("samples", samples), ("labels", labels)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "my.yaml").write_text(yaml.safe_dump(RUN))
    machine = {"mine": {"memory_gb": 8, "bandwidth_gbs": 100, "tflops": 1}}
    (folder / "machines.yaml").write_text(yaml.safe_dump(machine))
    return folder


@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=pytest.mark.slow) if c in SECONDS else c for c in QUICK]
)
def test_a_quick_command_runs_as_it_stands(command, finished, monkeypatch, capfd):
    folder = finished
    monkeypatch.chdir(folder)
    words = [WORDS.get(word, word) for word in shlex.split(command)[1:]]
    words = [word.replace("OUT", f"out{list(QUICK).index(command)}") for word in words]
    if words[0] == "init":
        (folder / "my.yaml").unlink()
    done = CliRunner().invoke(app, words, input=TYPED.get(words[0]), catch_exceptions=False)
    said = done.output + "".join(capfd.readouterr())
    assert "plan.svg" not in words or (folder / "plan.svg").read_text().startswith("<svg")
    assert done.exit_code in ENDS.get(words[0], (0,)), said
    assert QUICK[command] in said, said
    if words[0] == "init":
        (folder / "my.yaml").write_text(yaml.safe_dump(RUN))


PYTHON = [
    block
    for page in ("README.md", "verifiers/README.md")
    for block in blocks((ROOT / page).read_text("utf-8"), "python")
]


@pytest.mark.parametrize("block", PYTHON)
def test_snippets_of_verifiers_say_what_stands_beside_them(block):
    """A value stands behind a line as a comment; a checker that is not installed is an error of ours, told as one."""
    calls = [node.value for node in ast.parse(block).body if isinstance(node, ast.Expr)]
    assert calls
    wanted = re.search(r"# (\"\w+\")\s*$", block)
    for call in calls:
        found = eval(compile(ast.Expression(call), "page", "eval"), {"verifiers": verifiers})  # our own page
        if wanted:
            assert found == ast.literal_eval(wanted[1])
        else:
            assert found.status == "correct" or (found.status == "error" and found.reason == "unavailable"), (
                found
            )


def test_python_is_shown_where_a_test_runs_it():
    pages = {str(p.relative_to(ROOT)) for p in documents() if blocks(p.read_text("utf-8"), "python")}
    here = {"README.md", "verifiers/README.md"}
    # COMING_FROM.md shows trainers of TRL as they were before it removed them
    by_others = {
        "reasoner/PYTHON.md": "test_api.py",
        "reasoner/TRANSCRIPT.md": "test_readme.py",
        "reasoner/COMING_FROM.md": "",
    }
    assert pages == here | set(by_others)
    assert all(
        Path(page).name in (ROOT / "tests" / test).read_text("utf-8")
        for page, test in by_others.items()
        if test
    )


@pytest.fixture(scope="module")
def finished(folder) -> Path:
    """The folder with its run done, also where the quick commands were not asked for."""
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, ["run", "my.yaml"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "path", "part"),
    [
        ("reasoner view RUN", "/", "my"),
        ("reasoner view runs/demo runs/evaluate_demo", "/", "evaluate_demo"),
        ("reasoner serve MODEL --method best_of --budget 8 --prm PRM", "/models", "model"),
    ],
)
def test_servers_answer_as_the_documents_start_them(command, path, part, finished, monkeypatch):
    """Each in a process of its own, which a Ctrl-C ends."""
    for name in ("demo", "evaluate_demo"):
        shutil.copytree(finished / "runs/my", finished / "runs" / name, dirs_exist_ok=True)
    words = [WORDS.get(word, word) for word in shlex.split(command)[1:]]
    process = subprocess.Popen(
        [sys.executable, "-m", "reasoner", *words, "--port", "0"], cwd=finished, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said = next((line for line in process.stderr if line.startswith("http://")), "")
        assert process.poll() is None and part in httpx.get(said.split()[0] + path, timeout=60).text
        process.send_signal(signal.SIGINT)
        assert process.wait(30) is not None
    finally:
        process.kill()


@pytest.mark.slow
def test_somebody_rates_at_a_terminal(finished):
    ours, theirs = pty.openpty()
    words = [WORDS.get(word, word) for word in shlex.split("annotate RUN --prm prm")]
    process = subprocess.Popen(
        [sys.executable, "-m", "reasoner", *words], cwd=finished, stdin=theirs, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        for _ in range(240):  # what is typed before it asks is lost, as at any terminal
            os.write(ours, b"q")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
                break
        said = process.communicate(timeout=10)[0]
    finally:
        process.kill()
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 0 and "solutions to rate" in said, said


RATED = "data/bigbench_mistake/multistep_arithmetic.jsonl"  # by people, as PRM800K is
LONGER = {
    "reasoner run configs/smoke/distill.yaml": [],
    "reasoner run configs/smoke/from_old.yaml": [],
    "reasoner train configs/prm/prm800k.yaml": [
        f"problems.demonstrations.0.path={RATED}", f"stages.1.path={RATED}", "stages.0.vocab_size=300",
        "stages.2.epochs=1", "stages.2.batch_size=2", "stages.2.holdout=0",
    ],
    "reasoner evaluate configs/evaluate/processbench.yaml": [],  # with what the command before it made
}  # fmt: skip


@pytest.mark.slow
def test_longer_commands_of_the_documents(folder):
    rows = [
        {"id": f"x-{i}", "problem": f"1+{i}?", "steps": ["one and one", "is two"], "label": i - 1, "final_answer_correct": not i}
        for i in (0, 1)
    ]  # fmt: skip
    mistakes = [{"input": f"{i} + 1 =", "steps": ["one more", "is that"], "mistake_index": mistake, "answer": "2", "target": "2"}
                for i, mistake in enumerate([None, 1, 0] * 4)]  # fmt: skip
    for name, made in (
        ("processbench/olympiadbench.json", rows), ("processbench/omnimath.json", rows),
        (RATED.removeprefix("data/"), mistakes),
    ):  # fmt: skip
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_text("".join(json.dumps(row) + "\n" for row in made))
    for command, smaller in LONGER.items():
        done = warm.reasoner(*shlex.split(command)[1:], *smaller, cwd=folder)
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    probe = [sys.executable, "-m", "verifiers", "probe"]
    done = subprocess.run(probe, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode in (0, 1) and "tier" in done.stdout, done.stderr  # 1 where programs may not run
