"""Stages of a run draw through servers that the run starts: a program that stands in for vLLM, in processes of its own."""

import json
import sys
from pathlib import Path

import pytest
import stand_in
import yaml
from safetensors.torch import load_file

from reasoner.config import read_yaml, validate
from reasoner.pipeline import RunConfig, run
from reasoner.store import read_trees
from tests.trainers.test_two_processes import TORCHRUN, shell

CONFIGS = Path(__file__).parents[2] / "configs" / "smoke"
RATE = {"lr": 0.0005, "warmup": 0.0, "schedule": "constant"}


@pytest.fixture
def program(tmp_path) -> str:
    return stand_in.program(tmp_path)


def trained(out: Path, engine: dict | None, lora: bool) -> tuple[list[dict], Path]:
    """The metrics of each round of the smoke run of step-level PPO."""
    raw = read_yaml(CONFIGS / "ppo.yaml")
    ppo = raw["stages"][1]
    ppo["tree"] = {"where": "every_step"}  # servers do not tell entropies
    if engine is not None:
        ppo["engine"] = engine
    if lora:
        ppo["lora"] = {"r": 4, "alpha": 8}
    run(validate(RunConfig, {**raw, "out": str(out)}, "test"))
    lines = (out / "stages" / "ppo" / "metrics.jsonl").read_text().splitlines()
    return [m for m in map(json.loads, lines) if "ppo/length" in m], out


@pytest.mark.slow
@pytest.mark.parametrize("lora", [True, False], ids=["adapter", "all weights"])
def test_step_level_ppo_through_servers_looks_like_the_local_engines(tmp_path, program, lora):
    engine = {"kind": "vllm", "spawn": 1, "executable": program, "tolerance": 1e-3}
    remote, out = trained(tmp_path / "remote", engine, lora)
    local, _ = trained(tmp_path / "local", None, lora)
    assert len(remote) == len(local) == 5
    for a, b in zip(remote, local, strict=True):
        assert a["ppo/kl_sampler"] < 1e-6  # what the server said is what the trainer says, version by version
        assert abs(a["ppo/length"] - b["ppo/length"]) < 4
    logs = list((out / "models" / "ppo" / "engine" / "servers").iterdir())
    assert [p.name for p in logs] == ["server-0.log"] and logs[
        0
    ].stat().st_size  # it was there, and left no record
    weights = [p.name for p in (out / "models" / "ppo" / "engine" / "weights").iterdir()]
    assert weights == ["policy-4"]


def test_rollouts_and_evaluation_through_servers(tmp_path, program):
    more = ["--gpu-memory-utilization", "0.4"]
    engine = {"kind": "vllm", "spawn": 2, "executable": program, "arguments": more}
    raw = read_yaml(CONFIGS / "ppo.yaml")
    raw["problems"]["test"] = [{**raw["problems"]["train"][0], "start": 9000000, "size": 6}]
    raw["stages"][1:] = [
        {"kind": "rollout", "model": "base", "num_problems": 6, "max_tokens": 16, "engine": engine,
         "tree": {"where": "every_step", "num_roots": 3, "num_points": 1, "num_children": 2}},
        {"kind": "evaluate", "policies": ["base"], "max_tokens": 12, "num_samples": 2, "sampled": ["base"],
         "engine": {**engine, "spawn": 1}},
    ]  # fmt: skip
    out = tmp_path / "run"
    run(validate(RunConfig, yaml.safe_load(yaml.safe_dump({**raw, "out": str(out)})), "test"))
    trees = list(read_trees(out / "trees" / "rollout"))
    assert len(trees) == 6 and all(len(t.nodes) > 3 for t in trees)
    for node in (n for t in trees for n in t.nodes[1:]):
        assert len(node.logprobs) == len(node.logprobs_full) == len(node.token_ids) and node.entropy == ()
    logs = list((out / "stages" / "rollout" / "engine" / "servers").glob("server-*.log"))
    assert len(logs) == 2
    for log in logs:
        asked = log.read_text().splitlines()[0]
        assert asked.startswith("asked: serve ") and asked.endswith(" --gpu-memory-utilization 0.4")


@pytest.mark.slow
def test_two_processes_draw_ahead_as_one(tmp_path, program):
    """What draws and what trains speak with the other process at once, each in an order of its own."""
    raw = read_yaml(CONFIGS / "ppo.yaml")
    raw["stages"][1] |= {
        "tree": {"where": "every_step"}, "overlap": 1, "rounds": 3, "sampler_limit": 9.0, "curriculum": {"candidates": 2},
        "engine": {"kind": "vllm", "spawn": 1, "executable": program}, "optimizer": RATE, "critic_optimizer": RATE,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    found, rows = {}, {}
    for name, launcher in (("one", [sys.executable]), ("two", TORCHRUN)):
        out = tmp_path / name
        done = shell([*launcher, "-m", "reasoner", "run", str(tmp_path / "run.yaml"), f"out={out}"])
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = load_file(out / "models/ppo/model/model.safetensors")
        lines = (out / "stages" / "ppo" / "metrics.jsonl").read_text().splitlines()
        rows[name] = [m for m in map(json.loads, lines) if "ppo/length" in m]
    assert [m["ppo/staleness_max"] for m in rows["two"]] == [0, 1, 1]
    assert [m["ppo/length"] for m in rows["one"]] == [m["ppo/length"] for m in rows["two"]]
    assert max(float((a - found["two"][k]).abs().max()) for k, a in found["one"].items()) < 1e-4
