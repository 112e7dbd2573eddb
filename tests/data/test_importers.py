"""Importers: each published format by a hand-typed row, bad input named by its line, and the real files where at hand."""

import gzip
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasoner.data.importers import FORMATS, recognised
from reasoner.registry import UserError
from reasoner.store import write_records
from tests.data.imported import NAN, OUTCOMES, ROWS, one, read, same, solutions, write


def test_math_shepherd_is_aligned_by_character(tmp_path):
    text = "What? Step 1: No. Step 1: a + b ки\nStep 2: c ки\nStep 3: d\nStep 4: e ки"
    label = "What? Step 1: No. Step 1: a + b -\nStep 2: c +\nStep 3: d\nStep 4: e -"
    tree = one(tmp_path, {"input": text, "label": label, "task": "MATH"})
    assert tree.prompt == "What? Step 1: No."
    assert tree.steps == ["Step 1: a + b", "Step 2: c", "Step 3: d", "Step 4: e"]
    assert same(tree.labels, [0.0, 1.0, NAN, 0.0])  # - then + is kept; a step without its tag has no label
    assert tree.outcomes[-1] == 0.0 and tree.kind == "hard"


@pytest.mark.parametrize(
    ("text", "label", "reason"),
    [
        ("q step 1: a ки", "q step 1: b +", "input and label differ before character 12"),
        ("q ки Step 1: a ки", "q + Step 1: a +", "a tag stands inside the prompt"),
        ("q a ки", "q a +", "no 'Step 1:' begins the solution"),
        ("q Step 1: a", "q Step 1: a", "there is no 'ки' tag"),
        ("q Step 1: a ки", "q Step 1: a ?", "label '?' is neither + nor -, nor a number"),
        ("q Step 1: a ки ки", "q Step 1: a + +", "step 2 is empty"),
    ],
)
def test_irregular_math_shepherd_rows_are_named(tmp_path, text, label, reason):
    good = {"input": "q Step 1: a ки", "label": "q Step 1: a +", "task": "t"}
    rows = [good, {"input": text, "label": label, "task": "t"}]
    _, (report,) = read(write(tmp_path / "m.jsonl", rows))
    assert [(r.line, r.reason) for r in report.left_out] == [(2, reason)]


@pytest.mark.parametrize("name", ROWS)
def test_format(tmp_path, name):
    row, expected = ROWS[name]
    assert recognised(row) == name
    tree = one(tmp_path, {**row, "licence": "cc0"})
    found = solutions(tree)
    assert [texts for texts, _ in found] == [texts for texts, _ in expected]
    assert all(same(a, b) for (_, a), (_, b) in zip(found, expected, strict=True))
    assert tree.prompt == "q" and tree.licence == "cc0"
    assert [tree.outcomes[i] for i in tree.leaves() if not math.isnan(tree.outcomes[i])] == OUTCOMES.get(
        name, []
    )


def test_every_format_has_a_test():
    assert set(FORMATS) - set(ROWS) == {"prm800k", "prm800k_steps", "math_shepherd", "imported"}


def test_questions_tell_where_a_conversation_begins(tmp_path):
    turns = [{"role": "user", "content": "How many? First, a"}, {"role": "assistant", "content": "+"}]
    tree = one(tmp_path, {"conversations": turns}, questions=["How", "How many?"])
    assert (tree.prompt, tree.steps) == ("How many?", ["First, a"])
    with pytest.raises(UserError, match=r"line 1: nothing tells where the question ends"):
        one(tmp_path, {"conversations": turns})


def test_changed_question_of_prmbench_is_a_tree_of_its_own(tmp_path):
    row = {**ROWS["prm_bench"][0], "modified_question": "other"}
    trees, _ = read(write(tmp_path / "p.jsonl", [row]))
    assert [(t.prompt, t.labels) for t in trees] == [("other", [1, 0]), ("q", [1, 1])]


def test_bad_rows_are_named_and_the_rest_is_taken(tmp_path):
    good = {"prompt": "q", "completions": ["a", "b"], "labels": [0.5, 1.0]}
    rows = [
        good,
        '{"prompt": "q", ',
        {**good, "labels": [1.0]},
        {**good, "labels": [1.0, 1.5]},
        {"conversations": ROWS["rlhflow"][0]["conversations"]},
        {**good, "completions": ["a", "  "]},
        '{"prompt": "q", "completions": ["a"], "labels": [NaN]}',
        {**good, "prompt": ""},
        {"x": 1},
        "[1]",
        {**good, "completions": 3, "labels": []},
        {**good, "completions": [{"a": 1}, "b"]},
        {**good, "labels": ["perhaps", "no"]},
        "[" * 100_000,
        good,
    ]
    trees, (report,) = read(write(tmp_path / "t.jsonl", rows))
    assert len(trees) == report.num_taken == 2 and report.num_rows == 15
    reasons = {r.line: r.reason for r in report.left_out}
    assert sorted(reasons) == [*range(2, 15)]
    assert reasons[2].startswith("broken JSON")
    assert reasons[3] == "1 labels for 2 steps"
    assert reasons[4] == "label 1.5 is out of range, expected 0 to 1"
    assert reasons[5] == "a row of RLHFlow conversations in a file of TRL stepwise"
    assert reasons[6] == "step 2 is empty"
    assert reasons[7] == "label is NaN, expected 0 to 1"
    assert reasons[8] == "the problem is empty"
    assert reasons[9] == "keys of no known format: x"
    assert reasons[10] == "a JSON list, expected an object"
    assert reasons[13] == "label: 'perhaps' is no finite number; expected one"


def test_files_that_break_off_or_hold_nothing(tmp_path):
    rows = "".join(
        json.dumps({"prompt": f"q{i}", "completions": ["a"], "labels": [True]}) + "\n" for i in range(2000)
    )
    whole = gzip.compress(rows.encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    trees, (report,) = read(tmp_path / "cut.jsonl.gz")
    assert 0 < len(trees) < 2000 and "can't be read from here on" in report.left_out[-1].reason
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match=r"no usable row among its 1 \(line 1: no UTF-8"):
        read(tmp_path / "bytes.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="it is empty"):
        read(tmp_path / "empty.jsonl")
    with pytest.raises(UserError, match="no data at"):
        read(tmp_path / "nowhere")


def test_other_containers_and_what_was_imported_before(tmp_path):
    row = ROWS["trl"][0]
    (tmp_path / "array.json").write_text(json.dumps([row, 5, row]))
    trees, (report,) = read(tmp_path / "array.json")
    assert len(trees) == 2 and [r.line for r in report.left_out] == [2]
    pq.write_table(pa.Table.from_pylist([row, row]), tmp_path / "rows.parquet")
    assert len(read(tmp_path / "rows.parquet")[0]) == 2
    (tmp_path / "one.yaml").write_text("question: q\nsamples: [a, b]\nis_corrects: [true, false]\n")
    assert read(tmp_path / "one.yaml")[0][0].outcomes == [1.0, 0.0]
    write_records(tmp_path / "out", trees)
    assert repr(read(tmp_path / "out")[0]) == repr(trees)  # by text, since NaN differs from itself


def test_real_files(shared_data):
    expected = {  # rows taken of rows, trees
        "prm800k/openr_samples_prm800k.jsonl": (5, 6, 5),
        "prm800k/prm800k_raw_records_examples.jsonl": (4, 4, 4),
        "prm800k/openai_scored_test_samples_found.jsonl": (3, 3, 3),
        "math_shepherd_style/openr_samples_math-shepherd.jsonl": (7, 7, 7),
        "math_shepherd_style/openr_samples_math-aps.jsonl.gz": (3, 3, 3),
        "math_shepherd_style/openr_samples_math-aps-tree.jsonl": (3, 3, 3),
        "bigbench_mistake/multistep_arithmetic.jsonl": (300, 300, 300),
        "processbench/olympiadbench.jsonl.gz": (1000, 1000, 1000),
        "processbench/omnimath.jsonl.gz": (1000, 1000, 1000),
        "prmbench/prm800k_train_p1_first400_4o_circular.jsonl.gz": (398, 401, 399),
        "replay/treerl_output_8_4_2_2.visible.jsonl.gz": (149, 149, 149),
    }
    for name, counts in expected.items():
        trees, (report,) = read(shared_data / name)
        assert (report.num_taken, report.num_rows, len(trees)) == counts, name


@pytest.mark.parametrize("file", ["dyck_languages", "multistep_arithmetic", "tracking_shuffled_objects"])
def test_mistakes_and_answers_of_big_bench(shared_data, file):
    expected = json.loads((shared_data / "expected_values.json").read_text())[f"bigbench_mistake_{file}"]
    (path,) = (shared_data / "bigbench_mistake").glob(f"{file}.*")
    trees, (report,) = read(path)
    assert report.num_rows == expected["records"] and report.num_rows - report.num_taken == (
        file == "dyck_languages"
    )
    assert sum(all(label == 1 for label in t.labels) for t in trees) == expected["no_mistake"]
    assert sum(t.outcomes[t.leaves()[0]] == 1 for t in trees) == expected["answer_equals_target"]


@pytest.mark.parametrize(
    ("row", "labels", "outcome"),
    [
        ({"prompt": "q", "completions": ["a", "b"], "labels": ["True", "false"]}, [1.0, 0.0], NAN),
        ({"prompt": "q", "completions": ["a", "b"], "label": ["0.25", 1]}, [0.25, 1.0], NAN),
        (
            {"problem": "q", "steps": ["a", "b"], "label": "1", "final_answer_correct": "False"},
            [1.0, 0.0],
            0.0,
        ),
        ({"problem": "q", "steps": ["a", "b"], "label": -1.0, "final_answer_correct": "1"}, [1.0, 1.0], 1.0),
        ({"input": "q", "steps": ["a", "b"], "mistake_index": 1.0}, [1.0, 0.0], NAN),
        ({"input": "q", "steps": ["a", "b"], "mistake_index": NAN}, [1.0, 1.0], NAN),
        ({"modified_question": "q", "modified_process": ["a", "b"], "error_steps": ["2"]}, [1.0, 0.0], NAN),
        ({"question": "q", "process": "aки bки", "label": ["1", "no"]}, [1.0, 0.0], NAN),
        (
            {"question": "q", "sft_full": ["a", "b"], "q_values": ["1", "-1.0"], "final_Q": "0.5"},
            [1.0, 0.0],
            1.0,
        ),
        ({"prompt": "q", "answers": ["a"], "label": ["correct"]}, [NAN], 1.0),
        ({"question": "q", "samples": ["a"], "is_corrects": ["False"]}, [NAN], 0.0),
        ({"instruction": "q", "responses": ["a"], "next_response": "b", "rating": "-1"}, [NAN, 0.0], NAN),
    ],
)
def test_labels_and_verdicts_as_text_or_numbers(tmp_path, row, labels, outcome):
    tree = one(tmp_path, row)
    assert same(tree.labels, labels)
    assert same([tree.outcomes[tree.leaves()[0]]], [outcome])


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "q", "steps": ["a", "b"], "label": True, "final_answer_correct": True},
        {"problem": "q", "steps": ["a", "b"], "label": 0, "final_answer_correct": "unsure"},
        {"problem": "q", "steps": ["a", "b"], "label": 0.5, "final_answer_correct": True},
        {"instruction": "q", "responses": [], "next_response": "b", "rating": False},
        {"question": "q", "samples": ["a"], "is_corrects": [2]},
    ],
)
def test_what_could_be_read_either_way_is_left_out(tmp_path, row):
    with pytest.raises(UserError, match=r"no usable row among its 1 \(line 1: .*expected"):
        read(write(tmp_path / "data.jsonl", [row]))


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        (
            "mr_ben",
            {"Model_Solution_First_Error_Step": "4"},
            r"the first wrong step is 4, but .* numbered \[1, 2, 3\]",
        ),
        (
            "mr_ben",
            {"Model_Solution_First_Error_Step": "N/A"},
            "the solution is 'incorrect' with a first wrong step of",
        ),
        ("mr_ben", {"Model_Solution_Steps": ["Step 1: a", "Step 1: b"]}, ".*expected each number once"),
        (
            "reason_eval",
            {"model_output_solution_first_error_step": 3},
            "the first wrong step is 3, expected 1 to 2",
        ),
        (
            "reason_eval",
            {"model_output_solution_first_error_step": 0},
            "the first wrong step is 0, expected 1 to 2",
        ),
        (
            "reason_eval",
            {"model_output_solution_correctness": "correct"},
            "the solution is 'correct' with a first wrong",
        ),
        ("reason_eval_ratings", {"rating": [1, 1]}, "2 labels for 3 steps"),
        ("tree_rl", {"paths": [[{"answer": "a", "pass_ratio": 1.5}]]}, "pass_ratio 1.5 is out of range"),
        ("math_aps_states", {"states": [{"state": "", "mcs": 1}]}, "there are no steps"),
    ],
)
def test_labels_that_contradict_themselves_are_left_out(tmp_path, name, change, reason):
    with pytest.raises(UserError, match=rf"no usable row among its 1 \(line 1: {reason}"):
        one(tmp_path, {**ROWS[name][0], **change})


def test_mr_ben_as_it_is_published(tmp_path, shared_data):
    """One object of lists, by question, indented: 667 solutions, three of which number their steps anew."""
    with gzip.open(shared_data / "mr_ben/physics.jsonl.gz", "rt", encoding="utf-8") as lines:
        of_question = {row["_key"]: row["value"] for row in map(json.loads, lines)}
    (tmp_path / "physics.json").write_text(json.dumps(of_question, indent=2), encoding="utf-8")
    trees, (report,) = read(tmp_path / "physics.json")
    assert (report.format, report.num_rows, report.num_taken) == ("mr_ben", 667, 664)
    assert report.labels["bad"] == sum(0.0 in t.labels for t in trees) == 345
    assert "\nA: independent of M" in trees[0].prompt and trees[0].answer == "D"
