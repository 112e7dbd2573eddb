"""Importers: each published format by hand-typed rows, bad input named by its line, and the real files where at hand."""

import gzip
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasoner.data.importers import FORMATS, Import, recognised
from reasoner.registry import UserError
from reasoner.scoring.aggregate import AGGREGATES
from reasoner.store import write_records

NAN = math.nan


def write(path, rows):
    lines = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    path.write_text(lines, encoding="utf-8")
    return path


def read(path, **options):
    source = Import(path, **options)
    trees = list(source)
    return trees, source.reports


def one(tmp_path, row, **options):
    """The only tree of a file with one row."""
    (tree,), _ = read(write(tmp_path / "data.jsonl", [row]), **options)
    return tree


def same(labels, expected):
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(labels, expected, strict=True))


def solutions(tree):
    """(texts, labels) of each root-to-leaf path."""
    paths = [tree.path(leaf) for leaf in tree.leaves()]
    return [([tree.steps[i] for i in p], [tree.labels[i] for i in p]) for p in paths]


def completion(text, rating):
    return {"text": text, "rating": rating, "flagged": False}


def labelled(completions, chosen=None, human=None):
    return {"completions": completions, "human_completion": human, "chosen_completion": chosen}


def labeler(steps, finish="solution", **row):
    return {
        "labeler": "L", "timestamp": "T", "generation": 3, "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {"problem": "1+1?", "ground_truth_answer": "2"},
        "label": {"steps": steps, "total_time": 5, "finish_reason": finish}, **row,
    }  # fmt: skip


def test_prm800k_alternatives_are_siblings_at_the_chosen_prefix(tmp_path):
    written = {"text": "h", "rating": None, "source": "human"}
    steps = [
        labelled([completion("a", -1), completion("b", 0), completion("c", 1)], chosen=2),
        labelled([completion("d", -1)], human=written),
        labelled([completion("so 2\n\n# Answer\n\n2", 1)], chosen=0),
    ]
    tree = one(tmp_path, labeler(steps))
    assert tree.steps == ["a", "b", "c", "d", "h", "so 2\n\n# Answer\n\n2"]
    assert tree.parents == [-1, -1, -1, 2, 2, 4]
    assert tree.labels == [0.0, 0.5, 1.0, 0.0, 1.0, 1.0]
    assert tree.authors == ["", "", "", "", "human", ""]
    assert tree.ends == [0, 0, 0, 0, 0, 1]
    assert (tree.answer, tree.licence, tree.kind) == ("2", "MIT", "human")
    assert json.loads(tree.extra)["label"] == {"total_time": 5, "finish_reason": "solution"}
    assert json.loads(tree.details[4]) == {"rating": None, "source": "human"}


def test_prm800k_gives_up(tmp_path):
    first, last = labelled([completion("c", 1)], chosen=0), labelled([completion("x", None)])
    assert one(tmp_path, labeler([first, last], "give_up")).steps == ["c"]
    assert one(tmp_path, labeler([first, last], "found_error")).steps == ["c", "x"]


def test_prm800k_leaves_out_control_rows_and_bad_ratings(tmp_path):
    good, bad = [labelled([completion("c", 1)], chosen=0)], [labelled([completion("c", 2)], chosen=0)]
    rows = [
        labeler(good, is_quality_control_question=True),
        labeler(good),
        labeler(good, is_initial_screening_question=True),
        labeler(bad),
    ]
    trees, (report,) = read(write(tmp_path / "p.jsonl", rows))
    assert len(trees) == 1
    assert [(r.line, r.reason) for r in report.left_out] == [
        (1, "a quality-control question"),
        (3, "an initial screening question"),
        (4, "rating 2 is out of range, expected -1, 0 or 1"),
    ]


def step_row(prefix, text, rating, **more):
    row = {"instruction": "q", "responses": prefix, "next_response": text, "answer": None}
    return {**row, "is_human_response": False, "rating": rating, **more}


def test_step_rows_become_one_tree_per_problem(tmp_path):
    rows = [
        step_row([], "a", 1.0), step_row([], "b", -1.0), step_row(["a"], "c", 0.0),
        step_row(["a"], "c", -1.0),  # the same words rated twice stay two siblings
        step_row(["a"], "h", None, is_human_response=True), step_row(["a", "h"], "e", None),
        step_row(["z"], "f", 1.0, answer="9"),  # a prefix that no row rates
        {**step_row([], "a", 1.0), "instruction": "other"},
    ]  # fmt: skip
    trees, (report,) = read(write(tmp_path / "p.jsonl", rows))
    tree = trees[0]
    assert tree.steps == ["a", "b", "c", "c", "h", "e", "z", "f"]
    assert tree.parents == [-1, -1, 0, 0, 0, 4, -1, 6]
    assert same(tree.labels, [1.0, 0.0, 0.5, 0.0, 1.0, NAN, NAN, 1.0])
    assert tree.lines == [1, 2, 3, 4, 5, 6, 7, 7]
    assert [t.prompt for t in trees] == ["q", "other"]
    assert (report.num_rows, report.num_taken, report.num_trees) == (8, 8, 2)


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


ROWS = {
    "trl": ({"prompt": "q", "completions": ["a", "b"], "labels": [True, False]}, [(["a", "b"], [1, 0])]),
    "openr": ({"question": "q", "process": "a ки\nb ки", "label": ["+", "-"]}, [(["a", "b"], [1, 0])]),
    "rlhflow": (
        {"conversations": [{"role": "user", "content": "q Step 1: a"}, {"role": "assistant", "content": "+"},
                           {"role": "user", "content": "Step 2: b"}, {"role": "assistant", "content": "-"}]},
        [(["Step 1: a", "Step 2: b"], [1, 0])],
    ),
    "rlhflow_test": (
        {"prompt": "q", "answers": ["a\n\nb", "a ки\nc ки"], "label": [1, 0]},
        [(["a", "b"], [NAN, NAN]), (["a", "c"], [NAN, NAN])],
    ),
    "process_bench": (
        {"id": "x-0", "generator": "G", "problem": "q", "steps": ["a", "b", "c"], "label": 1, "final_answer_correct": False},
        [(["a", "b", "c"], [1, 0, NAN])],
    ),
    "big_bench_mistake": (
        {"input": "q", "steps": ["a", "b"], "mistake_index": None, "target": "1", "answer": "1"},
        [(["a", "b"], [1, 1])],
    ),
    "prm_bench": (
        {"original_question": "q", "modified_question": "q", "original_process": ["a", "b"],
         "modified_process": ["a", "x"], "error_steps": [2], "classification": "circular"},
        [(["a", "x"], [1, 0]), (["a", "b"], [1, 1])],
    ),
    "mr_ben": (
        {"Question": "q", "Options": "", "Ground_Truth_Answer": "D", "Sampled_Model": "M",
         "Model_Solution_Steps": ["Step 1: a", "", "Step 2: b", "and more", "Step 3: c", "Solution: D"],
         "Model_Solution_Correctness": "incorrect", "Model_Solution_First_Error_Step": "2"},
        [(["Step 1: a", "Step 2: b\nand more", "Step 3: c\nSolution: D"], [1, 0, NAN])],
    ),
    "reason_eval": (
        {"id": 0, "question": "q", "ground_truth_answer": "1", "model_output": "a\nb\nc",
         "model_output_step_format": [["a"], ["b", "c"]], "model_output_answer_correctness": "correct",
         "model_output_solution_correctness": "wrong", "model_output_solution_first_error_step": 2},
        [(["a", "b\nc"], [1, 0])],
    ),
    "reason_eval_ratings": (
        {"question": "q", "model_output_step_format": [["a"], ["b"], ["c"]], "rating": [1, 0, -1]},
        [(["a", "b", "c"], [1, 0.5, 0])],
    ),
    "tree_rl": (
        {"problem": "q", "golden_answer": "1", "paths": [
            [{"answer": "a", "token_answer": [1], "reward": 0, "pass_ratio": 0.5, "value": 0.1, "state_value": 0.1},
             {"answer": " b<|user|>", "pass_ratio": 1.0}],
            [{"answer": "a", "pass_ratio": 0.5}, {"answer": " c<|user|>", "pass_ratio": 0.0}]]},
        [(["a", " b"], [0.5, 1]), (["a", " c"], [0.5, 0])],
    ),
    "math_aps_states": (
        {"q": "q", "states": [{"rollout": "x", "state": "", "mcs": 0.5}, {"rollout": "y", "state": "a", "mcs": 0.75},
                              {"rollout": "z", "state": "a", "mcs": 0.75}, {"rollout": "", "state": "a b", "mcs": 0.25}]},
        [(["a", " b"], [0.75, 0.25])],
    ),
    "math_aps": (
        {"question": "q", "final_answer": "1", "reasoning_steps": [
            {"solution_prefix": "q", "mc_value": 0.5}, {"solution_prefix": "q ab c", "mc_value": 0.25},
            {"solution_prefix": "q a", "mc_value": 0.75}]},
        [([" a", "b c"], [0.75, 0.25])],
    ),
    "math_aps_tree": (
        {"question": "q", "reasoning_steps": {"text": "q", "mc_value": 0.5, "children": [
            {"text": " a", "mc_value": 0.75, "children": [{"text": "q ab", "mc_value": 0.0, "children": []}]},
            {"text": " c", "mc_value": 1.0, "children": []}]}},
        [([" a", "b"], [0.75, 0]), ([" c"], [1])],
    ),
    "rest_mcts": (
        {"prompt_answer": "Problem: q\nSolution: Step 1: a\nStep 2: b", "label": 0.5},
        [(["Step 1: a", "Step 2: b"], [NAN, 0.5])],
    ),
    "rstar_pairs": (
        {"prompt": "q", "pos": ["a", "b", ""], "neg": ["c"], "pos_count": 2, "neg_count": 1},
        [(["a"], [1]), (["b"], [1]), (["c"], [0])],
    ),
    "rstar_steps": (
        {"question": "q", "prefix": "p", "chosen_step": "a", "rejected_step": "b", "step_margin": 0.5},
        [(["p", "a"], [NAN, 1]), (["p", "b"], [NAN, 0])],
    ),
    "rstar_solutions": (
        {"question": "q", "sft_full": ["a", "b"], "q_values": [0.5, -1.0], "final_Q": -1},
        [(["a", "b"], [0.75, 0])],
    ),
    "step_dpo": (
        {"prompt": "q", "initial_reason_steps": "p", "chosen": "a", "rejected": "b", "dataset": "d", "answer": "1"},
        [(["p", "a"], [NAN, 1]), (["p", "b"], [NAN, 0])],
    ),
    "search_and_learn": (
        {"problem": "q", "answer": "1", "completions": ["a\n\nb", "c"], "scores": [[0.5, 0.25], [1.0]], "pred": "1"},
        [(["a", "b"], [0.5, 0.25]), (["c"], [1])],
    ),
    "monkeys": (
        {"question": "q", "prompt": "few q", "samples": ["a", "b"], "gt_answer": "1", "is_corrects": [True, False]},
        [(["a"], [NAN]), (["b"], [NAN])],
    ),
    "scored_samples": (
        {"problem": "q", "steps": ["a"], "rating_probs": [{"-1": 0.25, "0": 0.25, "1": 0.5}], "is_correct": True,
         "prm_score": 0.75, "orm_score": 0.5},
        [(["a"], [0.75])],
    ),
}  # fmt: skip
OUTCOMES = {"reason_eval": [1], "tree_rl": [1, 0], "process_bench": [0], "big_bench_mistake": [1], "rlhflow": [0],
            "rlhflow_test": [1, 0], "rstar_solutions": [0], "monkeys": [1, 0], "scored_samples": [1]}  # fmt: skip


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


def raw_texts(record):
    for step in record["label"]["steps"]:
        yield from ((c["text"], c["rating"]) for c in step["completions"] or [])
        if step["human_completion"]:
            yield step["human_completion"]["text"], 1


def test_raw_prm800k_loses_nothing(shared_data):
    """Every completion with its rating stands in the tree, and the rest of the row beside it."""
    path = shared_data / "prm800k/prm800k_raw_records_examples.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    trees, _ = read(path)
    for record, tree in zip(records, trees, strict=True):
        if record["label"]["finish_reason"] == "give_up":
            continue
        in_tree = list(zip(tree.steps, tree.labels, strict=True))
        assert in_tree == [(text, (rating + 1) / 2) for text, rating in raw_texts(record)]
        extra = json.loads(tree.extra)
        assert extra["labeler"] == record["labeler"]
        assert {**extra["label"], "steps": record["label"]["steps"]} == record["label"]


def test_step_rows_of_prm800k(shared_data):
    trees, (report,) = read(shared_data / "prm800k/phase1_train_plus.stepwise-critic.jsonl.gz")
    assert (report.num_rows, report.num_taken, len({t.problem_id for t in trees})) == (51835, 51835, 900)
    labels = sum(report.labels[k] for k in ("good", "neutral", "bad"))
    written = sum(author == "human" for t in trees for author in t.authors)
    assert (labels - written, written) == (48672, 2341)  # rated by a person, and written by one
    assert report.labels["none"] == 822 and report.licences.keys() == {"MIT"}


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


def test_openai_rule_on_the_scored_samples(shared_data):
    """The product of 1 - p(negative) is the recorded score (Lightman et al. 2023, appendix F)."""
    expected = json.loads((shared_data / "expected_values.json").read_text())["openai_prm_score_rule"]
    trees, _ = read(shared_data / "prm800k/openai_scored_test_samples_found.jsonl")
    for tree, values in zip(trees, expected, strict=True):
        assert AGGREGATES["product"](tree.labels) == pytest.approx(values["recorded"], rel=1e-9)
        assert json.loads(tree.extra)["prm_score"] == pytest.approx(values["recorded"], rel=1e-12)


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
