"""One loader for all reward models: placed on the device, ours or published, by folder or hub name, and checked."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import branching_tree, save_small_qwen

from reasoner.policy import machine
from reasoner.policy.adapters import LoRA
from reasoner.policy.heads import ScoreNet
from reasoner.policy.labelled import from_outcomes
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.records import OutcomeLabel, PreferencePair, SFTExample
from reasoner.registry import UserError
from reasoner.scoring import published, reward_models
from reasoner.scoring.prm import score_leaves, score_steps
from reasoner.scoring.published import score_solutions, step_texts
from reasoner.scoring.reward_models import load_orm, load_reward_model
from reasoner.trainers.dpo import DPOStage, train_dpo
from reasoner.trainers.loop import OptimizerConfig, Session
from reasoner.trainers.pairwise import PairwiseStage, train_pairwise
from reasoner.trainers.policy_batch import score_states
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_models import load_models
from reasoner.trainers.reward_model import RewardModelStage, train_reward_model
from reasoner.trainers.sft import SFTStage, train_sft
from reasoner.tree import ROOT

META = torch.device("meta")


@pytest.fixture
def folder(tmp_path) -> str:
    return str(save_small_qwen(tmp_path / "base", ["1 + 2 = 3\n"] * 9, 300))


@pytest.fixture
def ours(folder, tmp_path) -> str:
    torch.manual_seed(0)
    net = ScoreNet(load_model(folder))
    torch.nn.init.normal_(net.head.weight)
    net.save(load_tokenizer(folder), tmp_path / "prm")
    return str(tmp_path / "prm")


@pytest.fixture
def foreign(folder) -> str:
    """As TRL's token classifiers are published."""
    torch.manual_seed(1)
    save_file(
        {"score.weight": torch.randn(2, 64), "score.bias": torch.zeros(2)}, f"{folder}/head.safetensors"
    )
    return folder


def devices(module: torch.nn.Module) -> set[str]:
    return {t.device.type for t in [*module.parameters(), *module.buffers()]}


@pytest.mark.parametrize("which", ["ours", "foreign", "orm"])
def test_what_is_loaded_to_score_lies_on_the_device(which, ours, foreign, monkeypatch):
    for module in (reward_models, published):
        monkeypatch.setattr(module, "own_device", lambda: META)
    loaded = load_orm(ours) if which == "orm" else load_reward_model(ours if which == "ours" else foreign)
    net = loaded if isinstance(loaded, ScoreNet) else loaded.net
    assert devices(net) == {"meta"} and not net.training


def test_the_device_is_this_processs_own(ours):
    assert (
        devices(load_reward_model(ours))
        == {machine.own_device().type}
        == {"cuda" if not machine.on_cpu() else "cpu"}
    )


@pytest.mark.parametrize("lora", [None, LoRA(r=2, alpha=4)])
def test_frozen_reward_models_of_training_follow_the_policy(folder, tmp_path, lora):
    """Head and all: under LoRA a head that could be trained was left behind on the CPU."""
    net = ScoreNet(load_models(folder, None, None, PolicyGradientStage(lora=lora))[1])
    net.save(load_tokenizer(folder), tmp_path / "prm")
    config = PolicyGradientStage(lora=lora, advantage={"reward": {"prm_weight": 0.5, "orm_weight": 0.5}})
    prm = orm = str(tmp_path / "prm")
    models, _ = load_models(folder, None, prm, config, orm)
    for frozen in (models.prm, models.orm):
        assert not any(p.requires_grad for p in frozen.parameters())
        assert devices(frozen.to(META).head) == {"meta"}
        assert devices(frozen.lm.shared.lm if lora else frozen.lm) == {"meta"}


def test_a_published_prm_scores_the_text_of_every_step(foreign, folder):
    """Also in a tree with branches, and as the reward of training: what it says of each solution alone."""
    tokenizer = load_tokenizer(folder)
    prm = load_reward_model(foreign, lambda ids: tokenizer.decode(list(ids)))
    tree, again = branching_tree(), branching_tree()
    assert score_steps(prm, [tree], "prm") > 0
    score_states(prm, [again], "prm", 100)
    assert again.scores == tree.scores and ROOT not in tree.scores["prm"]
    for node, values in tree.scores["prm"].items():
        ends = tree.step_ends(node)
        ids = tree.completion_ids(node)
        texts = step_texts(tree, node, prm.decode)
        assert (
            len(texts) == len(ends)
            and "".join(texts) == tokenizer.decode(ids[: len(ids)])[: len("".join(texts))]
        )
        alone = score_solutions(prm, tree.problem.prompt, [texts])[0]
        assert values == pytest.approx(alone[-len(values) :], abs=1e-5)
    assert step_texts(tree, 6, lambda ids: str(list(ids))) == ["[10, 11]", "[12, 40]", "[60, 61]"]


def test_a_published_prm_may_be_the_reward_but_is_not_refreshed(foreign, folder):
    config = PolicyGradientStage(advantage={"reward": {"prm_weight": 0.5}})
    models, _ = load_models(folder, None, f"trl:{foreign}", config)
    tree = branching_tree()
    score_states(models.prm, [tree], "prm", 100)
    assert set(tree.scores["prm"]) == {1, 2, 3, 4, 5, 6}
    with pytest.raises(UserError, match="was not trained here"):
        load_models(folder, None, foreign, config.model_copy(update={"prm_refresh": {}}))


def test_a_hub_name_is_a_folder_of_the_cache(foreign, tmp_path, monkeypatch):
    """The real client, offline, on a cache as a download leaves it."""
    home = tmp_path / "cache/models--lab--prm"
    (home / "refs").mkdir(parents=True)
    (home / "refs/main").write_text("abc")
    (home / "snapshots").mkdir()
    (home / "snapshots/abc").symlink_to(foreign)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert isinstance(load_reward_model("lab/prm"), published.PublishedPRM)
    with pytest.raises(UserError, match="cannot load the model 'lab/other'"):
        load_reward_model("lab/other")


def test_a_prm_that_gives_no_number_is_named(ours):
    net = load_reward_model(ours)
    with torch.no_grad():
        net.head.bias.fill_(float("nan"))
    for score in (
        lambda: score_steps(net, [branching_tree()], "prm"),
        lambda: score_states(net, [branching_tree()], "prm", 100),
    ):
        with pytest.raises(UserError, match=r"the model behind prm gave .* no numbers"):
            score()
    with pytest.raises(UserError, match="the model behind orm gave"):
        score_leaves(net, [branching_tree()])


ABSURD = OptimizerConfig(lr=1e36, warmup=0.0, schedule="constant")
PAIRS = [PreferencePair(str(i), "", "", "", [5 + i], [7, 8], [9, 10]) for i in range(8)]
OUTCOMES = from_outcomes(
    [OutcomeLabel(str(i), "", "", i % 2 == 0, [5 + i, 6], [7 + i % 2, 9]) for i in range(8)], 100
)
TRAIN = {
    "sft": lambda f, s, lora: train_sft(
        f, [SFTExample("p", "", "", [5, 6], [7, 8])] * 8, SFTStage(optimizer=ABSURD, batch_size=8, max_steps=3, lora=lora), s
    ),
    "dpo": lambda f, s, lora: train_dpo(
        f, PAIRS, DPOStage(optimizer=ABSURD, batch_size=8, lora=lora, trl={"max_steps": 3}), s
    ),
    "prm": lambda f, s, lora: train_reward_model(
        f, OUTCOMES, RewardModelStage(optimizer=ABSURD, batch_size=8, epochs=4, holdout=0.0, lora=lora), s, "prm"
    ),
    "pairwise": lambda f, s, lora: train_pairwise(
        f, PAIRS, PairwiseStage(optimizer=ABSURD, batch_size=8, holdout=0.0, lora=lora, trl={"max_steps": 4}), s, "orm"
    ),
}  # fmt: skip


@pytest.mark.parametrize("lora", [None, LoRA(r=2, alpha=4)])
@pytest.mark.parametrize("kind", sorted(TRAIN))
def test_weights_that_are_no_numbers_are_not_saved(folder, tmp_path, kind, lora):
    """By a rate at which the policy's weights overflow; a new head only saturates, so it is given a broken model."""
    if kind in ("prm", "pairwise"):
        weights = load_file(f"{folder}/model.safetensors")
        weights["model.norm.weight"][3] = float("nan")
        save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    session = Session(tmp_path / "out")
    with session.ledger.stage(kind), pytest.raises(UserError, match="no number"):
        TRAIN[kind](folder, session, lora)
    assert not list((tmp_path / "out").rglob("*.safetensors"))
