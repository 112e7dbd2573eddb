"""Samples made elsewhere: recorded verdicts, others' field names, the recorded figures, and bad files."""

import json

import pytest

from reasoner.evals.recorded import read_groups
from reasoner.evals.replay import replay_rows, verify_groups
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
        ([], "is empty"),
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


ROWS = [("a", True), ("a", False), ("b", False), ("b", False)]


SPELLED = [("True", "False"), ("true", "false"), ("1", "0"), ("yes", "no"), ("passed", "failed")]
SPELLINGS = [
    (key, *pair) for key in ("correct", "is_correct", "passed", "status", "label") for pair in SPELLED
]


@pytest.mark.parametrize(("key", "yes", "no"), [*SPELLINGS, ("reward", "1.0", "0.0"), ("reward", "5", "-5")])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_truth_values_as_text(tmp_path, key, yes, no, suffix):
    rows = [{"id": q, key: yes if right else no} for q, right in ROWS]
    path = tmp_path / f"r{suffix}"
    if suffix == ".csv":
        path.write_text(f"id,{key}\n" + "".join(f"{r['id']},{r[key]}\n" for r in rows))
    else:
        write(path, rows)
    found = by_metric(replay_rows(read_groups(path), "r"))
    assert found == {"pass@1": 0.25, "pass@2": 0.5, "pass^2": 0.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("correct", "maybe"),
        ("correct", ""),
        ("correct", 0.7),
        ("correct", -1),
        ("correct", [True, None]),
        ("correct", ["[1, 0]"]),
        ("reward", 0.1),
        ("reward", "much"),
        ("reward", float("nan")),
        ("status", "error"),
        ("infos", [{"s": 1}]),
    ],
)
def test_what_is_no_verdict_is_an_error_with_its_row(tmp_path, key, value):
    path = write(tmp_path / "r.jsonl", [{"id": "a", key: [True]}, {"id": "b", key: value}])
    with pytest.raises(UserError, match=r"^line 2 of .*r\.jsonl has a .*(expected|lies)"):
        read_groups(path)


@pytest.mark.parametrize("scores", [[None, 0.5], ["x", 0.5], [[], [1.0]], [float("inf"), 1.0]])
def test_what_is_no_score_is_an_error_with_its_row(tmp_path, scores):
    path = write(tmp_path / "r.jsonl", [{"id": "a", "correct": [1, 0], "scores": scores}])
    with pytest.raises(UserError, match=r"^line 1 of .* has a score that cannot be read"):
        read_groups(path)


def test_scores_of_steps_are_joined_in_each_usual_way(tmp_path):
    # the right one of two is ahead by its last step alone; its first, worst and product are behind
    scores = [["0.1", 0.2, 0.9], [0.5, 0.6, 0.7]]
    path = write(tmp_path / "r.jsonl", [{"id": "a", "correct": [True, False], "scores": scores}])
    rows = [r for r in replay_rows(read_groups(path), "r") if r.metric == "best_of_2"]
    assert {r.method: r.value for r in rows} == {
        "recorded score, last": 1.0, "recorded score, min": 0.0, "recorded score, product": 0.0,
    }  # fmt: skip


def test_one_id_in_every_row_does_not_merge_prompts(tmp_path):
    rows = [{"question_id": -1, "prompt": q, "correct": right} for q, right in ROWS]
    path = write(tmp_path / "r.jsonl", rows)
    assert [(g.prompt, g.correct) for g in read_groups(path)] == [("a", [True, False]), ("b", [False, False])]
    told = [{**row, "task_id": f"task {row['prompt']}"} for row in rows]  # another id tells them apart
    assert [g.id for g in read_groups(write(tmp_path / "t.jsonl", told))] == ["task a", "task b"]
    chats = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    assert [g.n for g in read_groups(write(tmp_path / "c.jsonl", chats))] == [2, 2]
    del rows[3]["prompt"]
    with pytest.raises(
        UserError, match="has one question_id for several problems, and rows without a prompt"
    ):
        read_groups(write(tmp_path / "s.jsonl", rows))


def test_ids_of_samples_do_not_part_a_problem(tmp_path):
    by_number = [
        {"idx": i, "question": q, "correct": right} for i, (q, right) in zip([0, 1, 0, 1], ROWS, strict=True)
    ]
    of_sample = [{"id": i, "question": q, "correct": right} for i, (q, right) in enumerate(ROWS)]
    for rows in (by_number, of_sample):
        groups = read_groups(write(tmp_path / "r.jsonl", rows))
        assert [(g.prompt, g.n) for g in groups] == [("a", 2), ("b", 2)]


def test_results_of_human_eval(tmp_path):
    rows = [
        {"task_id": "HumanEval/0", "completion": "x", "result": "passed", "passed": True},
        {"task_id": "HumanEval/0", "completion": "y", "result": "failed: division by zero", "passed": False},
    ]
    groups = read_groups(write(tmp_path / "samples.jsonl_results.jsonl", rows))
    assert groups[0].correct == [True, False] and groups[0].responses == ["x", "y"]


def test_arrays_and_byte_order_marks(tmp_path):
    rows = [{"id": q, "correct": right} for q, right in ROWS]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1), encoding="utf-8-sig")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8-sig")
    (tmp_path / "c.csv").write_text("id,correct\na,1\na,0\nb,0\nb,0\n", encoding="utf-8-sig")
    for name in ("a.json", "b.jsonl", "c.csv"):
        assert [(g.id, g.correct) for g in read_groups(tmp_path / name)] == [
            ("a", [True, False]),
            ("b", [False, False]),
        ]


def test_judged_answers_of_rlhflow_are_responses(tmp_path):
    for key in ("label", "labels"):
        row = {"prompt": "1+1", "answers": ["It is 2. ки\n", "It is 3. ки\n"], key: [1, 0]}
        (group,) = read_groups(write(tmp_path / "r.jsonl", [row]))
        assert group.correct == [True, False] and group.responses == row["answers"] and not group.answers


def test_what_nobody_judged_is_no_wrong_answer(tmp_path):
    path = write(
        tmp_path / "r.jsonl",
        [{"id": q, "prompt": q, "responses": ["#### 2", "#### 3"]} for q in ("1+1", "1+2")],
    )
    groups = read_groups(path)
    verify_groups(
        groups,
        [Problem("p", "1+1", "math", {"answer": "2"}), Problem("q", "1+2", "math", {"answer": []})],
        path,
    )
    assert [g.correct for g in groups] == [[True, False], [None, None]]
    found = by_metric(replay_rows(groups, "r"))
    assert found["pass@1"] == 0.5 and found["pass@2"] == 1.0 and found["unjudged"] == 0.5
    with pytest.raises(UserError, match="no sample of r could be judged"):
        replay_rows(groups[1:], "r")


def test_others_files_of_samples(shared_data):
    for file, num in (
        ("code_samples/LCB_O1-Mini-2024-09-12_codegeneration_1_0.2_eval_all.jsonl.gz", 880),
        ("replay/nemo_output-rs0.jsonl", 50),
    ):
        assert len(read_groups(shared_data / file)) == num
