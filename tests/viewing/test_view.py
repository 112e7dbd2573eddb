"""`reasoner view` over HTTP: what pages and answers hold, that nothing of a model acts, and lines for what is broken."""

import json
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import httpx
import pytest
import uvicorn
from run_folders import HARM, save_labels, save_run, small_tree, tokenizer, wide_tree

from reasoner.folder import LOCK
from reasoner.records import OutcomeLabel
from reasoner.registry import UserError
from reasoner.report.charts import Curve, curves_chart
from reasoner.store import put_records, write_trees
from reasoner.tree import Node
from reasoner.viewing import trees
from reasoner.viewing.app import application
from reasoner.viewing.labels import read_labels
from reasoner.viewing.runs import named, read_run
from tests import warm

PLACE = {"run": "run", "stage": "verify"}
MARKUP = ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "srcdoc")
FIRST = {**PLACE, "shard": 0, "row": 0}


class Browser:
    """A server on a free port in a thread, and questions to it."""

    def __init__(self, *folders: Path):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(application(named(list(folders))), log_level="error")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)
        self.thread.start()

    def get(self, path: str, **asked) -> httpx.Response:
        return httpx.get(f"{self.url}/{path}", params=asked, timeout=60)

    def api(self, what: str, **asked):
        told = self.get(f"api/{what}", **asked)
        assert told.status_code == 200, told.text
        return told.json()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    save_run(folder / "run", [small_tree(i) for i in range(70)])
    save_run(folder / "other", [], done=False)
    shutil.copytree(folder / "other", folder / "harm")
    hostile = small_tree(0, HARM, f"3 + 4 = 7\n{HARM}", name=HARM)
    write_trees(folder / "harm/trees/verify", [hostile])
    return folder


@pytest.fixture(scope="module")
def browser(runs):
    made = Browser(runs / "run", runs / "other", runs / "harm")
    yield made
    made.close()


def test_curves_of_several_runs_lie_over_each_other(browser):
    page = browser.get("").text
    assert (
        page.count('class="curve run0"') == page.count('class="curve run1"') == 1
    )  # sft/loss, each run's own
    assert "loss" in page and '<ul class="legend">' in page and "verify <i>waiting</i>" in page
    svg = curves_chart("x", {0: Curve("x", [0.0, 10.0], [0.0, 4.0]), 7: Curve("x", [0.0, 20.0], [0.0, 8.0])})
    assert 'class="curve run1"' in svg and svg.count("<polyline") == 2 and ">8<" in svg
    cost = browser.get("cost").text
    assert "1.23k" in cost and "7.5 s" in cost


def test_the_list_counts_nodes_verdicts_tokens_and_what_was_pruned(browser):
    rows = browser.api("trees", **PLACE)
    assert len(rows) == 70 and [row["row"] for row in rows[:3]] == [0, 1, 2]
    tree = small_tree()
    assert rows[3] == {
        "shard": 0, "row": 3, "id": "p3", "prompt": "3 + 4", "nodes": 3, "correct": 1, "judged": 2,
        "tokens": tree.num_sampled, "pruned": 1,
    }  # fmt: skip


def test_of_very_many_trees_the_first_are_shown(runs, monkeypatch):
    monkeypatch.setattr(trees, "MAX_TREES", 3)
    folder = runs / "run/trees/verify"
    assert [row["id"] for row in trees.overview(folder)] == ["p0", "p1", "p2"]
    assert [chain["id"] for chain in trees.chains(folder)] == ["p0", "p0", "p1", "p1", "p2", "p2"]


def test_a_tree_has_steps_with_text_scores_values_and_entropy(browser):
    tree = browser.api("tree", **FIRST)
    first, branch, cut = tree["nodes"][1:]
    assert [s["text"] for s in first["steps"]] == ["3 + 4 = 7\n", "so 7"]
    assert [s["scores"]["prm"] for s in first["steps"]] == pytest.approx([0.9, 0.8], abs=1e-4)
    # from the first step's end: its own rest is right, one branch wrong, one planned with a chance of a half and not drawn
    assert first["steps"][0]["value"] == pytest.approx(1 / 3, abs=1e-3) and first["steps"][1]["value"] == 1
    assert first["steps"][0]["entropy"] == 0.25 and first["steps"][0]["logprob"] == -0.5
    assert (branch["parent"], branch["verdict"], branch["steps"][0]["entropy"]) == (1, "incorrect", None)
    assert cut["pruned"] and cut["stop"] == "pruned:low" and cut["propensity"] == 0.5 and cut["steps"] == []
    node = browser.api("node", **FIRST, node=2)
    assert [step["text"] for step in node["path"]] == ["3 + 4 = 7\n", "so the answer is 7"]
    assert node["verdict"]["status"] == "incorrect" and node["tokens"][0][2] == -1.0
    assert "".join(token[0] for token in node["tokens"]) == "so the answer is 7"


def test_steps_have_their_counts_the_posterior_and_the_labels_of_label_stages(tmp_path):
    run = save_run(tmp_path / "run", [small_tree(0)])
    write_trees(run / "trees/verify", [small_tree(1), small_tree(2)])
    save_labels(run, 1, [small_tree(1), small_tree(2)])  # of the second shard alone
    browser = Browser(run)
    tree = browser.api("tree", **PLACE, shard=1, row=1)
    assert tree["labels"] == ["label hard", "label soft"] and tree["notes"] == []
    first, second = tree["nodes"][1]["steps"]
    # one continuation was drawn from the first step's end, a wrong one: Beta(1, 2), with 1 - (1 - x)^2 below x
    told = first["counts"]
    assert (told["n"], told["c"], told["errors"]) == (1, 0, 0)
    assert told["posterior"] == pytest.approx([1 / 3, 1 - 0.975**0.5, 1 - 0.025**0.5], abs=1e-4)
    assert tree["from_prompt"]["n"] == tree["from_prompt"]["c"] == 1 and second["counts"] is None
    assert first["labels"] == {"label hard": 0, "label soft": 0}
    assert second["labels"] == {"label hard": 1, "label soft": 1}  # its own verdict
    assert tree["nodes"][2]["steps"][0]["labels"] == {}  # was drawn to judge the state before
    path = browser.api("node", **PLACE, shard=1, row=1, node=2)["path"]
    assert path[0]["labels"] == first["labels"] and path[0]["counts"] == told
    unlabelled = browser.api("tree", **PLACE, shard=0, row=0)
    assert [step["labels"] for node in unlabelled["nodes"] for step in node["steps"]] == [{}, {}, {}]
    put_records(run / "records/label/soft", 1, [OutcomeLabel("p1", "", "", True, [], [])])
    tree = browser.api("tree", **PLACE, shard=1, row=1)
    browser.close()
    assert tree["labels"] == ["label hard"] and "soft/00001.parquet with the columns" in tree["notes"][0]


def test_of_chains_with_the_same_tokens_each_has_its_own_labels(tmp_path):
    tree = small_tree()
    twin = tree.add(tree.nodes[1])  # the model wrote the first chain twice; only the first one was continued
    tree.verdicts[twin] = tree.verdicts[1]
    run = save_run(tmp_path / "run", [tree])
    save_labels(run, 0, [tree], ("soft",))
    found = read_labels(run / "trees/verify", 0, tree).labels
    first = tree.nodes[1].step_ends[0] + 1
    assert found[1, first] == {"label soft": 0} and (twin, first) not in found
    assert [found[i, len(tree.nodes[i].token_ids)] for i in (1, twin)] == [{"label soft": 1}] * 2


def test_labels_are_looked_for_in_the_run_alone(tmp_path):
    run = save_run(tmp_path / "run", [small_tree()])
    save_labels(run, 0, [small_tree()], ("soft",))
    shutil.copytree(run / "records", tmp_path / "elsewhere")
    label = {"kind": "label", "trees": "verify"}
    stages = [{**label, "name": "../../elsewhere/label", "kinds": ["soft"]}, {**label, "name": "..", "kinds": ["records"]},
              {**label, "name": "label", "kinds": ["../label/soft", 3]}, {**label, "name": "label", "kinds": 7}, "x"]  # fmt: skip
    for given in (stages, 5):
        (run / "config.yaml").write_text(json.dumps({"stages": given}))
        found = read_labels(run / "trees/verify", 0, small_tree())
        assert (found.labels, found.names, found.notes) == ({}, [], [])


def test_a_step_that_begins_in_the_parent_is_told_whole(tmp_path):
    tree = small_tree()
    tree.add(Node(1, 2, tuple(tokenizer()(" 5", add_special_tokens=False).input_ids), step_ends=(1,)))
    save_run(tmp_path / "run", [tree])
    browser = Browser(tmp_path / "run")
    (step,) = browser.api("node", **FIRST, node=4)["path"]
    browser.close()
    begun = tokenizer().decode(tree.nodes[1].token_ids[:2])
    assert step["text"] == f"{begun} 5" and step["node"] == 4


def test_chains_are_searched_and_false_positives_come_first(browser):
    told = browser.api("chains", **PLACE)
    assert told["scores"] == ["prm", "likelihood"] and told["all"] == 140 and len(told["chains"]) == 50
    assert [c["verdict"] for c in told["chains"]] == ["incorrect"] * 50
    assert [c["id"] for c in told["chains"][:3]] == ["p0", "p1", "p2"]  # the PRM likes p0's wrong chain most
    # the least of its steps, also of the part that it shares: 0.9 of 0.9 and 0.95
    assert told["chains"][0]["scores"]["prm"] == pytest.approx(0.9)
    # by the model's own likelihood the right chains have the higher score, and the wrong ones still come first
    likely = browser.api("chains", **PLACE, score="likelihood")["chains"]
    assert {c["verdict"] for c in likely} == {"incorrect"} and max(
        c["scores"]["likelihood"] for c in likely
    ) < 0.6
    right = browser.api("chains", **PLACE, verdict="correct", start=50)
    assert right["found"] == 70 and {c["verdict"] for c in right["chains"]} == {"correct"}
    assert len(right["chains"]) == 20
    assert browser.api("chains", **PLACE, problem="P69")["found"] == 2
    assert browser.api("chains", **PLACE, low=0.85)["found"] == 70
    assert browser.api("chains", **PLACE, low=0.85, verdict="correct")["found"] == 0


def test_nothing_of_a_model_can_act(browser):
    for path in ("", "trees", "chains", "cost", "static/trees.js", "api/trees", "static/none.js"):
        told = browser.get(path)
        policy = told.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert (
            "http:" not in policy
            and "*" not in policy
            and told.headers["x-content-type-options"] == "nosniff"
        )
        if told.headers["content-type"].startswith("text/html"):
            assert (
                "<script>" not in told.text
                and "onerror=alert(1)>" not in told.text
                and " style=" not in told.text
            )
    asked = {**FIRST, "run": "harm"}
    for answer in (browser.get("api/tree", **asked), browser.get("api/node", **asked, node=1)):
        assert answer.headers["content-type"].startswith("application/json")
        text = json.dumps(answer.json(), ensure_ascii=False)
        assert "\\\\u202e" in text and "\\\\u001b" in text and "\u202e" not in text and "<script>" in text
    for script in ("parts.js", "trees.js", "chains.js"):
        source = browser.get(f"static/{script}").text
        assert not [word for word in MARKUP if word in source]


def test_only_this_machine_may_ask_and_only_read(browser):
    assert httpx.get(browser.url, headers={"host": "evil.example"}).status_code == 400
    assert httpx.post(f"{browser.url}/api/trees").status_code == 405
    for path in ("static/..%2Fapp.py", "static/%2e%2e/app.py", "static/icon.svg/../../app.py"):
        assert httpx.get(f"{browser.url}/{path}").status_code == 404
    told = browser.get("api/trees", run="run", stage="../..")
    assert told.status_code == 422 and "expected one of verify" in told.json()["error"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"shard": 0, "row": 70}, "tree 70 of shard 0"),
        ({"shard": -1, "row": 0}, "shard -1"),
        ({"shard": "x", "row": 0}, "shard='x'"),
        ({"row": 0}, "expected a number"),
        ({"shard": 0, "row": 0, "stage": "ppo"}, "stage 'ppo'"),
        ({"shard": 0, "row": 0, "run": "none"}, "run 'none'"),
    ],
)
def test_what_is_not_there_is_a_line(browser, asked, said):
    told = browser.get("api/tree", **{**PLACE, **asked})
    assert told.status_code == 422 and said in told.json()["error"]
    assert browser.get("api/node", **FIRST, node=9).status_code == 422


def test_megabytes_of_text_are_clipped(tmp_path):
    tree = small_tree(0, "x" * 10_000_000, name="y" * 1_000_000)
    ids = tree.nodes[1].token_ids * 20_000
    tree.nodes[1] = Node(0, len(tree.nodes[0].token_ids), ids, step_ends=(len(ids) - 1,))
    save_run(tmp_path / "run", [tree])
    browser = Browser(tmp_path / "run")
    for what, asked in (("trees", PLACE), ("chains", PLACE), ("tree", FIRST), ("node", {**FIRST, "node": 1})):
        answer = browser.get(f"api/{what}", **asked)
        assert (
            answer.status_code == 200 and len(answer.content) < 300_000 and "more characters" in answer.text
        )
    browser.close()


def test_a_run_under_way_broken_or_of_another_version_is_told_in_lines(runs, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(runs / "run", broken)
    (broken / "stages/sft/done").write_text("{")
    (broken / "ledger.json").write_text("[1, 2]")
    with open(broken / "stages/sft/metrics.jsonl", "a") as log:
        log.write('{"step": 40, "sft/lo')  # being written
    (broken / "stages/verify/rows.json").write_text('[{"metric": 1}]')
    (broken / "trees/verify/00001.parquet").write_bytes(b"PAR1 torn")
    run = read_run("broken", broken)
    assert [note.partition(" ")[0] for note in run.notes] == [
        "stages/sft",
        "stages/verify/rows.json",
        "ledger.json",
    ]
    assert run.stages == {"sft": "broken", "verify": "done"} and len(run.history) == 40
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "old/trees/verify").mkdir(parents=True)
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "old/trees/verify/00000.parquet")
    browser = Browser(broken, tmp_path / "old")
    page = browser.get("")
    assert page.status_code == 200 and "rows.json cannot be read" in page.text and 'class="curve' in page.text
    assert len(browser.api("trees", run="broken", stage="verify")) == 70  # what is whole is shown
    told = browser.get("api/trees", run="old", stage="verify")
    assert told.status_code == 422 and "in the types of this version" in told.json()["error"]
    browser.close()
    assert "http-equiv" not in page.text
    (broken / LOCK).write_text(
        json.dumps({"host": socket.gethostname(), "pid": os.getppid(), "since": "now"})
    )
    (broken / "stages/sft/done").unlink()
    assert read_run("broken", broken).stages["sft"] == "under way"
    with subprocess.Popen(["true"]) as ended:
        pass
    (broken / LOCK).write_text(json.dumps({"host": socket.gethostname(), "pid": ended.pid, "since": "now"}))
    assert read_run("broken", broken).stages["sft"] == "stopped"  # what was killed leaves its lock
    (broken / LOCK).unlink()
    (broken / "stages/sft/done").touch()
    assert len(list(broken.rglob("*"))) == len(list((runs / "run").rglob("*"))) + 2  # nothing is written


def test_a_folder_that_is_no_run_and_a_port_that_is_taken_are_a_line_each(runs, tmp_path):
    with pytest.raises(UserError, match="expected the folder of a run"):
        named([tmp_path])
    shutil.copytree(runs / "other", tmp_path / "deep/run")
    assert list(named([runs / "run", tmp_path / "deep/run", runs / "run"])) == ["run", "run (2)"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = warm.reasoner("view", runs / "run", "--port", taken.getsockname()[1], cwd=tmp_path)
    assert done.returncode == 2 and "expected a free port" in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


@pytest.mark.slow
def test_two_thousand_trees_and_one_of_five_hundred_nodes_come_quickly(tmp_path):
    import time

    save_run(tmp_path / "run", [wide_tree(500), *(wide_tree(16) for _ in range(2000))])
    browser = Browser(tmp_path / "run")
    browser.api("tree", **{**FIRST, "row": 1})  # the tokenizer is loaded once
    took = {}
    for what, asked in (("trees", PLACE), ("tree", FIRST), ("chains", PLACE)):
        start = time.monotonic()
        told = browser.api(what, **asked)
        took[what] = time.monotonic() - start
        assert len(told if what == "trees" else told.get("nodes", told.get("chains"))) >= 50
    browser.close()
    print(took)
    assert took["trees"] < 2 and took["tree"] < 1, took
