"""Labels by people: the order of showing, one key a step, resuming, and records that the importer reads back."""

import json

import pytest
from small_models import save_small_qwen

from reasoner.commands.annotate import annotate
from reasoner.config import save_resolved, validate
from reasoner.data.annotate import Candidate, printable, queue, record
from reasoner.data.importers import Import
from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.pipeline import RunConfig
from reasoner.policy.models import load_tokenizer
from reasoner.registry import UserError
from reasoner.store import write_trees
from reasoner.tree import ROOT, Node, Problem, Tree
from verifiers import Verdict


def candidate(score, is_correct=False, steps=("a",)):
    return Candidate("q", "2", steps, "3", is_correct, score)


def test_convincing_wrong_answers_come_first():
    wrong = [candidate(s, steps=(str(s),)) for s in (0.1, 0.9, 0.5, 0.7, 0.6)]
    right = [candidate(s, True, steps=(str(s),)) for s in (0.99, 0.2)]
    order = [(c.score, c.is_correct) for c in queue([*right, *wrong, wrong[1]])]
    assert order == [
        (0.9, False),
        (0.7, False),
        (0.6, False),
        (0.5, False),
        (0.99, True),
        (0.1, False),
        (0.2, True),
    ]
    assert [c.score for c in queue(wrong, [wrong[1].key, wrong[3].key])] == [0.6, 0.5, 0.1]


@pytest.mark.parametrize(
    ("ratings", "finish", "chosen"),
    [
        ([1, 0], "solution", [0, 0]),
        ([1, -1], "found_error", [0, None]),
        ([-1], "found_error", [None]),
        ([1], "give_up", [0]),
    ],
)
def test_records(ratings, finish, chosen):
    made = record(candidate(0.5, steps=("a", "b")), ratings, "me", "now", 7)
    assert made["label"]["finish_reason"] == finish
    assert [s["chosen_completion"] for s in made["label"]["steps"]] == chosen
    assert [s["completions"][0]["rating"] for s in made["label"]["steps"]] == ratings


def test_model_text_cannot_drive_the_terminal():
    assert printable("\x1b[2Jé\n") == "\\x1b[2Jé\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with two judged solutions of one problem, the wrong one less probable."""
    out = tmp_path_factory.mktemp("run")
    model = str(save_small_qwen(out / "lm", ["one and one is two"] * 5))
    prompting = Prompting(load_tokenizer(model), PromptConfig())
    tree = Tree.of_prompt(Problem("p", "1+1?", "math", {"answer": "2"}), prompting.prompt_ids("1+1?"))
    for text, logprob, status in (("one\nis two", -0.1, "correct"), ("one\nand\nis one", -0.5, "incorrect")):
        ids = prompting.completion_ids(text)
        node = Node(ROOT, len(tree.nodes[ROOT].token_ids), tuple(ids), logprobs_full=(logprob,) * len(ids),
                    step_ends=tuple(prompting.mark_steps(ids)))  # fmt: skip
        tree.verdicts[tree.add(node)] = Verdict(status, "ok" if status == "correct" else "wrong", answer="2")
    write_trees(out / "trees/verify", [tree])
    stages = [{"kind": "verify", "trees": "x", "model": model}]
    save_resolved(validate(RunConfig, {"problems": {}, "stages": stages}, "test"), out / "config.yaml")
    return out


def rate(folder, to, keys):
    shown, waiting = [], iter(keys)
    num = annotate(folder, "", "", to, "me", lambda: next(waiting), shown.append)
    return num, "\n".join(shown)


def test_keys_rate_and_the_same_command_goes_on(folder, tmp_path):
    file = tmp_path / "labels.jsonl"
    num, shown = rate(folder, file, "gxnuubq")  # wrong key, undo twice, bad; then quit at the next one
    assert num == 1 and "2 solutions to rate" in shown and "got 'x'" in shown
    (first,) = map(json.loads, file.read_text().splitlines())
    assert first["question"]["pre_generated_steps"] == ["one", "and", "is one"]
    assert first["label"]["finish_reason"] == "found_error" and len(first["label"]["steps"]) == 1
    num, shown = rate(folder, file, "gg")
    assert num == 1 and "1 solutions to rate, 1 rated before" in shown
    assert rate(folder, file, "")[0] == 0


def test_the_importer_reads_what_was_rated(folder, tmp_path):
    file = tmp_path / "labels.jsonl"
    rate(folder, file, "gbgn")
    bad, good = Import(file)
    assert (bad.steps, bad.labels) == (["one", "and"], [1.0, 0.0])
    assert (good.steps, good.labels) == (["one", "is two"], [1.0, 0.5])
    assert (good.prompt, good.answer, good.kind) == ("1+1?", "2", "human")


def test_what_cannot_be_rated_is_said(folder, tmp_path):
    with pytest.raises(UserError, match="expected the folder of a run"):
        rate(tmp_path, None, "")
    with pytest.raises(UserError, match=r"no judged trees nothing.*there: verify"):
        annotate(folder, "nothing", "", None, "", str, print)
    (tmp_path / "cut.jsonl").write_text('{"question": ')
    with pytest.raises(UserError, match=r"cut\.jsonl, line 1: broken JSON"):
        rate(folder, tmp_path / "cut.jsonl", "")
