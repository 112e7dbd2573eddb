"""Agreement with real data: labelled equivalence pairs, every math set's own gold, and code."""

import gzip
import json
from pathlib import Path

import pytest
from disagreements import DISAGREEMENTS

from verifiers import verify, verify_many
from verifiers.extract import boxed, final_answer


def _rows(path: Path) -> list[dict]:
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    return [json.loads(line) for line in content.decode().split("\n") if line]


def _reason(pair: dict) -> str | None:
    for (gold, end), reason in DISAGREEMENTS.items():
        if pair["gold"] == gold and pair["pred"].endswith(end):
            return reason
    return None


def _judge_pair(pair: dict) -> bool:
    """Our verdict under the pair's own way of finding the answer."""
    source, gold, pred = pair["source"], pair["gold"], pair["pred"]
    if "extraction_abc" in source:
        rule, gold = "choice", final_answer(gold, "choice")
    elif "rllm" in pair["semantics"]:
        rule = "boxed"
    else:
        rule = "last_math"
        if isinstance(gold, str) and (r"\boxed" in gold or len(gold) > 100):
            gold = final_answer(gold, "last_math")
    reference = {"answer": gold, "extract": rule}
    if "2.6667" in pred:
        reference["places"] = 2  # their test rounds there
    if "(9+1)" in pred:
        reference["worked_out"] = False  # theirs compares values
    return verify("math", pred, reference).status == "correct"


def test_equivalence_pairs(shared_data):
    pairs = [
        pair
        for pair in _rows(shared_data / "equivalence_pairs" / "equivalence_pairs.visible.jsonl")
        if pair["gold"] is not None and pair["pred"] is not None
    ]
    agreed = {True: 0, False: 0}
    for pair in pairs:
        same = _judge_pair(pair) == bool(pair["expected"])
        agreed[same] += 1
        if not same:
            assert _reason(pair), f"unexplained: {pair['gold']!r} <- {pair['pred'][-100:]!r}"
    assert agreed[True] + agreed[False] == 358
    main = [p for p in pairs if p["semantics"] in ("math-verify", "lighteval-extractive")]
    assert len(main) == 286
    assert sum(_judge_pair(pair) == bool(pair["expected"]) for pair in main) >= 0.95 * len(main)


def test_silver_labels_of_other_graders(shared_data):
    rows = _rows(shared_data / "equivalence_pairs" / "model_output_pairs_silver.visible.jsonl.gz")
    agreed = 0
    for row in rows:
        response = row["text"] if row["pred"] is None else rf"\boxed{{{row['pred']}}}"
        agreed += (verify("math", response, {"answer": row["gold"]}).status == "correct") == bool(
            row["label"]
        )
    assert len(rows) == 694
    assert agreed >= 689  # 7!/16 for 315 is left to calculate


def _gold(row: dict, name: str) -> str | None:
    if name.startswith("train"):
        return row["answer"].split("####")[1].strip()
    for key in ("answer", "final_answer", "target", "correct", "Answer"):
        if row.get(key) is not None:
            value = row[key]
            return ", ".join(value) if isinstance(value, list) else str(value)
    return boxed(row.get("solution") or "")


_MATH_SETS = [
    "MATH_test_minus_MATH500.jsonl.gz", "MATH_train_problem_answer.jsonl.gz", "aime24__test.jsonl",
    "aimo-validation-aime.jsonl.gz", "aimo-validation-amc.jsonl", "amc23__test.jsonl", "aqua__test.jsonl",
    "asdiv__test.jsonl.gz", "cmath__test.jsonl", "cn_middle_school__test.jsonl", "gaokao2024_mix__test.jsonl",
    "gaokao_math_cloze__test.jsonl", "mawps__addsub.jsonl",
    "mawps__multiarith.jsonl", "mawps__singleeq.jsonl",
    "mawps__singleop.jsonl", "olympiadbench__test.jsonl.gz", "sat_math__test.jsonl",
]  # fmt: skip


@pytest.mark.parametrize("name", [*_MATH_SETS, "train.jsonl.gz"])
def test_gold_written_back_is_correct(shared_data, name):
    folder = "gsm8k" if name.startswith("train") else "math"
    golds = [_gold(row, name) for row in _rows(shared_data / folder / name)]
    refused = []
    for gold in golds:
        if not gold:
            refused.append(gold)
            continue
        inner = gold if "$" in gold else f"${gold}$"
        forms = [(gold, "whole"), (rf"So \boxed{{{gold}}}.", "auto"), (inner, "whole")]
        if "\n" not in gold:
            forms.append((f"work\n#### {gold}", "auto"))
        verdicts = [verify("math", text, {"answer": gold, "extract": rule}) for text, rule in forms]
        if any(verdict.status != "correct" for verdict in verdicts):
            refused.append(gold)
    print(f"{name}: {len(golds) - len(refused)} of {len(golds)}; refused: {refused[:10]}")
    assert len(refused) <= 0.01 * len(golds), refused


_ALWAYS = (
    "class Always:\n"
    "    def __eq__(self, other): return True\n"
    "    def __ne__(self, other): return False\n"
    "    def __bool__(self): return True\n"
    "    def __len__(self): return 1\n"
    "    def __hash__(self): return 0\n"
    "    def __lt__(self, other): return True\n"
    "    __gt__ = __le__ = __ge__ = __lt__\n"
    "    def __abs__(self): return self\n"
    "    def __sub__(self, other): return self\n"
    "    __rsub__ = __add__ = __radd__ = __getitem__ = __sub__\n"
    "    def __iter__(self): return iter([self])\n"
)


def _statuses(requests) -> dict:
    return {name: verdict.status for name, verdict in verify_many(requests)}


def test_human_eval(shared_data):
    rows = _rows(shared_data / "code" / "HumanEval.jsonl")
    requests = []
    for row in rows:
        reference = {key: row[key] for key in ("prompt", "test", "entry_point")}
        always = f"{_ALWAYS}def {row['entry_point']}(*a, **k): return Always()\n"
        requests += [
            (("canonical", row["task_id"]), "code", row["canonical_solution"], reference),
            (("empty", row["task_id"]), "code", "    pass\n", reference),
            (("always", row["task_id"]), "code", always, reference),
        ]
    found = _statuses(requests)
    assert len(rows) == 164
    for (kind, task), status in found.items():
        assert status == ("correct" if kind == "canonical" else "incorrect"), (kind, task)


def test_mbpp_canonical_solutions(shared_data):
    rows = _rows(shared_data / "code" / "mbpp.visible.jsonl.gz")
    found = _statuses(
        (row["task_id"], "code", row["code"], {"asserts": row["test_list"], "setup": row["test_setup_code"]})
        for row in rows
    )
    assert len(rows) == 474
    assert [task for task, status in found.items() if status != "correct"] == []


@pytest.mark.slow
def test_mbpp_without_a_solution(shared_data):
    from verifiers.code_tests import _entries

    requests = []
    for row in _rows(shared_data / "code" / "mbpp.visible.jsonl.gz"):
        (name,) = _entries(row["test_list"])
        reference = {"asserts": row["test_list"], "setup": row["test_setup_code"]}
        requests.append(((row["task_id"], "empty"), "code", f"def {name}(*a, **k): pass\n", reference))
        always = f"{_ALWAYS}def {name}(*a, **k): return Always()\n"
        requests.append(((row["task_id"], "always"), "code", always, reference))
    assert set(_statuses(requests).values()) == {"incorrect"}


# Recorded without pandas and matplotlib, which these import behind their function; here they exist.
_CODET_DIFFERENCES = {("HumanEval/116", 51), ("HumanEval/50", 32), ("HumanEval/61", 5)}
_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


def _codet(shared_data: Path, tasks: slice) -> None:
    folder = shared_data / "code_samples"
    labels = _rows(folder / "CodeT_HumanEval_codegen16B_pass_labels.visible.jsonl")
    samples = "CodeT_HumanEval_codegen16B_temp0.8_topp0.95_num100_max300_code_solution.visible.jsonl.gz"
    problems = {row["task_id"]: row for row in _rows(folder / "CodeT_HumanEval_for_code_generation.jsonl")}
    requests, recorded = [], {}
    for label, sample in list(zip(labels, _rows(folder / samples), strict=True))[tasks]:
        problem = problems[label["task_id"]]
        reference = {key: problem[key] for key in ("prompt", "test", "entry_point")}
        for number, (status, text) in enumerate(zip(label["status"], sample["samples"], strict=True)):
            end = min([text.find(stop) for stop in _STOPS if stop in text] or [len(text)])
            recorded[label["task_id"], number] = status == "P"
            limits = {"cpu_s": 3.0, "extract": "raw"}
            requests.append(((label["task_id"], number), "code", text[:end], {**reference, **limits}))
    found = _statuses(requests)
    different = {key for key, passed in recorded.items() if (found[key] == "correct") != passed}
    assert different <= _CODET_DIFFERENCES
    assert not any(status == "error" for status in found.values())


@pytest.mark.slow
def test_recorded_codet_labels_of_four_tasks(shared_data):
    _codet(shared_data, slice(0, 4))


@pytest.mark.slow
def test_recorded_codet_labels(shared_data):
    _codet(shared_data, slice(None))
