"""What a cut policy is trained with: a PRM kept up with it, PRMs of another run or program, servers that draw.

On two real processes all of it ends with the weights of one whole process.
"""

import copy
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from reasoner.config import validate
from reasoner.pipeline import RunConfig, run
from reasoner.policy.models import load_model, load_tokenizer, save
from tests.engine.stand_in import program
from tests.trainers.test_shard import RATE, finish, processes
from tests.trainers.test_two_processes import PROBLEMS, START, TREES, furthest, weights

PRMS = """
  - {kind: prm, name: whole, model: MODEL, batch_size: 16, epochs: 0.3, optimizer: RATE}
  - {kind: prm, name: adapter, model: MODEL, batch_size: 16, epochs: 0.3, lora: {r: 2}, optimizer: RATE}
"""
STAGES = """
stages:
  - {kind: ppo, name: refreshed, model: MODEL, prm: EARLIER/whole/model, prm_refresh: REFRESH, CUT, PPO: 2}
  - {kind: ppo, name: adapters, model: MODEL, prm: EARLIER/adapter/model, prm_refresh: REFRESH, lora: {r: 2}, CUT, PPO: 2}
  - {kind: ppo, name: one_adapter, model: MODEL, prm: EARLIER/whole/model, prm_refresh: REFRESH, lora: {r: 2}, CUT, PPO: 2}
  - {kind: ppo, name: outside, model: MODEL, prm: PUBLISHED, CUT, PPO: 2}
  - {kind: ppo, name: servers, model: MODEL, prm: EARLIER/whole/model, prm_refresh: REFRESH, engine: SERVER, CUT, PPO: 2}
  - {kind: ppo, name: sent_adapter, model: MODEL, prm: PUBLISHED, lora: {r: 2}, engine: SERVER, CUT, PPO: 2}
"""
# a tree is in the update of its number: with 3 both processes have a part of each
REFRESH = "{updates: 3, optimizer: RATE}"
PPO = (
    "problems_per_round: 7, minibatches: 1, max_tokens: 16, drop_uniform: false, optimizer: RATE, critic_optimizer: RATE, "
    "tree: {where: every_step, num_roots: 2, num_points: 1}, advantage: {reward: {prm_weight: 0.2}}, rounds"
)


def publish(policy: Path, folder: Path) -> Path:
    """A PRM as others publish theirs: another model with a head for two classes."""
    lm = copy.deepcopy(load_model(str(policy)))
    with torch.no_grad():
        for weight in lm.parameters():
            weight.mul_(0.9)
    save(lm, load_tokenizer(str(policy)), folder)
    torch.manual_seed(1)
    save_file(
        {"score.weight": 0.2 * torch.randn(2, 32), "score.bias": torch.zeros(2)}, folder / "head.safetensors"
    )
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """The same stages whole on one process and cut over two, after an earlier run that made the PRMs."""
    folder = tmp_path_factory.mktemp("shard_scorers")
    start, earlier = folder / "start", folder / "earlier"
    run(validate(RunConfig, {**yaml.safe_load(PROBLEMS + START), "out": str(start)}, "start"))
    tied = start / "models/sft/model"
    made = (PROBLEMS + TREES + PRMS).replace("MODEL", str(tied)).replace("RATE", RATE)
    run(validate(RunConfig, {**yaml.safe_load(made), "out": str(earlier)}, "earlier"))
    server = f"{{kind: vllm, spawn: 1, executable: {program(folder)}, tolerance: 0.001}}"
    texts = {
        "MODEL": tied, "EARLIER": earlier / "models", "PUBLISHED": publish(tied, folder / "published"), "SERVER": server,
        "REFRESH": REFRESH, "PPO": PPO, "RATE": RATE,
    }  # fmt: skip
    found = {"base": tied, "prm": earlier / "models"}
    for num, name, cut in ((1, "one", "gradient_checkpointing: false"), (2, "two", "shard: {}")):
        text = PROBLEMS + STAGES.replace("CUT", cut)
        for key, value in texts.items():
            text = text.replace(key, str(value))
        file = folder / f"{name}.yaml"
        file.write_text(text, encoding="utf-8")
        found[name] = folder / name
        finish(num, file, found[name])
    return found


def both(runs, stage: str, name: str) -> list[dict[str, torch.Tensor]]:
    assert [processes(runs[r], stage) for r in ("one", "two")] == [1, 2]
    return [weights(runs[r] / "models" / stage / name) for r in ("one", "two")]


def scored(run: Path, stage: str) -> int:
    """Tokens that the PRM read."""
    return json.loads((run / "ledger.json").read_text())["counts"][stage]["prm"]["scored"]


@pytest.mark.parametrize("stage", ["refreshed", "outside", "servers"])
def test_they_end_with_the_weights_of_one(runs, stage):
    for name in ("model", "critic"):
        one, two = both(runs, stage, name)
        assert one.keys() == two.keys() and len(one) > 10
        assert furthest(one, weights(runs["base"])) > 1e-4
        assert furthest(one, two) < 1e-5
    assert scored(runs["one"], stage) == scored(runs["two"], stage) > 0


@pytest.mark.parametrize("stage", ["adapters", "one_adapter", "sent_adapter"])
def test_adapters_on_a_cut_base_are_those_on_a_whole_one(runs, stage):
    for name in ("model", "critic"):
        one, two = both(runs, stage, name)
        assert one.keys() == two.keys()
        assert max(w.abs().max().item() for k, w in one.items() if "lora_B" in k) > 2e-4
        assert furthest(one, two) < 1e-5
    assert scored(runs["one"], stage) == scored(runs["two"], stage) > 0


@pytest.mark.parametrize(
    ("stage", "prm"),
    [("refreshed", "whole"), ("servers", "whole"), ("one_adapter", "whole"), ("adapters", "adapter")],
)
def test_the_prm_is_kept_up_as_on_one(runs, stage, prm):
    one, two = both(runs, stage, "prm")
    before = weights(runs["prm"] / prm / "model")
    assert one.keys() == two.keys() == before.keys()
    assert furthest(one, before) > 2e-4 and furthest(one, two) < 1e-5


@pytest.mark.parametrize("stage", ["servers", "sent_adapter"])
def test_a_server_drew(runs, stage):
    """One that the first process started and both asked, whose answers are what the trainer computes."""
    for name in ("one", "two"):
        out = runs[name]
        logs = list((out / "models" / stage / "engine" / "servers").glob("server-*.log"))
        assert [p.name for p in logs] == ["server-0.log"] and logs[0].read_text().startswith("asked: serve ")
        lines = (out / "stages" / stage / "metrics.jsonl").read_text().splitlines()
        rounds = [m for m in map(json.loads, lines) if "ppo/length" in m]
        assert len(rounds) == 2 and all(m["ppo/kl_sampler"] < 1e-6 for m in rounds)
