"""Sets of programming problems in the forms in which they are published, with small rows and with real ones."""

import base64
import gzip
import json
import os
import pickle
import re
import zlib

import pyarrow
import pyarrow.parquet
import pytest

from reasoner.config import validate
from reasoner.data import packed
from reasoner.data.packed import unpack
from reasoner.data.programs import CONTEST_IMPORTS
from reasoner.data.sources import SourceConfig, load_items
from reasoner.registry import UserError
from verifiers import verify, verify_many


def items(name: str, path, **options):
    return load_items(validate(SourceConfig, {"name": name, "path": str(path), **options}, "test"))


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def status(problem, program: str) -> str:
    return verify("code", f"```python\n{program}\n```", problem.reference).status


def pack(value, protocol: int = 4) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()


# --- LiveCodeBench ---

SENIORS = {
    "question_title": "Number of Senior Citizens",
    "question_content": "Count the passengers over 60.",
    "platform": "leetcode",
    "question_id": "2727",
    "contest_id": "weekly-contest-345",
    "contest_date": "2023-07-01T00:00:00",
    "starter_code": "class Solution:\n    def countSeniors(self, details: List[str]) -> int:\n        ",
    "difficulty": "easy",
    "public_test_cases": json.dumps(
        [{"input": '["786M7522", "530F9211"]', "output": "2", "testtype": "functional"}]
    ),
    "private_test_cases": pack(
        json.dumps([{"input": '["131F4000", "292M1000"]', "output": "0", "testtype": "functional"}])
    ),
    "metadata": '{"func_name": "countSeniors"}',
}
SUM = {
    "question_content": "Print the sum of two numbers.",
    "question_id": "abc_a",
    "starter_code": "",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
    "private_test_cases": pack(json.dumps([{"input": "-5 5\n", "output": "0\n", "testtype": "stdin"}] * 3)),
    "metadata": "{}",
}


def test_livecodebench_as_published_is_judged_by_its_private_tests_too(tmp_path):
    seniors, total = (i.problem for i in items("livecodebench", write(tmp_path / "lcb.jsonl", SENIORS, SUM)))
    assert (seniors.id, total.id) == ("livecodebench/2727", "livecodebench/abc_a")
    assert seniors.reference["inputs"] == [[["786M7522", "530F9211"]], [["131F4000", "292M1000"]]]
    assert "Start from this code" in seniors.prompt and "131F" not in seniors.prompt
    right = SENIORS["starter_code"] + "return sum(int(d[4:6]) > 60 for d in details)"
    assert status(seniors, right) == "correct"  # List is imported by their judge, and so by ours
    assert status(seniors, right.replace("sum(int(d[4:6]) > 60 for d in details)", "2")) == "incorrect"
    assert len(total.reference["inputs"]) == 4
    assert status(total, "print(sum(map(int, input().split())))") == "correct"
    assert status(total, "print(3)") == "incorrect"


def test_the_imports_leave_python_as_it_is():
    program = f"{CONTEST_IMPORTS}\nprint(pow(2, 5, 7), bisect.bisect([1], 1), copy.deepcopy([1]), abs(-1), inf, sqrt(4))"
    assert verify("code", program, {"inputs": [""], "outputs": ["4 1 [1] 1 inf 2.0\n"]}).status == "correct"
    deep = f"{CONTEST_IMPORTS}\ndef f(n): return n and 1 + f(n - 1)\nprint(f(40_000))"
    assert verify("code", deep, {"inputs": [""], "outputs": ["40000\n"]}).status == "correct"


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("length", [1, 300, 100_000])
def test_packed_texts_are_what_pickle_would_load(protocol, length):
    value = [{"input": "ü\n" * length, "output": "\ud800"}]
    assert unpack(pack(json.dumps(value), protocol)) == value
    assert unpack(pack(json.dumps(value, ensure_ascii=False), protocol)) == value
    assert unpack(pack({"input_output": json.dumps(value)}, protocol)) == value  # as SandboxFusion has it
    assert unpack(json.dumps(value)) == value


class _Hostile:
    def __init__(self, folder):
        self.command = f"touch {folder}/owned"

    def __reduce__(self):
        return os.system, (self.command,)


def _truncated() -> str:
    return base64.b64encode(zlib.compress(pickle.dumps("[1]")[:-3])).decode()


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for value in (_Hostile(tmp_path), [json.dumps([1]), _Hostile(tmp_path)]):
            with pytest.raises(ValueError, match="does more than hold a text"):
                unpack(pack(value, protocol))
    assert not (tmp_path / "owned").exists()
    pickle.loads(pickle.dumps(_Hostile(tmp_path)))
    assert (tmp_path / "owned").exists()  # it would have


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("not base64!", "neither JSON nor base64 of zlib"),
        (base64.b64encode(b"plain").decode(), "neither JSON nor base64 of zlib"),
        (base64.b64encode(zlib.compress(b"")).decode(), "pickle"),
        (_truncated(), "pickle"),
        (pack("not JSON"), "no JSON"),
        (pack({}), "without a text"),
        (pack("[" + " " * 5000 + "]"), "more than 0 MB"),
    ],
)
def test_what_cannot_be_unpacked_is_one_line(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(packed, "_MAX_BYTES", 4000)
    row = {**SUM, "private_test_cases": text}
    with pytest.raises(
        UserError, match=f"row 0 of .*private_test_cases cannot be read: .*{message}"
    ) as caught:
        items("livecodebench", write(tmp_path / "lcb.jsonl", row))
    assert "\n" not in str(caught.value)


def test_a_tested_function_without_a_name_is_one_line(tmp_path):
    with pytest.raises(UserError, match="tests a function without a name"):
        items(
            "livecodebench", write(tmp_path / "lcb.jsonl", {**SENIORS, "metadata": "{}", "starter_code": ""})
        )


def test_packed_tests_of_a_real_file(shared_data):
    rows = rows_of(shared_data / "code/SandboxFusion_code_eval_live_code_bench_v1.jsonl")
    found = [unpack(row["test"]) for row in rows]
    assert [tests["fn_name"] for tests in found] == [None, "countSeniors", None]
    assert all(len(tests["inputs"]) == len(tests["outputs"]) > 0 for tests in found)


# --- APPS ---


def apps_row(number: int, question: str, input_output, **more) -> dict:
    return {
        "problem_id": number,
        "question": question,
        "solutions": json.dumps(["print(sum(map(int, input().split())))"]),
        "input_output": json.dumps(input_output) if input_output is not None else "",
        "difficulty": "interview",
        "url": "https://example.org/problem",
        "starter_code": "",
        **more,
    }


def test_apps_as_published(tmp_path):
    missing = {"fn_name": "missing", "inputs": [[[2, 3, 4, 7, 11], 5], [[1, 2], 2]], "outputs": [9, 4]}
    wrapped = {"fn_name": "is_odd", "inputs": [[1], [2]], "outputs": [[True], [False]]}
    keyed = {"fn_name": "swap", "inputs": [[{"1": "a"}]], "outputs": [{"2": "a"}]}
    path = write(
        tmp_path / "apps.jsonl",
        apps_row(0, "Add two numbers.", {"inputs": ["1 2\n", "3 4"], "outputs": ["3\n", "7"]}),
        apps_row(1, "Lines.", {"inputs": [["2", "5", "6"]], "outputs": [["5", "6"]]}),
        apps_row(
            2, "Missing.", missing, starter_code="class Solution:\n    def missing(self, a: List[int], k): "
        ),
        apps_row(3, "Odd.", wrapped),
        apps_row(4, "Swap.", keyed),
        apps_row(5, "Untested.", None),
        apps_row(6, "Untested too.", {"inputs": [], "outputs": []}),
    )
    with pytest.warns(UserWarning, match="apps: 2 rows have no tests and are left out"):
        found = items("apps", path)
    total, lines, gap, odd, swap = (item.problem for item in found)
    assert total.id == "apps/0" and found[0].solution.startswith("```python\nprint(sum(")
    assert verify("code", found[0].solution, total.reference).status == "correct"
    assert status(lines, "for _ in range(int(input())): print(input())") == "correct"
    assert gap.reference["outputs"] == [9, 4]
    body = "return [n for n in range(1, 99) if n not in a][k - 1]"
    assert status(gap, f"class Solution:\n    def missing(self, a: List[int], k): {body}") == "correct"
    for program in ("def is_odd(n): return n % 2 == 1", "def is_odd(n): return [n % 2 == 1]"):
        assert status(odd, program) == "correct"
    assert status(odd, "def is_odd(n): return n % 2") == "incorrect"  # 1 is not True
    assert status(swap, "def swap(d): return {k + 1: v for k, v in d.items()}") == "correct"


def test_numbers_longer_than_python_reads_from_text():
    digits = "7" * 5000
    assert unpack(f"[{digits}]") == [int(digits[:4000]) * 10**1000 + int(digits[4000:])]


def test_solutions_of_real_apps_rows_pass(shared_data):
    path = shared_data / "code_samples/coderl_apps_train_5_with_generations.jsonl"
    found = items("apps", path)
    assert [i.problem.id for i in found] == [f"apps/{n}" for n in ("0001", "0111", "2287", "2404", "4184")]
    for row, item in zip(rows_of(path), found, strict=True):
        assert status(item.problem, row["solutions"][0]) == "correct", item.problem.id
        assert status(item.problem, "pass") == "incorrect", item.problem.id


# --- CodeContests ---

SOLUTION = "print('Yes' if int(input()) % 2 else 'No')"
CONTEST = {
    "name": "1_A. Odd",
    "description": "Is the number odd?",
    "public_tests": {"input": ["1\n"], "output": ["YES\n"]},
    "private_tests": {"input": ["2\n", "4\n"], "output": ["NO\n", "NO\n"]},
    "generated_tests": {"input": [], "output": []},
    "source": 2,
    "solutions": {"language": [2, 1, 3], "solution": ["int main() {}", "print 1", SOLUTION]},
    "time_limit": {"seconds": 1, "nanos": 500_000_000},
    "memory_limit_bytes": 256_000_000,
    "input_file": "",
    "output_file": "",
}
FILES = {**CONTEST, "description": "Reads a file.", "input_file": "odd.in"}
FREE = {**CONTEST, "name": "Half", "description": "Halve.", "time_limit": None, "memory_limit_bytes": 0,
        "public_tests": {"input": ["3\n"], "output": ["1.5\n"]}}  # fmt: skip


def test_code_contests_as_published(tmp_path):
    path = tmp_path / "contests.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([CONTEST, FILES]), path)
    with pytest.warns(UserWarning, match="code_contests: 1 rows read or write files and are left out"):
        (item,) = items("code_contests", path)
    reference = item.problem.reference
    assert (reference["cpu_s"], reference["memory_mb"]) == (1.5, 244)
    assert reference["inputs"] == ["1\n", "2\n", "4\n"]
    assert item.solution == f"```python\n{SOLUTION}\n```"  # the first in Python 3; Yes is YES
    assert verify("code", item.solution, reference).status == "correct"
    assert status(item.problem, "print('YES')") == "incorrect"


def test_code_contests_tests_in_every_shape(tmp_path):
    names = ("public_tests", "private_tests", "generated_tests")
    pairs = {
        key: [
            {"input": a, "output": b}
            for a, b in zip(CONTEST[key]["input"], CONTEST[key]["output"], strict=True)
        ]
        for key in names
    }
    joined = {"problem": CONTEST["description"], "tests": {"inputs": ["1\n", "2\n", "4\n"],
                                                         "outputs": ["YES\n", "NO\n", "NO\n"]}}  # fmt: skip
    shapes = [
        CONTEST,
        {**CONTEST, **pairs},
        {**CONTEST, **{key: json.dumps(pairs[key]) for key in names}},
        joined,
    ]
    references = []
    for n, row in enumerate(shapes):
        (item,) = items("code_contests", write(tmp_path / f"{n}.jsonl", row))
        references.append({key: item.problem.reference[key] for key in ("inputs", "outputs")})
    assert references == [references[0]] * 4


def test_code_contests_without_limits_has_the_verifiers_own(tmp_path):
    (item,) = items("code_contests", write(tmp_path / "free.jsonl", FREE))
    assert not {"cpu_s", "memory_mb"} & set(item.problem.reference)
    row = {**FREE, "private_tests": {"input": [], "output": []}}
    (item,) = items("code_contests", write(tmp_path / "half.jsonl", row))
    assert status(item.problem, "print(int(input()) / 2 + 1e-7)") == "correct"
    assert status(item.problem, "print(int(input()) / 2 + 1e-3)") == "incorrect"


def test_code_contests_without_tests_is_one_line(tmp_path):
    bare = {key: value for key, value in CONTEST.items() if not key.endswith("_tests")}
    with pytest.raises(UserError, match=r"row 0 of .* has no tests"):
        items("code_contests", write(tmp_path / "bare.jsonl", bare))


# --- recorded verdicts of other judges ---

NO_PROGRAM = (
    "a return or nonlocal outside any function: their judge puts programs into one, Python refuses it"
)
SEVERAL_ANSWERS = "the problem accepts any of several outputs, its tests know one"
APPS_OTHERWISE = {
    **dict.fromkeys(("4014", "4023", "4031", "4045", "4052", "4053", "4056", "4070", "4101"), NO_PROGRAM),
    **dict.fromkeys(("4008", "4038", "4040", "4050", "4078", "4080"), SEVERAL_ANSWERS),
}


@pytest.mark.slow
def test_accepted_apps_solutions_pass(shared_data):
    """The first solution that each problem is published with; what we judge otherwise is named."""
    path = shared_data / "code/apps_test_subset_openr.visible.jsonl.gz"
    found = {i.problem.id: i.problem for i in items("apps", path)}
    rows = {f"apps/{row['apps_id']}": row["solutions"][0] for row in rows_of(path)}
    requests = ((n, "code", f"```python\n{rows[n]}\n```", problem.reference) for n, problem in found.items())
    verdicts = dict(verify_many(requests))
    different = {n: (v.reason, v.score, v.detail) for n, v in verdicts.items() if v.status != "correct"}
    print(f"{len(verdicts)} problems, {len(different)} otherwise:", *sorted(different.items()), sep="\n")
    assert len(verdicts) == 63
    assert set(different) == {f"apps/{number}" for number in APPS_OTHERWISE}


@pytest.mark.slow
def test_what_livecodebench_graded_as_right_passes(shared_data):
    """Programs that its judge accepted, on the tests that we have of the same problems: all pass."""
    plain = re.compile(r"\s+")
    problems = {plain.sub(" ", row["problem"]).strip(): row for row in
                rows_of(shared_data / "code/livecodebench_rllm_test.visible.jsonl.gz")}  # fmt: skip
    graded = rows_of(
        shared_data / "code_samples/LCB_O1-Mini-2024-09-12_codegeneration_1_0.2_eval_all.jsonl.gz"
    )
    loaded = {plain.sub(" ", i.problem.prompt.partition("\nStart from this code:")[0]).strip(): i.problem for i in
              items("livecodebench", shared_data / "code/livecodebench_rllm_test.visible.jsonl.gz")}  # fmt: skip
    requests = []
    for row in graded:
        text = plain.sub(" ", row["question_content"]).strip()
        if text in problems and row["graded_list"] == [True]:
            reference = {**loaded[text].reference, "extract": "whole"}
            requests.append((row["question_id"], "code", row["code_list"][0], reference))
    verdicts = dict(verify_many(requests))
    different = {n: (v.reason, v.score, v.detail) for n, v in verdicts.items() if v.status != "correct"}
    print(
        f"{len(verdicts)} accepted programs, {len(different)} otherwise:",
        *sorted(different.items()),
        sep="\n",
    )
    assert len(verdicts) == 290
    assert not different
