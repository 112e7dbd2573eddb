"""Rows of every published format as they are typed by hand, and how tests read files of them."""

import json
import math

from reasoner.data.importers import Import

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
