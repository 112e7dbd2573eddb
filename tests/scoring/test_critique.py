"""Critiques in words: written from labels, read back, and used as judge and as scorer by a real engine."""

import pytest
from small_models import branching_tree, save_small_qwen

from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.engine.local import LocalEngine
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.records import StepLabels
from reasoner.scoring.critique import critic, judge_with, majority, score_steps, step_scores
from reasoner.signals.critiques import (
    critique,
    critique_examples,
    critique_pairs,
    critique_prompt,
    read_critique,
)
from reasoner.signals.step_labels import NO_ERROR, UNDECIDED

STEPS = ["2+3=5\n", "5-4=2\n", "#### 2"]


def record(labels: list[float], votes: list[int]) -> StepLabels:
    return StepLabels("p", "2+3-4", STEPS, labels, [1], [2, 3, 4], [0, 1, 2], first_errors=votes, licence="cc0")


def test_a_critique_by_hand():
    assert critique_prompt("2+3-4\n", STEPS) == "2+3-4\n[1] 2+3=5\n[2] 5-4=2\n[3] #### 2\nCritique:\n"
    assert critique(1, 3) == "[1] right\n[2] wrong\nFirst error: 2"
    assert critique(NO_ERROR, 2) == "[1] right\n[2] right\nFirst error: none"


def test_what_is_written_is_read_back():
    for num_steps in (1, 3, 12):
        for at in (NO_ERROR, *range(num_steps)):
            assert read_critique(critique(at, num_steps), num_steps) == at


@pytest.mark.parametrize(
    "text", ["", "First error: 4", "First error: 0", "First error: two", "the First error: 1", "First error: 99999999"]
)
def test_what_cannot_be_read_is_undecided(text):
    assert read_critique(text, 3) == UNDECIDED


def test_the_last_verdict_counts():
    assert read_critique("First error: 1\nNo, wait.\nFirst error: none", 3) == NO_ERROR


def test_examples_and_pairs_are_of_solutions_whose_first_error_is_known():
    records = [
        record([1, 0, 0], [1, 1]),  # both labellers agree
        record([1, 0, 0], [1, -1]),  # they do not
        record([1, float("nan"), 0], [-2]),
        record([1, 1, 1], []),  # no votes: the labels say
    ]

    def encode(text: str) -> list[int]:
        return list(text.encode())

    def complete(text: str) -> list[int]:
        return [*text.encode(), 0]

    shown = list(critique_examples(records, encode, complete))
    assert [e.completion for e in shown] == [critique(1, 3), critique(NO_ERROR, 3)]
    assert bytes(shown[0].prompt_ids).decode() == critique_prompt("2+3-4", STEPS)
    assert shown[0].completion_ids == complete(critique(1, 3)) and shown[0].licence == "cc0"
    pairs = list(critique_pairs(records * 40, encode, complete))
    assert len(pairs) == 80
    for pair, truth in zip(pairs, [1, NO_ERROR] * 40, strict=True):
        assert read_critique(pair.chosen, 3) == truth != read_critique(pair.rejected, 3)
    assert {read_critique(p.rejected, 3) for p in pairs} == {NO_ERROR, 0, 1, 2}


def test_votes_become_a_judgement_and_scores():
    assert majority([1, 2, 2, UNDECIDED, UNDECIDED, UNDECIDED]) == 2
    assert majority([2, 1]) == 1
    assert majority([UNDECIDED]) == majority([]) == UNDECIDED
    assert step_scores([1, NO_ERROR, 2, UNDECIDED], 3) == [1, 2 / 3, 1 / 3]
    assert step_scores([UNDECIDED], 2) == [0.5, 0.5]


def test_an_engine_writes_the_critiques(tmp_path):
    folder = save_small_qwen(tmp_path, ["[1] right\n[2] wrong\nFirst error: none"], 300)
    prompting = Prompting(load_tokenizer(str(folder)), PromptConfig())
    engine = LocalEngine(load_model(str(folder)), [prompting.eos_id], 8, 200)
    ask = critic(engine, prompting, num_samples=3, max_tokens=5)
    assert ask(["2+3-4", "1+1"], [STEPS, STEPS[:1]]) == [[UNDECIDED] * 3] * 2  # an untrained critic says nothing
    assert judge_with(ask)(["1+1"], [STEPS]) == [UNDECIDED]
    tree = branching_tree()
    score_steps(ask, [tree], lambda ids: " ".join(map(str, ids)), "critique")
    assert tree.scores["critique"] == {i: [0.5] * len(n.step_ends) for i, n in enumerate(tree.nodes) if i}


def test_scores_of_a_tree_are_what_is_said_of_each_trajectory():
    tree, seen = branching_tree(), []

    def ask(prompts, solutions):
        seen.extend(solutions)
        return [[len(steps) - 1] for steps in solutions]  # always the last step

    score_steps(ask, [tree], lambda ids: ",".join(map(str, ids)), "critique")
    assert seen[0] == ["10,11", "12,13", "14,15"] and ["10,11", "12,40", "60,61"] in seen
    for leaf in tree.leaves():
        assert tree.path_scores("critique", leaf)[-1] == 0.0
        assert tree.path_scores("critique", leaf)[0] == 1.0
