"""Critiques in words: written from labels, read back, and used as judge and as scorer by a real engine."""

import json

import pytest
import torch
from small_models import branching_tree, go_by_last_token, save_small_qwen

from reasoner.config import ConfigError, validate
from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.engine.local import LocalEngine
from reasoner.pipeline import RunConfig, run
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.records import StepLabels
from reasoner.report.rows import from_json
from reasoner.scoring.critique import (
    CritiqueScores,
    critic,
    judge_with,
    longest_reading,
    majority,
    score_steps,
    step_scorer,
    step_scores,
)
from reasoner.signals.critiques import (
    critique,
    critique_examples,
    critique_pairs,
    critique_prompt,
    reasoning,
    verdict_prompts,
)
from reasoner.signals.step_labels import NO_ERROR, UNDECIDED
from reasoner.store import read_json
from verifiers.critique import read_critique

STEPS = ["2+3=5\n", "5-4=2\n", "#### 2"]


def scores(**options) -> CritiqueScores:
    return validate(CritiqueScores, options, "test")


def record(labels: list[float], votes: list[int]) -> StepLabels:
    return StepLabels(
        "p", "2+3-4", STEPS, labels, [1], [2, 3, 4], [0, 1, 2], first_errors=votes, licence="cc0"
    )


def test_a_critique_by_hand():
    assert critique_prompt("2+3-4\n", STEPS) == "2+3-4\n[1] 2+3=5\n[2] 5-4=2\n[3] #### 2\nCritique:\n"
    assert critique(1, 3) == "[1] right\n[2] wrong\nFirst error: 2"
    assert critique(NO_ERROR, 2) == "[1] right\n[2] right\nFirst error: none"


def test_what_is_written_is_read_back():
    for num_steps in (1, 3, 12):
        for at in (NO_ERROR, *range(num_steps)):
            assert read_critique(critique(at, num_steps), num_steps) == at


@pytest.mark.parametrize(
    "text",
    [
        "",
        "First error: 4",
        "First error: 0",
        "First error: two",
        "the First error: 1",
        "First error: 99999999",
    ],
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
    assert (
        ask(["2+3-4", "1+1"], [STEPS, STEPS[:1]]) == [[UNDECIDED] * 3] * 2
    )  # an untrained critic says nothing
    assert judge_with(ask)(["1+1"], [STEPS]) == [UNDECIDED]
    tree = branching_tree()
    votes = step_scorer(engine, prompting, scores(reads="votes", num_samples=3, max_tokens=5))
    score_steps(votes, [tree], lambda ids: " ".join(map(str, ids)), "critique")
    assert tree.scores["critique"] == {i: [0.5] * len(n.step_ends) for i, n in enumerate(tree.nodes) if i}


def test_scores_of_a_tree_are_what_is_said_of_each_trajectory():
    tree, seen = branching_tree(), []

    def last_is_wrong(prompts, solutions):
        seen.extend(solutions)
        return [step_scores([len(steps) - 1], len(steps)) for steps in solutions]

    score_steps(last_is_wrong, [tree], lambda ids: ",".join(map(str, ids)), "critique")
    assert seen[0] == ["10,11", "12,13", "14,15"] and ["10,11", "12,40", "60,61"] in seen
    for leaf in tree.leaves():
        assert tree.path_scores("critique", leaf)[-1] == 0.0
        assert tree.path_scores("critique", leaf)[0] == 1.0


@pytest.mark.parametrize(("text", "before"), [
    ("[1] right\nFirst error: none", ""),
    ("2+3 is 5.\n[2] is odd.\n[1] right\n[2] wrong\nFirst error: 2", "2+3 is 5.\n[2] is odd.\n"),
    ("First error: none", ""),
    ("it never came to", "it never came to\n"),
    ("", ""),
])  # fmt: skip
def test_what_is_reasoned_stands_before_the_first_verdict(text, before):
    assert reasoning(text) == before


def test_verdicts_are_asked_for_one_after_the_other():
    begun = "2+3-4\n[1] 2+3=5\n[2] 5-4=2\n[3] #### 2\nCritique:\nhm\n"
    assert verdict_prompts("2+3-4", STEPS, "hm\n") == [
        begun + "[1]", begun + "[1] right\n[2]", begun + "[1] right\n[2] right\n[3]",
    ]  # fmt: skip
    # what is asked stands in the critiques that a model is tuned on, token for token
    assert verdict_prompts("2+3-4", STEPS, "")[1] + " wrong\n" in critique_prompt("2+3-4", STEPS) + critique(
        1, 3
    )


@pytest.fixture(scope="module")
def written_critic(tmp_path_factory):
    """A model that writes ` right` after a bracket with chance 1/2, ` wrong` with 1/8, and a star after a line's end."""
    path = tmp_path_factory.mktemp("critic")
    folder = save_small_qwen(path, ["[1] right\n[2] wrong\n[3] right\nCritique:\n*\n"] * 20, 400)
    prompting = Prompting(load_tokenizer(str(folder)), PromptConfig())
    right, wrong, end, star, line = (
        prompting.encode(text)[-1] for text in (" right", " wrong", "[2]", "*", "Critique:\n")
    )
    assert len({right, wrong, end, star, line}) == 5
    assert {prompting.encode(f"[{i}]")[-1] for i in (1, 2, 3)} == {end} and len(
        prompting.encode(" right")
    ) == 1
    table = {end: {right: 1 / 2, wrong: 1 / 8}, line: {star: 0.9}, star: {prompting.eos_id: 0.9}}
    go_by_last_token(folder, table)
    return folder, prompting


def test_a_verdicts_chance_is_read_behind_what_was_reasoned(written_critic):
    folder, prompting = written_critic
    engine = LocalEngine(load_model(str(folder), torch.float32), [prompting.eos_id], 8, 200)
    asked = []

    def score(sequences, adapter=""):
        asked.extend(prompting.decode(ids) for ids in sequences)
        return LocalEngine.score(engine, sequences, adapter)

    engine.score = score  # listens in
    scorer = step_scorer(engine, prompting, scores(max_tokens=5))
    found = scorer(["2+3-4", "1+1"], [STEPS, STEPS[:1]])
    assert found == [pytest.approx([0.8] * 3, abs=1e-4), pytest.approx([0.8], abs=1e-4)]  # 1/2 against 1/8
    expected = [at + word for at in verdict_prompts("2+3-4", STEPS, "*\n") for word in (" right", " wrong")]
    assert asked[:6] == expected and len(asked) == 8
    twice = step_scorer(engine, prompting, scores(max_tokens=5, num_samples=2))
    assert twice(["1+1"], [STEPS[:1]])[0] == pytest.approx([0.8], abs=1e-4)
    tree = branching_tree()
    score_steps(scorer, [tree], lambda ids: " ".join(map(str, ids)), "critique")
    assert tree.path_scores("critique", 5) == pytest.approx([0.8] * 4, abs=1e-4)


def test_all_that_is_asked_is_within_the_longest_reading(written_critic):
    _, prompting = written_critic
    longest = longest_reading(prompting, "2+3-4", STEPS, 2)
    asked = [prompting.encode(at + " wrong") for at in verdict_prompts("2+3-4", STEPS, "*\n")]
    assert max(map(len, asked)) <= longest <= max(map(len, asked)) + 4


def test_a_critic_scores_a_benchmark_and_leaves_out_what_does_not_fit(written_critic, tmp_path):
    folder, _ = written_critic
    rows = [
        {"id": "x-2", "problem": "1+3?", "steps": ["word " * 3000], "label": 0, "final_answer_correct": False},
        {"id": "x-0", "problem": "1+1?", "steps": ["a", "b"], "label": 1, "final_answer_correct": False},
        {"id": "x-1", "problem": "1+2?", "steps": ["c"], "label": -1, "final_answer_correct": True},
    ]  # fmt: skip
    (tmp_path / "bench.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stage = {
        "kind": "step_benchmarks", "critic": str(folder), "benchmarks": {"b": {"path": str(tmp_path / "bench.jsonl")}},
        "critique": {"max_tokens": 4}, "threshold": 0.7,
    }  # fmt: skip
    run(validate(RunConfig, {"out": str(tmp_path / "run"), "problems": {}, "stages": [stage]}, "test"))
    found = {(r.method, r.metric): r.value for r in from_json((tmp_path / "run/metrics.json").read_text())}
    # every step passes at 0.7: right of the right solution, and of no wrong one
    assert (found["critic", "correct_accuracy"], found["critic", "error_accuracy"]) == (1, 0)
    counts = read_json(tmp_path / "run/stages/evaluate/counts.json")["b"]
    assert [r["line"] for r in counts["not_scored"]] == [1]
    counted = read_json(tmp_path / "run/ledger.json")["counts"]["evaluate"]["policy"]
    assert counted["scored"] > counted["decoded"] > 0  # critiques are charged, and so are their verdicts
    with pytest.raises(ConfigError, match="expected one of them"):
        validate(RunConfig, {"problems": {}, "stages": [stage | {"prm": str(folder)}]}, "test")
