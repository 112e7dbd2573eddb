"""Samples made elsewhere: recorded verdicts, others' field names, the recorded figures, and bad files."""

import json

import pytest

from reasoner.evals.replay import read_groups, replay_rows, verify_groups
from reasoner.registry import UserError
from reasoner.tree import Problem


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def by_metric(rows):
    return {r.metric: r.value for r in rows}


def test_lists_of_samples(tmp_path):
    rows = [
        {"id": "a", "responses": ["x"] * 4, "correct": [1, 1, 0, 0], "answers": ["3", "3.0", "4", None]},
        {"id": "b", "responses": ["x"] * 4, "correct": [0, 0, 0, 0], "answers": ["1", "2", "3", "4"]},
    ]  # fmt: skip
    rows = [{**row, "scores": [0.1, 0.2, 0.9, 0.3]} for row in rows]
    found = by_metric(replay_rows(read_groups(write(tmp_path / "r.jsonl", rows)), "r"))
    assert found["pass@1"] == 0.25 and found["pass@2"] == pytest.approx(5 / 12) and found["pass@4"] == 0.5
    assert found["pass^2"] == pytest.approx(1 / 12)
    assert found["maj@4"] == 0.5 and found["best_of_4"] == 0.0


def test_one_sample_a_row(tmp_path):
    rows = [
        {"question_id": q, "sample_idx": i, "completion": "x", "reward": r}
        for q, r in (("a", 1.0), ("b", -1.0))
        for i in range(2)
    ]
    found = by_metric(replay_rows(read_groups(write(tmp_path / "r.jsonl", rows)), "r"))
    assert found == {"pass@1": 0.5, "pass@2": 0.5, "pass^2": 0.5}


def test_responses_are_verified_where_no_verdict_is_recorded(tmp_path):
    path = write(
        tmp_path / "r.jsonl",
        [{"prompt": "1+1", "responses": ["#### 2", "#### 3", "nothing that is one at all, really"]}],
    )
    groups = read_groups(path)
    verify_groups(groups, [Problem("p", "1+1", "math", {"answer": "2"})], path)
    assert groups[0].correct == [True, False, False]
    assert groups[0].answers == ["2", "3", None]
    with pytest.raises(UserError, match="not in the config's problem sets"):
        verify_groups(read_groups(path), [Problem("p", "other", "math", {"answer": "2"})], path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no rows"),
        ([{"responses": ["x"], "correct": [True]}], "names no problem"),
        ([{"id": 1, "answer": "3"}], "holds no samples"),
        ([{"id": i, "correct": [True] * (3 if i else 2)} for i in range(3)], "2 samples where others have 3"),
        ([{"id": 1, "responses": ["x", "y"], "correct": [True]}], "has 1 correct for 2 samples"),
    ],
)
def test_bad_files_are_one_line(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_groups(write(tmp_path / "r.jsonl", rows))


def test_more_than_there_is(tmp_path):
    groups = read_groups(write(tmp_path / "r.jsonl", [{"id": 1, "correct": [True, False]}]))
    with pytest.raises(UserError, match="k is 4 but r has 2 samples"):
        replay_rows(groups, "r", [1, 4])
    with pytest.raises(UserError, match="without verdicts"):
        replay_rows(read_groups(write(tmp_path / "s.jsonl", [{"id": 1, "responses": ["x"]}])), "s")


COT = "countdown_24/tot_gpt-4_0.7_naive_cot_sample_100_start900_end1000.visible.jsonl.gz"
STANDARD = "countdown_24/tot_gpt-4_0.7_naive_standard_sample_100_start900_end1000.visible.jsonl"
CODET = "code_samples/CodeT_HumanEval_codegen16B_pass_labels.visible.jsonl"
DEEPSCALER = "areal_eval_aime24-deepscaler_base_rollouts"
SALLOC = "areal_salloc_eval_aime24-20260412_230444_rollouts"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("replay/qwen_math_cot_100_rm.visible.jsonl.gz", "qwen_math_cot_100"),
        ("verify_cot/date_np.visible.jsonl.gz", "verify_cot_date_np"),
        (f"replay/{DEEPSCALER}.jsonl.gz", DEEPSCALER),
        (f"replay/{SALLOC}.jsonl.gz", SALLOC),
        ("replay/areal_math_answers_16.jsonl", "areal_math_answers_16"),
        (COT, "game24_naive_cot_sample_100"),
        (STANDARD, "game24_naive_standard_sample_100"),
        (CODET, "codet_humaneval_codegen16B"),
    ],
)
def test_recorded_figures(shared_data, file, name):
    expected = json.loads((shared_data / "expected_values.json").read_text())[name]
    wanted = {key: value for key, value in expected.items() if key.startswith("pass@")}
    groups = read_groups(shared_data / file)
    found = by_metric(replay_rows(groups, name, [int(key.removeprefix("pass@")) for key in wanted]))
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, abs=1e-9)
    if "best_of_8_rm" in expected:
        assert found["best_of_8"] == pytest.approx(expected["best_of_8_rm"])
