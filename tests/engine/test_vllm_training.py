"""Step-level PPO whose rounds overlap, on a real vLLM with a real model, and on one that is killed meanwhile.

bash launch/test.sh -m server; needs what test_vllm_server needs, and takes some minutes on two cores.
"""

import json
import os
import signal

import pytest

from reasoner.config import validate
from reasoner.engine.remote import RemoteEngine
from reasoner.pipeline import RunConfig, run
from reasoner.trainers import policy_gradient
from tests.engine.test_vllm_server import MODEL, VLLM, there

__all__ = ["there"]
pytestmark = pytest.mark.server

ROUNDS, ROOTS, CHILDREN = 4, 2, 2
STAGE = {
    "kind": "ppo", "model": str(MODEL), "problems": ["train"], "rounds": ROUNDS, "problems_per_round": 2, "max_tokens": 20,
    "tree": {"num_roots": ROOTS, "where": "every_step", "num_points": 1, "num_children": CHILDREN}, "lora": {"r": 4, "alpha": 8},
    "drop_uniform": False, "whiten": False, "minibatches": 1, "tokens_per_batch": 512, "overlap": 1, "sampler_limit": 9.0,
    "optimizer": {"lr": 0.002, "warmup": 0.0, "schedule": "constant"},
    "engine": {"kind": "vllm", "spawn": 1, "executable": str(VLLM), "dtype": "float32", "tolerance": 0.01},
}  # fmt: skip
ROWS = [f"Tom has {a} pens and buys {b} more. How many pens has he?" for a, b in ((3, 4), (5, 2), (6, 3))]


def trained(folder, monkeypatch, at_submit=lambda engine: None):
    """Per round its trees and its metrics."""
    submit, sift, trees = RemoteEngine.submit, policy_gradient.sift, []

    def submitted(engine, requests):
        submit(engine, requests)
        at_submit(engine)

    def sifted(drawn, *more):
        trees.append(drawn.trees)
        sift(drawn, *more)

    monkeypatch.setattr(RemoteEngine, "submit", submitted)
    monkeypatch.setattr(policy_gradient, "sift", sifted)
    rows = [{"prompt": text, "answer": "7"} for text in ROWS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = {"train": [{"name": "jsonl", "path": str(folder / "rows.jsonl")}]}
    prompt = {"chat": True, "delimiter": " "}  # many steps in few tokens
    raw = {"out": str(folder / "run"), "prompt": prompt, "problems": problems, "stages": [STAGE]}
    run(validate(RunConfig, raw, "test"))
    lines = (folder / "run" / "stages" / "ppo" / "metrics.jsonl").read_text().splitlines()
    return trees, [m for m in map(json.loads, lines) if "ppo/length" in m]


def check_rounds(trees, rows) -> None:
    """All are there and complete, each drawn by the weights before those that it is learned with."""
    assert [len(of_round) for of_round in trees] == [2] * ROUNDS == [2] * len(rows)
    for tree in (t for of_round in trees for t in of_round):
        inside = [n for n in tree.nodes[1:] if n.parent > 0]
        assert len(tree.nodes) - 1 - len(inside) == ROOTS and len(inside) % CHILDREN == 0
        assert all(len(n.logprobs) == len(n.token_ids) > 0 for n in tree.nodes[1:])
    assert any(len(t.nodes) > 1 + ROOTS for of_round in trees for t in of_round)
    versions = [{n.weights_version for t in of_round for n in t.nodes[1:]} for of_round in trees]
    assert versions == [{0}, {0}, {1}, {2}]
    assert (
        [row["ppo/staleness"] for row in rows] == [0, 1, 1, 1] == [row["ppo/staleness_max"] for row in rows]
    )
    # what the server says of the first round is what the trainer says; later ones are drawn by older weights
    assert [row["ppo/kl_sampler"] > 1e-5 for row in rows] == [False, True, True, True]


def test_rounds_overlap(there, tmp_path, monkeypatch):
    check_rounds(*trained(tmp_path, monkeypatch))


def test_a_server_that_is_killed_in_a_round_comes_back_within_the_run(there, tmp_path, monkeypatch, caplog):
    fleets: list = []

    def kill(engine) -> None:
        fleet = engine.fleet
        if not fleets and engine.weights_version == 1:
            fleets.append((fleet, fleet.processes[0].pid))
            os.killpg(fleet.processes[0].pid, signal.SIGKILL)
        elif fleets and len(fleets) == 1 and fleet.processes[0].pid != fleets[0][1]:
            fleets.append((fleet, fleet.processes[0].pid))

    check_rounds(*trained(tmp_path, monkeypatch, kill))
    assert len(fleets) == 2 and fleets[0][1] != fleets[1][1]
    assert "ended with -9" in caplog.text and "it is started again" in caplog.text
    assert fleets[0][0].restarts == 2
