"""The estimators reproduce the numbers recorded with the public data, where that is at hand."""

import gzip
import json

import numpy as np
import pytest

from reasoner.metrics.at_k import best_of_k, best_of_n, maj_at_k, pass_at_k
from reasoner.metrics.reward_quality import first_error_f1
from reasoner.search.choose import majority


def read_jsonl(path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture
def expected(shared_data):
    return json.loads((shared_data / "expected_values.json").read_text())


def check_pass_at_k(counts, expected):
    ks = [int(name.removeprefix("pass@")) for name in expected if name.startswith("pass@")]
    assert ks
    for k in ks:
        assert np.mean([pass_at_k(n, c, k) for n, c in counts]) == pytest.approx(
            expected[f"pass@{k}"], abs=1e-9
        )


def test_qwen_math(shared_data, expected):
    values = expected["qwen_math_cot_100"]
    problems = read_jsonl(shared_data / "replay/qwen_math_cot_100_rm.visible.jsonl.gz")
    assert len(problems) == values["problems"]
    check_pass_at_k([(len(p["score"]), sum(p["score"])) for p in problems], values)
    votes = [maj_at_k(p["pred"], p["score"], 8) for p in problems]
    assert np.mean(votes) == pytest.approx(values["maj_at_8"])
    assert votes == [float(p["score"][p["pred"].index(majority(p["pred"]))]) for p in problems]
    rewards = [[score[0] for score in p["pred_score"]] for p in problems]
    best = [best_of_n(r, p["score"]) for r, p in zip(rewards, problems, strict=True)]
    assert np.mean(best) == pytest.approx(values["best_of_8_rm"])
    one = [best_of_k(r, p["score"], 1) for r, p in zip(rewards, problems, strict=True)]
    assert np.mean(one) == pytest.approx(values["mean_accuracy"])


def test_verify_cot_date(shared_data, expected):
    values = expected["verify_cot_date_np"]
    problems = read_jsonl(shared_data / "verify_cot/date_np.visible.jsonl.gz")
    check_pass_at_k([(10, sum(p["per_sample_correct"])) for p in problems], values)
    # The recorded votes count "No answer!" as an answer.
    votes = [maj_at_k(p["pred_answers"], p["per_sample_correct"], 10) for p in problems]
    assert np.mean(votes) == pytest.approx(values["maj_at_10_first_tie"])
    answers = [[None if a == "No answer!" else a for a in p["pred_answers"]] for p in problems]
    apart = [maj_at_k(a, p["per_sample_correct"], 10) for a, p in zip(answers, problems, strict=True)]
    assert np.mean(apart) >= np.mean(votes)


@pytest.mark.parametrize("kind", ["cot", "standard"])
def test_game24(shared_data, expected, kind):
    files = list((shared_data / "countdown_24").glob(f"tot_gpt-4_0.7_naive_{kind}_sample_100_*"))
    (path,) = files
    puzzles = read_jsonl(path)
    outcomes = [p["accs"] if kind == "standard" else [info["r"] for info in p["infos"]] for p in puzzles]
    check_pass_at_k([(len(o), int(sum(o))) for o in outcomes], expected[f"game24_naive_{kind}_sample_100"])


def test_codet_humaneval(shared_data, expected):
    tasks = read_jsonl(shared_data / "code_samples/CodeT_HumanEval_codegen16B_pass_labels.visible.jsonl")
    counts = [(len(t["status"]), t["status"].count("P")) for t in tasks]
    check_pass_at_k(counts, expected["codet_humaneval_codegen16B"])


@pytest.mark.parametrize(
    "name",
    [
        "areal_eval_aime24-deepscaler_base_rollouts",
        "areal_eval_aime24-nemotron_base_rollouts",
        "areal_salloc_eval_aime24-20260412_230444_rollouts",
    ],
)
def test_areal_rollouts(shared_data, expected, name):
    groups: dict[str, list[bool]] = {}
    for rollout in read_jsonl(shared_data / f"replay/{name}.jsonl.gz"):
        groups.setdefault(rollout["question_id"], []).append(rollout["reward"] > 0)
    counts = [(len(group), sum(group)) for group in groups.values()]
    assert sorted(counts) == sorted(map(tuple, expected[name]["n_and_correct"]))
    check_pass_at_k(counts, expected[name])


def test_areal_math_answers(shared_data, expected):
    problems = read_jsonl(shared_data / "replay/areal_math_answers_16.jsonl")
    check_pass_at_k(
        [(16, sum(r > 0 for r in p["rewards"])) for p in problems], expected["areal_math_answers_16"]
    )


def test_nemo(shared_data, expected):
    runs = [read_jsonl(shared_data / f"replay/nemo_output-rs{seed}.jsonl") for seed in range(3)]
    counts = [
        (3, sum(bool(sample["is_correct"]) for sample in samples)) for samples in zip(*runs, strict=True)
    ]
    check_pass_at_k(counts, expected["nemo_rs0-2"])


@pytest.mark.parametrize("name", ["olympiadbench", "omnimath"])
def test_processbench_constant_predictions(shared_data, expected, name):
    values = expected[f"processbench_{name}"]
    truth = [row["label"] for row in read_jsonl(shared_data / f"processbench/{name}.jsonl.gz")]
    for prediction, key in ((-1, "baseline_predict_minus1"), (0, "baseline_predict_0")):
        result = first_error_f1([prediction] * len(truth), truth)
        assert (result.num_error, result.num_correct) == (values["with_error"], values["all_correct"])
        got = (result.error_accuracy, result.correct_accuracy, result.f1)
        assert got == pytest.approx(
            tuple(values[key][x] for x in ("acc_error", "acc_correct", "F1")), abs=1e-9
        )


def test_lighteval_pass_and_majority_cases(shared_data):
    cases = read_jsonl(shared_data / "metric_cases/lighteval_metric_cases.visible.jsonl")
    checked = 0
    for case in cases:
        gold_index, choices = case["doc"]["gold_index"], case["doc"]["choices"]
        texts, tolerance = case["model_response"]["text"], case["tolerance"]
        (value,) = case["expected_output"].values()
        if case["suite"] == "pass_at_k":
            n, k = case["metric_params"]["n"], case["metric_params"]["k"]
            correct = sum(text == choices[gold_index] for text in texts[:n])
            assert pass_at_k(n, correct, k) == pytest.approx(value, abs=tolerance)
        elif case["suite"] == "maj_at_k":
            correct = [text == choices[gold_index[0]] for text in texts]
            assert maj_at_k(texts, correct, case["metric_params"]["k"]) == pytest.approx(value, abs=tolerance)
        else:
            continue
        checked += 1
    assert checked == 7
