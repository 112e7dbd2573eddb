"""`reasoner show` on hand-made trees."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from small_models import branching_tree, make_tree, save_small_qwen
from transformers import AutoTokenizer

from reasoner.commands.show import _table, describe, drawing, show, summary
from reasoner.policy import models
from reasoner.registry import UserError
from reasoner.store import write_trees
from reasoner.tree import Node
from verifiers import Verdict


def drawn(tree) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    console.print(drawing(tree, describe(tree, lambda ids: " ".join(map(str, ids)))))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_tree_by_hand():
    tree = branching_tree()
    tree.scores["prm"] = {2: [0.25, 0.5]}
    tree.add(Node(2, 1, (), stop_reason="pruned:loop", propensity=0.25))
    assert drawn(tree) == [
        "0 3 tokens V 0.38  1 2 3",
        "├── 1 after 3 · 6 tokens V 0.75 → 1.00 correct  10 11 12 13 14 15",
        "│   ├── 4 after 3 · 3 tokens V 0.50 → 1.00 correct  40 41 42",
        "│   │   └── 6 after 1 · 2 tokens V 0.00 incorrect  60 61",
        "│   └── 3 after 4 · 2 tokens  30 31",
        "│       └── 5 after 2 · 1 tokens error  50",
        "└── 2 after 3 · 3 tokens V 0.00 prm 0.25 0.50 incorrect  20 21 22",
        "    └── 7 after 1 · 0 tokens pruned:loop p 0.25",
    ]
    assert summary(tree) == {
        "id": "p", "nodes": 7, "trajectories": 5, "correct": 2, "judged": 4, "value": 0.375, "tokens": 17, "pruned": 1,
    }  # fmt: skip


def test_text_cannot_steer_the_terminal():
    tree = make_tree([1], (0, 1, [5], [0]))
    lines = describe(tree, lambda ids: "[red]x[/red]\x1b[2J\n\u202e")
    console = Console(file=io.StringIO(), width=120)
    console.print(drawing(tree, lines))
    shown = console.file.getvalue()
    assert r"[red]x[/red]\x1b[2J\n\u202e" in shown and "\x1b" not in shown and "\u202e" not in shown


def test_a_text_of_ten_megabytes_is_cut_and_says_so():
    tree = make_tree([1], (0, 1, [5], [0]))
    tree.verdicts[1] = Verdict("incorrect", "wrong", answer="\x1b[2J" + "8" * 10_000_000)
    text = "\x1b]0;title\x07" + "ab " * 3_333_333
    console = Console(file=io.StringIO(), width=120)
    console.print(drawing(tree, describe(tree, lambda ids: text)))
    shown = console.file.getvalue()
    assert (
        len(shown) < 20_000 and "\x1b" not in shown and "\x07" not in shown and r"\x1b]0;title\x07" in shown
    )
    told = " ".join(shown.replace("│", "").split())
    assert told.count("(9,998,009 more characters)") == 2 and told.count("(9,998,005 more characters)") == 1


def test_folders_ids_and_stages(tmp_path, capsys):
    trees = [
        replace(branching_tree(), problem=replace(branching_tree().problem, id=f"sum-{i}")) for i in range(3)
    ]
    write_trees(tmp_path / "trees" / "rollout", trees)
    show(tmp_path, None, "rollout", 2, True)
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == ["sum-0", "sum-1"]
    show(tmp_path / "trees" / "rollout", "sum-2", None, 50, True)
    found = json.loads(capsys.readouterr().out)
    assert found["problem"]["id"] == "sum-2" and len(found["nodes"]) == 7
    assert (
        found["nodes"][4] | {"parent": 1, "offset": 3, "tokens": 3, "verdict": "correct"} == found["nodes"][4]
    )
    show(tmp_path, None, None, 50, False)
    assert "sum-1" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"'sum-7', expected one of the 3 trees.*did you mean sum-"):
        show(tmp_path, "sum-7", None, 50, False)
    with pytest.raises(UserError, match="stage 'verify', expected one of rollout"):
        show(tmp_path, None, "verify", 50, False)
    with pytest.raises(UserError, match="expected a run's folder"):
        show(tmp_path / "none", None, None, 50, False)


def test_the_list_names_whole_ids_in_80_columns():
    id = "a_family_with_a_long_name/1000007-and-more-of-it"
    tree = replace(branching_tree(), problem=replace(branching_tree().problem, id=id))
    console = Console(file=io.StringIO(), width=80)
    console.print(_table([summary(tree)], Path("trees"), 50))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in console.file.getvalue()
    assert id in "".join(line[:18].strip() for line in lines)
    assert {"nodes", "leaves", "correct", "judged", "value", "tokens", "pruned"} <= set(
        " ".join(lines).split()
    )


def test_text_by_a_hub_name_or_numbers_and_why(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    saved = save_small_qwen(tmp_path / "hub" / "tiny", ["1 + 2 = 3\n"] * 9, 300)
    write_trees(tmp_path / "run" / "trees" / "rollout", [branching_tree()])
    config = tmp_path / "run" / "config.yaml"
    config.write_text(f"stages: [{{kind: rollout, name: rollout, model: {saved}}}]")
    wanted = AutoTokenizer.from_pretrained(saved).decode([10, 11, 12, 13, 14, 15])
    capsys.readouterr()
    for given in (tmp_path / "run", tmp_path / "run" / "trees" / "rollout"):
        show(given, "p", None, 50, True)
        shown = capsys.readouterr()
        assert json.loads(shown.out)["nodes"][1]["text"] == wanted and shown.err == ""
    config.write_text("stages: [{kind: rollout, name: rollout, model: owner/tiny}]")
    show(tmp_path / "run", "p", None, 50, True)
    shown = capsys.readouterr()
    assert json.loads(shown.out)["nodes"][1]["text"] == "10 11 12 13 14 15"
    assert "token ids instead of text" in shown.err and "owner/tiny" in shown.err
    # what the hub's client has fetched before is a hub name that can be read
    monkeypatch.setattr(models, "AutoTokenizer", FromHub({"owner/tiny": str(saved)}))
    show(tmp_path / "run", "p", None, 50, True)
    assert json.loads(capsys.readouterr().out)["nodes"][1]["text"] == wanted


class FromHub:
    """Stands in for a hub that has the models of a table."""

    def __init__(self, models):
        self.models = models

    def from_pretrained(self, name, **options):
        return AutoTokenizer.from_pretrained(self.models[name], **options)
