"""PRM800K in its two forms, alternatives and single steps: by hand, and the real files where at hand."""

import json

import pytest

from reasoner.scoring.aggregate import AGGREGATES
from tests.data.imported import NAN, one, read, same, write


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


def test_openai_rule_on_the_scored_samples(shared_data):
    """The product of 1 - p(negative) is the recorded score (Lightman et al. 2023, appendix F)."""
    expected = json.loads((shared_data / "expected_values.json").read_text())["openai_prm_score_rule"]
    trees, _ = read(shared_data / "prm800k/openai_scored_test_samples_found.jsonl")
    for tree, values in zip(trees, expected, strict=True):
        assert AGGREGATES["product"](tree.labels) == pytest.approx(values["recorded"], rel=1e-9)
        assert json.loads(tree.extra)["prm_score"] == pytest.approx(values["recorded"], rel=1e-12)
