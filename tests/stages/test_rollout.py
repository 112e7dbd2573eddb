"""The rollout stage with every branch policy, through the pipeline."""

import json

import pytest

from reasoner.config import ConfigError, apply_overrides, read_yaml, validate
from reasoner.pipeline import RunConfig, run
from reasoner.search.dead_ends import has_failed_proof, has_wrong_step
from reasoner.store import read_trees
from reasoner.tree import ROOT, Problem
from verifiers.proof import coq

CONFIG = "configs/smoke/search.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("search") / "run"
    run(validate(RunConfig, apply_overrides(read_yaml(CONFIG), [f"out={out}"]), CONFIG))
    return out


def metrics(folder, stage) -> dict:
    lines = (folder / "stages" / stage / "metrics.jsonl").read_text().splitlines()
    return {k: v for line in lines for k, v in json.loads(line).items()}


def test_full_trees_are_pruned_and_say_so(folder):
    trees = list(read_trees(folder / "trees" / "full"))
    assert len(trees) == 8 and all(len(t.nodes) <= 31 for t in trees)
    dropped = [n.stop_reason.partition(":")[2] for t in trees for n in t.nodes if n.is_pruned]
    shown = metrics(folder, "full")
    assert dropped and shown["rollout/continuations_planned"] == sum(len(t.nodes) - 1 for t in trees)
    for rule in set(dropped):
        assert shown[f"rollout/dropped_{rule}"] == dropped.count(rule)
    assert all(leaf in t.verdicts for t in trees for leaf in t.leaves())
    for tree in trees:
        for i, node in enumerate(tree.nodes[1:], start=1):
            assert len(tree.scores["prm"].get(i, [])) == len(node.step_ends)


def test_branches_led_by_the_prm_lie_before_falls(folder):
    branched = 0
    for tree in read_trees(folder / "trees" / "led"):
        for node in tree.nodes[1:]:
            if node.parent != ROOT:
                scores = dict(
                    zip(tree.nodes[node.parent].step_ends, tree.scores["prm"][node.parent], strict=True)
                )
                after = min(e for e in scores if e >= node.offset)
                assert scores[after] < scores[node.offset - 1]
                branched += 1
    assert branched


def test_search_and_bisection_leave_their_trees(folder):
    searched = list(read_trees(folder / "trees" / "searched"))
    assert all(len({(n.parent, n.offset) for n in t.nodes[1:]}) <= 6 for t in searched)
    assert any(n.stop_reason == "open" for t in searched for n in t.nodes)
    bisected = list(read_trees(folder / "trees" / "bisected"))
    assert all(len(t.children(ROOT)) == 4 for t in bisected) and any(len(t.nodes) > 5 for t in bisected)
    assert all(leaf in t.verdicts for t in bisected for leaf in t.leaves())


def test_keys_of_another_policy_are_named():
    raw = apply_overrides(read_yaml(CONFIG), ["stages.8.tree.num_roots=3"])
    with pytest.raises(
        ConfigError,
        match=r"stages\.8\.tree\.num_roots: got an unknown key, expected one of .*num_simulations",
    ):
        validate(RunConfig, raw, CONFIG)


@pytest.mark.parametrize(
    ("text", "is_wrong"),
    [("1+2=3\n3+4=7\n", False), ("1+2=4\n", True), ("1+2=4", False), ("1+2=3\n3+4=", False), ("", False)],
)
def test_a_wrong_line_is_a_dead_end_once_it_is_whole(text, is_wrong):
    assert has_wrong_step(text, Problem("p", "1+2+4", "math", {"answer": "7"})) == is_wrong


def test_a_failed_step_of_a_proof_is_a_dead_end_and_an_unfinished_one_is_not():
    if coq.find() is None:
        pytest.skip("Coq is not installed (bash launch/coq.sh)")
    problem = Problem("p", "", "proof", {"system": "coq", "statement": "forall n : nat, n = n"})
    failed = ["intros n.\nfoo.\nreflex", "intros n. exact n. ", "So:\n```coq\nadmit. "]
    alive = [
        "intros n.\nreflex",
        "intros n. reflexivity",
        "",
        "intros n. (* what",
        "We see. Then it follows. ",
        "intros n. apply Nat.",
        "<think>intros n. foo. ",
        "induction n.\n- reflexivity.\n- ",
    ]
    assert [has_failed_proof(text, problem) for text in failed + alive] == [True] * 3 + [False] * 8
    assert not has_failed_proof("foo. ", Problem("p", "", "math", {"answer": "7"}))
