"""The Python face: the page that shows it runs as it stands, and what cannot be is one line."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import CORRECT, ERROR, WRONG, make_tree, save_small_qwen

import reasoner
from reasoner.registry import UserError

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "reasoner/PYTHON.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model that has seen the page's questions a few times, so that it is right now and then."""
    folder = tmp_path_factory.mktemp("model")
    rows = [{"prompt": f"What is {q}?", "answer": a, "solution": f"{q} = {a}\nThe answer is {a}"}
            for q, a in [("3 + 4", "7"), ("9 - 5", "4"), ("2 + 2", "4"), ("8 - 1", "7")]]  # fmt: skip
    texts = [row["prompt"] + row["solution"] for row in rows]
    start = save_small_qwen(folder / "start", [*texts, "How far?", "\n1 + 1 = 2\nkm"] * 4, 300)
    muon = {"name": "muon", "lr": 0.02}
    return reasoner.train(
        "sft", start, folder / "sft", problems=rows * 8, max_steps=30, batch_size=4, optimizer=muon
    )


def test_the_page_runs_as_it_stands(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = dict(re.findall(r"`(\w+)\.py`:\n\n```python\n(.*?)```", PAGE, flags=re.DOTALL))
    assert list(modules) == ["units", "mine"]
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    names: dict = {}
    for block in BLOCKS:
        assert len([line for line in block.splitlines() if line.strip()]) < 10
        if block not in modules.values():
            exec(block.replace("MODEL", str(model)), names)  # our own page, not a model's text
    shown = capsys.readouterr().out
    assert re.match(r"(0\.\d+|1\.0)\n", shown)
    assert shown.count("\ncorrect ") >= 1 and shown.count("\nincorrect ") >= 1
    assert len(names["labels"]) >= 1 and all(len(r.labels) == len(r.completions) for r in names["labels"])
    assert (names["prm"] / "score_head.safetensors").is_file() and names["judge"].prm is not None
    assert (names["policy"] / "model.safetensors").is_file() and (
        tmp_path / "runs/ppo/metrics.jsonl"
    ).is_file()
    assert {v.status for v in names["of_units"][0].verdicts.values()} <= {"correct", "incorrect"}
    assert len(names["of_units"][0].leaves()) == 8
    assert [tree.problem.prompt for tree in names["trees"]] == ["0 + 2", "1 + 2"]  # of the page's own source
    branched = {n.offset for tree in names["trees"] for n in tree.nodes if n.parent > 0}
    assert branched == {2} and (tmp_path / "runs/mine/metrics.jsonl").is_file()


def test_scores_are_those_of_every_step(model, tmp_path):
    rows = [
        {"prompt": "p", "completions": ["a", "b"], "labels": [1, 0]},
        {"prompt": "p", "completions": ["c"], "labels": [1]},
    ]
    folder = reasoner.train("prm", model, tmp_path / "prm", labels=rows, epochs=1)
    solver = reasoner.load(model, prm=folder)
    trees = reasoner.grow(solver, [{"prompt": "p", "answer": "1"}], num_roots=2, max_tokens=24)
    for tree in trees:
        tree.scores.clear()
    reasoner.score(trees, solver)
    for tree in trees:
        for node, scores in tree.scores["prm"].items():
            assert len(scores) == len(tree.nodes[node].step_ends) and all(0 < s < 1 for s in scores)
    assert any(tree.scores["prm"] for tree in trees)


def test_pass_at_k_counts_what_was_judged_of_chains_from_the_prompt():
    tree = make_tree([1], (0, 1, [5], [0]), (0, 1, [6], [0]), (0, 1, [7], [0]), (1, 1, [8], [0]),
                     verdicts={2: CORRECT, 3: WRONG, 4: CORRECT})  # fmt: skip
    assert reasoner.pass_at_k([tree], 1) == 0.5  # 2 and 3; 4 shares its beginning with 1
    assert reasoner.pass_at_k([tree], 2) == 1.0
    assert math.isnan(reasoner.pass_at_k([tree], 3))
    tree.verdicts[3] = ERROR
    assert reasoner.pass_at_k([tree], 1) == 1.0


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda m, out: reasoner.problems([{"prompt": "1+1"}]), ["problem 0", "answer"]),
        (lambda m, out: reasoner.problems([{"prompt": "1", "verifier": lambda r: r, "reference": {}}]), ["module"]),
        (lambda m, out: reasoner.grow(reasoner.load(m), []), ["no problems"]),
        (lambda m, out: reasoner.grow(reasoner.load(m), [{"prompt": "1", "answer": 1}], num_rots=3), ["num_rots"]),
        (lambda m, out: reasoner.score([], reasoner.load(m)), ["prm="]),
        (lambda m, out: reasoner.solve(reasoner.load(m), "1", "majorty"), ["majority"]),
        (lambda m, out: reasoner.solve(reasoner.load(m), "1", "majority", budgett=3), ["budgett"]),
        (lambda m, out: reasoner.train("prm", m, out), ["labels.jsonl", "no rows"]),
        (lambda m, out: reasoner.train("ppo", m, out, problems=[{"prompt": "1", "answer": "1"}], roundz=1), ["roundz"]),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(model, tmp_path, call, parts):
    with pytest.raises(UserError) as problem:
        call(str(model), tmp_path / "run")
    said = str(problem.value)
    assert "\n" not in said and all(part in said for part in parts), said


def test_other_rows_in_the_place_of_the_first_are_refused(model, tmp_path):
    rows = [{"prompt": "p", "completions": ["a", "b"], "labels": [1, 0]}]
    reasoner.train("prm", model, tmp_path / "run", labels=rows, epochs=1)
    again = reasoner.train("prm", model, tmp_path / "run", labels=rows, epochs=1)
    assert again.is_dir()
    with pytest.raises(UserError, match="other rows"):
        reasoner.train("prm", model, tmp_path / "run", labels=[*rows, *rows], epochs=1)


def test_every_name_is_there_with_a_docstring_and_importing_is_quick():
    for name in reasoner.__all__:
        assert getattr(reasoner, name).__doc__, name
    assert not hasattr(reasoner, "grwo")
    heavy = "import reasoner, sys; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, check=True)
