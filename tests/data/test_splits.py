"""Contamination: equal texts, texts that are set differently, long problems by their n-grams; and short ones not by chance."""

import json

import pytest
from small_models import save_small_qwen

from reasoner.config import validate
from reasoner.data.sources import SourceConfig
from reasoner.data.splits import ContaminationConfig, HeldOut, normalised
from reasoner.pipeline import RunConfig, measured_on, run
from reasoner.records import StepLabels
from reasoner.registry import UserError
from reasoner.stages.context import Context
from reasoner.store import read_records
from reasoner.trainers.loop import Session
from reasoner.tree import Problem

LONG = (
    "a farmer has twelve cows and nine of them are brown how many cows of another colour does the farmer have"
)


def held_out(*prompts, **options):
    problems = [Problem(f"t{i}", p, "math", {}) for i, p in enumerate(prompts)]
    return HeldOut(problems, ContaminationConfig(**options))


def how(held, prompt, text=""):
    return [(m.problem_id, m.how) for m in held.matches(prompt, text)]


def test_equal_and_normalised():
    held = held_out("What is $\\left(2+3\\right)$?", "7+8")
    assert how(held, "What is $\\left(2+3\\right)$?") == [("t0", "exact")]
    assert how(held, "what  is (2+3) ?") == [("t0", "normalised")]
    assert how(held, "7 + 8") == [("t1", "normalised")]
    assert normalised("$1.5$ ") == "1 . 5" != normalised("15")


def test_short_problems_are_not_found_inside_others():
    held = held_out("7+8")
    assert how(held, "17+8") == how(held, "7+8+9", "7+8=15") == []


def test_ngrams():
    held = held_out(LONG, ngram=5, share=0.5)
    reworded = LONG.replace("a farmer has", "farmer Joe owns")
    assert how(held, "Solve:", f"Here it is. {reworded.upper()}!") == [("t0", "ngram")]
    half = " ".join(LONG.split()[:9])
    assert how(held, half) == []  # 5 of its 17 5-grams
    assert how(held_out(LONG, ngram=5, share=5 / 17), half) == [("t0", "ngram")]
    assert how(held_out(LONG), half) == []  # of 13 words there is none


def test_problems_of_one_id_are_all_held_out():
    other = LONG.replace("cows", "hens").replace("farmer", "baker")
    held = HeldOut([Problem("-1", p, "math", {}) for p in (LONG, other)], ContaminationConfig())
    for text in (LONG, other):
        assert how(held, "Solve:", f"It says: {text}") == [("-1", "ngram")]


def test_text_without_spaces_has_ngrams():
    asked = "小勇拍皮球，第一次拍了77下，第二次比第一次少了9下，第二次拍了多少下？"
    assert how(held_out(asked), "题目", f"请看：{asked}好") == [("t0", "ngram")]
    assert how(held_out(asked), "芳芳买了一本书有99页，看了90页，她还剩多少页没有看？") == []


def rows(path, prompts):
    made = [{"prompt": p, "completions": ["a", "b"], "labels": [True, False], "answer": "1"} for p in prompts]
    path.write_text("\n".join(map(json.dumps, made)))
    return str(path)


def test_imported_labels_are_compared_with_the_test_set(tmp_path):
    model = str(save_small_qwen(tmp_path / "model", ["one and one is two"] * 5))
    path = rows(tmp_path / "train.jsonl", ["What is 1+1?", "what is 1 + 2", "What is 1+3?", f"{LONG} today"])
    test = rows(tmp_path / "test.jsonl", ["What is 1+1?", "What is 1+2?", LONG])
    config = {
        "out": str(tmp_path / "run"),
        "problems": {"test": [{"name": "labelled", "path": test}]},
        "stages": [{"kind": "import", "path": path, "model": model}],
    }
    run(validate(RunConfig, config, "test"))
    assert [r.prompt for r in read_records(tmp_path / "run/records/import/hard", StepLabels)] == [
        "What is 1+3?"
    ]
    logged = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    counts = [(line["contamination/exact"], line["contamination/normalised"], line["contamination/ngram"])
              for line in logged if "contamination/exact" in line]  # fmt: skip
    assert counts == [(1, 1, 1)]
    with pytest.raises(UserError, match="without a test problem"):
        run(validate(RunConfig, {**config, "out": str(tmp_path / "none"),
                                 "stages": [{"kind": "import", "path": test, "model": model}]}, "test"))  # fmt: skip


def test_prmbench_is_found_in_prm800k(shared_data):
    """Almost all of its questions come from PRM800K, also where its wording is a changed one."""
    from reasoner.data.importers import Import
    from reasoner.data.sources import load_items

    bench = "prmbench/prm800k_train_p1_first400_4o_circular.jsonl.gz"
    config = SourceConfig(name="labelled", path=str(shared_data / bench), size=10000)
    problems = [item.problem for item in load_items(config)]
    held = HeldOut(problems, ContaminationConfig())
    steps = Import(shared_data / "prm800k/phase1_train_plus.stepwise-critic.jsonl.gz")
    found = {m.problem_id for tree in steps for m in held.matches(tree.prompt)}
    assert len(found) > 0.95 * len(problems)


def test_what_is_evaluated_is_held_out_whatever_its_set_is_called(tmp_path):
    """Of a set that is called dev nothing is trained on either, unless a stage is told to train on it."""
    sets = {
        name: [{"name": "jsonl", "path": write_problems(tmp_path / f"{name}.jsonl", prompts)}]
        for name, prompts in {"train": ["1+1", "1+2"], "dev": ["1 + 2"], "test": ["1+9"]}.items()
    }
    stages = [
        {"kind": "rollout", "model": "m", "problems": ["train"]},
        {"kind": "evaluate", "policies": ["m"], "problems": ["dev"]},
    ]
    for trained, held, left in (("train", ("dev", "test"), ["1+1"]), ("dev", ("test",), ["1+1", "1+2"])):
        stages[0]["problems"] = [trained]
        config = validate(RunConfig, {"out": "o", "problems": sets, "stages": stages}, "test")
        assert measured_on(config) == held
        context = Context(
            None, config.problems, config.prompt, Session(None), measured_on=measured_on(config)
        )
        assert [i.problem.prompt for i in context.items(["train"])] == left
        assert [i.problem.prompt for i in context.items(["dev"])] == ["1 + 2"]


def write_problems(path, prompts):
    path.write_text("".join(json.dumps({"prompt": p, "answer": "1"}) + "\n" for p in prompts))
    return str(path)
