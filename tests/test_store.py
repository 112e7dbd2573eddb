"""Trees and records on disk: exact round trips, whole shards only, and errors that say what to do."""

import errno
import json
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from reasoner import columns
from reasoner.records import OutcomeLabel, PolicySample, PreferencePair, SFTExample, StepLabels
from reasoner.registry import UserError
from reasoner.store import (
    TreeWriter,
    num_shards,
    put_trees,
    read_records,
    read_trees,
    write_records,
    write_text,
    write_trees,
)
from reasoner.tree import Node, Problem, Tree
from verifiers import Verdict

ROOT = Path(__file__).parent.parent
TENTH_32 = 0.10000000149011612  # the 32-bit float nearest to 0.1


def small_tree(id_: str = "p0") -> Tree:
    """A prompt, two samples, and a branch after the first token of one."""
    problem = Problem(
        id_, "2+2?", "math", {"answer": "4", "tests": [[1, "é"], {"k": None}]}, "math", "me", "MIT"
    )
    tree = Tree.of_prompt(problem, [5, 6, 7])
    tree.add(Node(0, 3, (10, 11, 151_935), (-0.5, -0.25, 0.0), (-1.5, -2.5, -0.125), (0.5, 1.0, 2.0), (1, 2)))
    tree.add(Node(0, 3, (12,), (-1.0,), (-1.0,), (0.0,), (0,), "length", 2**40, "policy", 0.3, "chosen"))
    tree.add(Node(1, 1, ()))
    tree.verdicts = {
        3: Verdict("incorrect", "wrong", 0.1, "5", "line one\nline two", "process", 1.5, 2.5),
        2: Verdict("no_answer", "unparseable"),
    }
    tree.scores = {"prm": {2: [0.75], 1: [0.5, 0.25]}, "value": {1: [1.0, -1.0]}, "orm": {}}
    return tree


def test_tree_round_trip_is_exact(tmp_path):
    assert write_trees(tmp_path, [small_tree()]) == 1
    assert list(read_trees(tmp_path)) == [small_tree()]


def test_dictionaries_keep_their_order(tmp_path):
    write_trees(tmp_path, [small_tree()])
    (tree,) = read_trees(tmp_path)
    assert list(tree.verdicts) == [3, 2]
    assert list(tree.scores) == ["prm", "value", "orm"]
    assert list(tree.scores["prm"]) == [2, 1]


def test_token_floats_are_rounded_to_32_bits_and_others_kept(tmp_path):
    tree = Tree.of_prompt(Problem("p", "q", "math", {}), [1])
    tree.add(Node(0, 1, (2, 3), (0.1, float("-inf")), propensity=0.1))
    tree.verdicts[1] = Verdict("correct", "ok", score=0.1)
    write_trees(tmp_path, [tree])
    (read,) = read_trees(tmp_path)
    assert read.nodes[1].logprobs == (TENTH_32, float("-inf"))
    assert read.nodes[1].propensity == 0.1
    assert read.verdicts[1].score == 0.1


def test_every_field_has_a_column():
    assert list(columns._PROBLEM) == [f.name for f in fields(Problem)]
    assert list(columns._NODE) == [f.name for f in fields(Node)]
    assert list(columns._VERDICT) == [f.name for f in fields(Verdict)]


def test_shards_split_and_continue(tmp_path):
    trees = [small_tree(f"p{i}") for i in range(45)]
    assert write_trees(tmp_path, iter(trees[:25]), rows_per_shard=20) == 25
    with TreeWriter(tmp_path, rows_per_shard=20) as writer:
        for tree in trees[25:]:
            writer.add(tree)
    names = ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [pq.read_metadata(tmp_path / name).num_rows for name in names] == [20, 5, 20]
    assert list(read_trees(tmp_path)) == trees


def test_long_trees_make_short_shards(tmp_path):
    tree = Tree.of_prompt(Problem("p", "q", "math", {}), [1] * 900_000)
    write_trees(tmp_path, [tree] * 4)
    assert [pq.read_metadata(path).num_rows for path in sorted(tmp_path.iterdir())] == [3, 1]


def test_other_readers_see_native_columns(tmp_path):
    import datasets
    import pandas

    write_trees(tmp_path / "trees", [small_tree(), small_tree("p1")])
    path = str(tmp_path / "trees" / "00000.parquet")
    row = datasets.Dataset.from_parquet(path, cache_dir=str(tmp_path / "cache"))[1]
    assert row["id"] == "p1"
    assert row["nodes"][1]["token_ids"] == [10, 11, 151_935]
    assert row["verdicts"][1] | {"node": 2, "status": "no_answer", "score": None} == row["verdicts"][1]
    assert row["scores"][0] == {"name": "prm", "node": 2, "values": [0.75]}
    assert json.loads(pandas.read_parquet(path)["reference"][0])["answer"] == "4"

    kinds = {f.name: f.type for f in pq.read_schema(path).field("nodes").type.value_type}
    assert str(kinds["token_ids"]).startswith("list<") and str(kinds["token_ids"].value_type) == "int32"
    assert str(kinds["logprobs"].value_type) == "float"
    assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"


def test_floats_are_stored_byte_by_byte_and_small(tmp_path):
    import random

    rng = random.Random(0)
    trees = [Tree.of_prompt(Problem(f"p{i}", "q", "math", {}), [1]) for i in range(20)]
    for tree in trees:
        for _ in range(10):
            floats = [tuple(-rng.expovariate(1) for _ in range(50)) for _ in range(3)]
            tree.add(Node(0, 1, tuple(rng.randrange(300) for _ in range(50)), *floats))
    write_trees(tmp_path, trees)
    path = tmp_path / "00000.parquet"
    group = pq.read_metadata(path).row_group(0)
    columns_ = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    for name in ("logprobs", "logprobs_full", "entropy"):
        assert "BYTE_STREAM_SPLIT" in columns_[f"nodes.list.element.{name}.list.element"].encodings
    assert "RLE_DICTIONARY" in columns_["nodes.list.element.token_ids.list.element"].encodings
    # three floats of 4 bytes and an id of 9 bits are 13.1 bytes a token; dictionaries of floats would make it 18
    assert path.stat().st_size < 13 * 20 * 10 * 50
    assert [n.token_ids for t in read_trees(tmp_path) for n in t.nodes] == [
        n.token_ids for t in trees for n in t.nodes
    ]


def test_duckdb_reads_the_shards(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    write_trees(tmp_path, [small_tree(), small_tree("p1")])
    rows = duckdb.sql(
        f"select id, nodes[2].token_ids, len(verdicts) from '{tmp_path}/*.parquet' order by id"
    ).fetchall()
    assert rows == [("p0", [10, 11, 151_935], 2), ("p1", [10, 11, 151_935], 2)]


def test_shards_are_put_and_read_by_number(tmp_path):
    assert num_shards(tmp_path / "none") == 0
    for number in (100_000, 2, 99_999):
        put_trees(tmp_path, number, [small_tree(str(number))])
    put_trees(tmp_path, 2, [small_tree("again"), small_tree("b")])
    put_trees(tmp_path, 3, [])
    assert num_shards(tmp_path) == 3
    assert [t.problem.id for t in read_trees(tmp_path)] == ["again", "b", "99999", "100000"]
    assert [t.problem.id for t in read_trees(tmp_path, 2)] == ["100000"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"garbage" * 100,
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
    ],
)
def test_torn_shard_is_dropped_with_a_message(tmp_path, caplog, damage):
    for i in range(3):
        write_trees(tmp_path, [small_tree(f"p{i}")])
    torn = tmp_path / "00001.parquet"
    torn.write_bytes(damage(torn.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert [tree.problem.id for tree in read_trees(tmp_path)] == ["p0", "p2"]
    assert str(torn) in caplog.text and "torn" in caplog.text


def test_one_flipped_bit_among_the_tokens_is_noticed(tmp_path, caplog):
    # Hardly compressible tokens: without a checksum the bit would only change a number.
    tokens = [i * i * 7919 % 150_001 for i in range(50_000)]
    write_trees(tmp_path, [Tree.of_prompt(Problem("p", "q", "math", {}), tokens)])
    path = tmp_path / "00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert list(read_trees(tmp_path)) == []
    assert "torn" in caplog.text


def test_writer_removes_leftovers_and_readers_ignore_them(tmp_path):
    write_trees(tmp_path, [small_tree()])
    leftover = tmp_path / ".00001.parquet.tmp"
    leftover.write_bytes(b"half a shard")
    assert len(list(read_trees(tmp_path))) == 1
    TreeWriter(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == ["00000.parquet"]


def test_exception_keeps_what_was_added(tmp_path):
    def trees():
        yield small_tree("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_trees(tmp_path, trees())
    assert [t.problem.id for t in read_trees(tmp_path)] == ["a"]


def test_sigkill_while_writing_leaves_whole_shards(tmp_path):
    code = (
        "import itertools, sys\nfrom tests.test_store import small_tree, write_trees\n"
        "write_trees(sys.argv[1], (small_tree(f'p{i}') for i in itertools.count()), rows_per_shard=5)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (tmp_path / "00004.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = [tree.problem.id for tree in read_trees(tmp_path)]
    assert before == [f"p{i}" for i in range(len(before))] and len(before) >= 25 and len(before) % 5 == 0
    write_trees(tmp_path, [small_tree("last")])
    assert [tree.problem.id for tree in read_trees(tmp_path)] == [*before, "last"]


def test_disk_full_is_a_user_error_and_leaves_nothing(tmp_path):
    code = (
        "import os, pathlib, random\nfrom tests.test_store import *\n"
        "folder = pathlib.Path('DISK')\n"
        "write_trees(folder, [small_tree()])\n"
        "big = [random.randrange(150_000) for _ in range(200_000)]\n"
        "tree = Tree.of_prompt(Problem('p', 'q', 'math', {}), big)\n"
        "try:\n    write_trees(folder, [tree])\nexcept UserError as error:\n    print(error)\n"
        "print(os.listdir(folder), len(list(read_trees(folder))))\n"
    )
    (tmp_path / "disk").mkdir()
    command = f"mount -t tmpfs -o size=256k disk {tmp_path}/disk && exec {sys.executable} -c '{{}}'"
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here to mount a small disk with")
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*namespace, command.format("")], capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk is not allowed here")
    script = code.replace("DISK", f"{tmp_path}/disk").replace("'", '"')
    shown = subprocess.run(
        [*namespace, command.format(script)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    message, state = shown.stdout.splitlines()
    assert message.startswith("got a full disk while writing") and "make room" in message
    needed = int(message.split("expected ")[1].split(";")[0].replace(",", ""))
    assert needed > 256_000
    assert state == "['00000.parquet'] 1"


def test_other_write_errors_are_not_called_a_full_disk(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as error:
        write_text(tmp_path / "file" / "x", "text")
    assert error.value.errno in (errno.ENOTDIR, errno.EEXIST)


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_nothing_to_read_is_a_user_error(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected Parquet shards; run the stage"):
        list(read_trees(tmp_path / name))
    with pytest.raises(UserError, match="expected Parquet shards; run the stage"):
        list(read_records(tmp_path / name, SFTExample))


@pytest.mark.parametrize("reference", [{"a": {1: 2}}, {"a": (1, 2)}, {"a": {1, 2}}, {"a": float("nan")}])
def test_reference_that_json_changes_is_a_user_error(tmp_path, reference):
    tree = Tree.of_prompt(Problem("p7", "q", "math", reference), [1])
    with pytest.raises(UserError, match="reference of problem 'p7' that JSON changes"):
        write_trees(tmp_path, [tree])


def test_unpaired_surrogate_is_escaped_with_a_message(tmp_path, caplog):
    tree = Tree.of_prompt(Problem("p", "half \ud83d", "math", {"text": "\ud83d"}), [1])
    write_trees(tmp_path, [tree])
    (read,) = read_trees(tmp_path)
    assert read.problem.prompt == "half \\ud83d"
    assert read.problem.reference == {"text": "\ud83d"}
    assert "surrogates" in caplog.text


SFT = SFTExample("p", "q", "a", [1, 2], [3], "gsm8k", "MIT")
RECORDS = [
    SFT,
    PreferencePair("p", "q", "good", "bad", [1], [2, 3], [], 0.1, False),
    StepLabels("p", "q", ["one", "two"], [0.1, 1.0], [1], [2, 3, 4], [0, 2], [8, 8], [1, 8], "hard", 3),
    OutcomeLabel("p", "q", "a", True, [1], [2]),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_record_round_trip_is_exact(tmp_path, record):
    assert write_records(tmp_path, iter([record] * 3), rows_per_shard=2) == 3
    assert list(read_records(tmp_path, type(record))) == [record] * 3


def test_step_without_label_stays_nan(tmp_path):
    write_records(tmp_path, [StepLabels("p", "q", ["one"], [float("nan")], [1], [2], [0])])
    (read,) = read_records(tmp_path, StepLabels)
    assert read.labels[0] != read.labels[0] and read.n == []


def test_records_of_another_type_are_a_user_error(tmp_path):
    write_records(tmp_path, [SFT])
    with pytest.raises(UserError, match=r"expected problem_id, prompt, chosen"):
        list(read_records(tmp_path, PreferencePair))


def test_record_that_is_not_flat_is_refused(tmp_path):
    @dataclass
    class Flat:
        x: int

    with pytest.raises(TypeError, match=r"PolicySample with \['tree'"):
        write_records(tmp_path, [PolicySample(small_tree(), {}, {}, {})])
    assert write_records(tmp_path, [Flat(1)]) == 1


STARVED = """
import os, resource, sys
from reasoner.registry import UserError
from reasoner.store import read_trees
if os.getuid() == 0:
    os.setgid(65533)
    os.setuid(65533)  # limits of processes do not bind root
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
try:
    print(len(list(read_trees(sys.argv[1]))), "trees")
except UserError as problem:
    print("refused:", problem)
"""


def test_a_machine_without_threads_left_drops_no_whole_shard():
    """The process really cannot start a thread; the shard is whole."""
    with tempfile.TemporaryDirectory() as name:  # where another user may read
        Path(name).chmod(0o755)
        write_trees(Path(name) / "trees", [small_tree()])
        done = subprocess.run(
            [sys.executable, "-c", STARVED, f"{name}/trees"],
            cwd=ROOT, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert "refused: got ArrowException" in done.stdout and "thread" in done.stdout, done.stdout + done.stderr
    assert "dropped" not in done.stderr


def test_rights_are_no_damage(tmp_path):
    write_trees(tmp_path / "trees", [small_tree()])
    (tmp_path / "trees" / "00001.parquet").mkdir()  # what cannot be opened, also by root
    with pytest.raises(UserError, match="says nothing of its content"):
        list(read_trees(tmp_path / "trees"))
