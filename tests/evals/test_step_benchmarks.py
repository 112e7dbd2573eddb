"""Step benchmarks: hand-typed solutions, given scores, ProcessBench's constant predictions, and a model on real rows."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_models import save_small_qwen

from reasoner.config import validate
from reasoner.data.importers import Import
from reasoner.evals.step_benchmarks import Scored, best_of_rows, measure_steps, prm_score, threshold_of
from reasoner.metrics.reward_quality import auroc, first_below
from reasoner.pipeline import RunConfig, run
from reasoner.policy.heads import ScoreNet
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.registry import UserError
from reasoner.report.rows import from_json
from reasoner.scoring.published import load_published, score_solutions
from reasoner.stages.step_benchmarks import given_scores
from reasoner.store import read_json

NAN = math.nan
SCORED = [
    Scored("a", [1.0, 0.0, NAN], [0.9, 0.2, 0.1]),  # found
    Scored("b", [1.0, 0.0, NAN], [0.4, 0.2, 0.1]),  # one step too early
    Scored("c", [1.0, 1.0], [0.8, 0.7]),  # right
    Scored("d", [1.0, 1.0], None),  # did not fit: never right
    Scored("e", [0.0], [0.6]),  # missed
]


def values(rows):
    return {row.metric: row.value for row in rows}


def test_first_errors_by_hand():
    found = values(measure_steps(SCORED, 0.5, "product", "s", "prm", "m", "b"))
    assert found["error_accuracy"] == pytest.approx(1 / 3) and found["correct_accuracy"] == 0.5
    assert found["first_error_f1"] == pytest.approx(2 * (1 / 3) * 0.5 / (1 / 3 + 0.5))
    # right steps .9 .4 .8 .7 against wrong ones .2 .2 .6: 11 of 12 pairs in order
    assert found["auroc"] == pytest.approx(11 / 12)
    assert "prm_score" not in found and "best_of_1" not in found


def test_prm_score_by_hand():
    # said right: r r w; said wrong: w. F1 of right: 2*2/(3+2); of wrong: 2*1/(1+2)
    score = prm_score(np.array([0.9, 0.8, 0.7, 0.1]), np.array([1.0, 1.0, 0.0, 0.0]), 0.5)
    assert score == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_best_of_k_is_exact():
    group = [Scored("a", [NAN], [s], outcome=o) for s, o in ((0.9, 0.0), (0.5, 1.0))]
    rows = best_of_rows([*group, Scored("b", [NAN], [0.1], outcome=1.0)], "last", "s", "prm", "m", "b")
    assert [(r.metric, r.value, r.n) for r in rows] == [("best_of_1", 0.5, 1), ("best_of_2", 0.0, 1)]


def test_neutral_labels_are_left_alone_and_thresholds_found():
    scored = [Scored("a", [0.5, 0.0], [0.1, 0.3]), Scored("b", [1.0, 1.0], [0.6, 0.7])]
    assert scored[0].known() == [(0.3, False)]
    assert threshold_of([Scored("a", [1.0, 0.0], [0.9, 0.3]), scored[1]]).threshold == pytest.approx(0.45)


def rows_of(tmp_path, name="bench.jsonl"):
    rows = [
        {"id": "x-0", "problem": "1+1?", "steps": ["a", "b"], "label": 1, "final_answer_correct": False},
        {"id": "x-1", "problem": "1+2?", "steps": ["c"], "label": -1, "final_answer_correct": True},
    ]
    (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    return str(tmp_path / name)


def evaluated(tmp_path, problems=None, **stage):
    stages = [{"kind": "step_benchmarks", **stage}]
    config = {"out": str(tmp_path / "run"), "problems": problems or {}, "stages": stages}
    run(validate(RunConfig, config, "test"))
    rows = from_json((tmp_path / "run/metrics.json").read_text())
    return {(r.subset, r.metric): r.value for r in rows}


def test_given_scores_and_predictions(tmp_path):
    path = rows_of(tmp_path)
    (tmp_path / "scores.jsonl").write_text(
        json.dumps({"id": "x-1", "scores": [0.9]}) + "\n" + json.dumps({"id": "x-0", "scores": [0.8, 0.1]})
    )
    (tmp_path / "said.jsonl").write_text('{"prediction": 0}\n{"prediction": -1}')
    found = evaluated(tmp_path, benchmarks={
        "scored": {"path": path, "scores": str(tmp_path / "scores.jsonl")},
        "said": {"path": path, "scores": str(tmp_path / "said.jsonl")},
    })  # fmt: skip
    assert found["scored", "first_error_f1"] == 1 and found["scored", "auroc"] == 1
    assert (found["said", "error_accuracy"], found["said", "correct_accuracy"]) == (0, 1)
    assert found["average", "first_error_f1"] == 0.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"id": "x-0", "scores": [1, 1]}', "no row with the id 'x-1'"),
        ('{"scores": [1, 1]}', "1 rows for 2 solutions"),
        (
            '{"scores": [1]}\n{"scores": [1]}',
            "solution x-0 has 1 scores; expected one for each of its 2 steps",
        ),
        ('{"scores": [1, 2]}\n{"scores": [1]}', "score 2 is out of range"),
        ('{"scores": [NaN, 1]}\n{"scores": [1]}', "score is NaN"),
        ("{}\n{}", "neither scores nor an integer prediction"),
        ('{"prediction": true}\n{"prediction": "1"}', "neither scores nor an integer prediction"),
        ('{"id": "x", "scores": [1, 1]}\n{"id": "x", "scores": [0, 0]}', "has 1 ids for 2 rows"),
        ("{", "line 1: broken JSON"),
    ],
)
def test_bad_scores_are_named(tmp_path, text, reason):
    (tmp_path / "scores.jsonl").write_text(text)
    with pytest.raises(UserError, match=reason):
        given_scores(tmp_path / "scores.jsonl", list(Import(rows_of(tmp_path))))


def test_problems_of_the_training_labels_are_left_out(tmp_path):
    path = rows_of(tmp_path)
    (tmp_path / "train.jsonl").write_text(
        json.dumps({"prompt": "1 + 1 ?", "completions": ["a"], "labels": [True]})
    )
    (tmp_path / "said.jsonl").write_text('{"prediction": 0}\n{"prediction": -1}')
    found = evaluated(tmp_path, benchmarks={"b": {"path": path, "scores": str(tmp_path / "said.jsonl")}},
                      trained_on=[str(tmp_path / "train.jsonl")])  # fmt: skip
    assert found["b", "correct_accuracy"] == 1 and ("b", "error_accuracy") not in found
    counts = read_json(tmp_path / "run/stages/evaluate/counts.json")["b"]
    assert (counts["solutions"], counts["excluded"]) == (1, 1)


@pytest.mark.parametrize("name", ["olympiadbench", "omnimath"])
@pytest.mark.parametrize(("prediction", "key"), [(-1, "baseline_predict_minus1"), (0, "baseline_predict_0")])
def test_constant_predictions_on_processbench(shared_data, tmp_path, name, prediction, key):
    expected = json.loads((shared_data / "expected_values.json").read_text())[f"processbench_{name}"]
    (tmp_path / "said.jsonl").write_text(f'{{"prediction": {prediction}}}\n' * 1000)
    path = shared_data / f"processbench/{name}.jsonl.gz"
    scored = given_scores(tmp_path / "said.jsonl", list(Import(path)))
    found = measure_steps(scored, 0.5, "product", "s", "given", "m", name)
    by_metric = values(found)
    names = {"acc_error": "error_accuracy", "acc_correct": "correct_accuracy", "F1": "first_error_f1"}
    assert {k: by_metric[n] for k, n in names.items()} == pytest.approx(expected[key], abs=1e-9)
    assert next(r.n for r in found if r.metric == "error_accuracy") == expected["with_error"]


def test_own_labels_of_the_scored_samples_rank_them(shared_data, tmp_path):
    path = str(shared_data / "prm800k/openai_scored_test_samples_found.jsonl")
    found = evaluated(
        tmp_path, benchmarks={"openai": {"path": path, "scores": "labels"}}, aggregate="product"
    )
    assert found == {("openai", "best_of_1"): 1.0, ("openai", "best_of_2"): 1.0}


def test_a_model_scores_a_benchmark(tmp_path):
    folder = save_small_qwen(tmp_path / "lm", ["a b c 1+1? 1+2?"] * 5)
    net = ScoreNet(load_model(str(folder)))
    net.save(load_tokenizer(str(folder)), tmp_path / "prm")
    rows = rows_of(tmp_path)
    long = {
        "id": "x-2",
        "problem": "1+3?",
        "steps": ["word " * 3000],
        "label": 0,
        "final_answer_correct": False,
    }
    with open(rows, "a") as file:
        file.write("\n" + json.dumps(long))
    found = evaluated(tmp_path, prm=str(tmp_path / "prm"), benchmarks={"b": {"path": rows}}, threshold=0.6)
    # a head of zeros says one half everywhere, so the first step is always called wrong, and chance ranks
    assert (found["b", "error_accuracy"], found["b", "correct_accuracy"], found["b", "auroc"]) == (0, 0, 0.5)
    counts = read_json(tmp_path / "run/stages/evaluate/counts.json")["b"]
    assert [r["line"] for r in counts["not_scored"]] == [3]


@pytest.mark.parametrize("layout", ["", "trl:"])
def test_a_published_prm_scores_a_benchmark(tmp_path, layout):
    """The stage's AUROC is that of the scores that the model gives when it is asked itself."""
    folder = save_small_qwen(tmp_path / "published", ["a b c 1+1? 1+2?"] * 5)
    torch.manual_seed(3)
    save_file({"score.weight": torch.randn(2, 64), "score.bias": torch.zeros(2)}, folder / "head.safetensors")
    path = rows_of(tmp_path)
    long = {
        "id": "x-2",
        "problem": "1+3?",
        "steps": ["word " * 3000],
        "label": 0,
        "final_answer_correct": False,
    }
    with open(path, "a") as file:
        file.write("\n" + json.dumps(long))
    found = evaluated(tmp_path, prm=f"{layout}{folder}", benchmarks={"b": {"path": path}}, threshold=0.5)
    prm = load_published(str(folder), "trl")
    first, second = score_solutions(prm, "1+1?", [["a", "b"]])[0], score_solutions(prm, "1+2?", [["c"]])[0]
    assert found["b", "auroc"] == auroc([*first, *second], [True, False, True])
    assert found["b", "error_accuracy"] == (first_below(first, 0.5) == 1) / 2
    assert found["b", "correct_accuracy"] == (first_below(second, 0.5) == -1)
    counts = read_json(tmp_path / "run/stages/evaluate/counts.json")["b"]
    assert [(r["line"], r["reason"]) for r in counts["not_scored"]] == [
        (3, "longer than the model's context")
    ]


def test_a_model_without_a_head_has_to_be_named(tmp_path):
    folder = save_small_qwen(tmp_path / "plain", ["a b c"] * 5)
    with pytest.raises(UserError, match="its kind before the name"):
        evaluated(tmp_path, prm=str(folder), benchmarks={"b": {"path": rows_of(tmp_path)}})
