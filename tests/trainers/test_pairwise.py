"""The pairwise outcome reward model: TRL's loss on our ids is the loss by hand, and what is learned is saved."""

import random

import pytest
import torch
from small_models import save_small_qwen, small_lm

from reasoner.ledger import Ledger
from reasoner.policy.adapters import LoRA, load_for_head
from reasoner.policy.heads import ScoreNet
from reasoner.policy.labelled import from_outcomes
from reasoner.records import OutcomeLabel, PreferencePair
from reasoner.registry import UserError
from reasoner.trainers.loop import OptimizerConfig, Session, make_optimizer
from reasoner.trainers.pairwise import Classifier, PairwiseStage, train_pairwise
from reasoner.trainers.reward_loss import LOSSES, weighted_sum
from reasoner.trainers.reward_model import read


def told_by_the_last_token(num_problems: int) -> list[PreferencePair]:
    """The chosen completion ends with 7, the rejected one with 8; lengths differ, so that rows are padded."""
    rng = random.Random(0)
    found = []
    for problem in range(num_problems):
        for _ in range(4):
            good, bad = ([rng.choice([9, 10]) for _ in range(rng.randint(1, 6))] for _ in range(2))
            prompt = [rng.randint(20, 60)]
            found.append(PreferencePair(str(problem), "", "", "", prompt, [*good, 7], [*bad, 8]))
    return found


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_a_padded_row_is_read_at_its_last_token(kind):
    """Also where the pad token ends the text itself."""
    net = ScoreNet(small_lm(kind)).eval()
    assert isinstance(net.head, torch.nn.Linear)
    torch.nn.init.normal_(net.head.weight)
    rows = [[5, 6, 7, 0], [3, 0]]
    ids = torch.tensor([[5, 6, 7, 0], [3, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    logits = Classifier(net)(ids, mask).logits[:, 0]
    outcomes = [OutcomeLabel(str(i), "", "", True, row[:1], row[1:]) for i, row in enumerate(rows)]
    assert logits.tolist() == pytest.approx(read(net, from_outcomes(outcomes, 100), "cpu").tolist(), abs=1e-5)


@pytest.mark.parametrize("lora", [None, LoRA(r=4)])
def test_pairs_are_learned_and_saved(tmp_path, lora):
    base = save_small_qwen(tmp_path / "base", ["+-"], 300)
    pairs, logged = told_by_the_last_token(20), {}
    session = Session(
        tmp_path / "out", Ledger(), lambda metrics, step: logged.setdefault(step, {}).update(metrics)
    )
    config = PairwiseStage(
        batch_size=8,
        epochs=4,
        holdout=0.2,
        lora=lora,
        optimizer=OptimizerConfig(lr=0.01),
        trl={"logging_steps": 1},
    )
    with session.ledger.stage("pairwise"):
        train_pairwise(str(base), pairs, config, session, "pairwise")
    # a head of zeros tells nothing apart
    assert logged[1]["pairwise/loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert logged[32]["pairwise/heldout_accuracy"] > 0.95
    assert session.ledger.counts["pairwise"]["pairwise"]["trained"] > 0
    net = ScoreNet.load(tmp_path / "out" / "model").eval()
    both = [OutcomeLabel("p", "", "", good, [30], [9, token]) for good, token in ((True, 7), (False, 8))]
    right, wrong = read(net, from_outcomes(both, 100), "cpu").tolist()
    assert right > wrong + 1


def test_the_loss_is_that_of_ranking_where_each_prompt_has_one_pair(tmp_path):
    """Three updates by TRL show the losses that our own pairs show: the same values and the same gradients."""
    base = save_small_qwen(tmp_path / "base", ["+-"], 300)
    pairs = [PreferencePair(str(i), "", "", "", [20 + i], [9, 7, 10], [8]) for i in range(6)]
    losses = []
    session = Session(tmp_path, Ledger(), lambda metrics, step: losses.append(metrics["pairwise/loss"]))
    optimizer = OptimizerConfig(lr=0.01, schedule="constant", warmup=0)
    config = PairwiseStage(batch_size=6, epochs=3, holdout=0, optimizer=optimizer, trl={"logging_steps": 1})
    with session.ledger.stage("pairwise"):
        train_pairwise(str(base), pairs, config, session, "pairwise")
    outcomes = [
        OutcomeLabel(p.problem_id, "", "", good, p.prompt_ids, ids)
        for p in pairs
        for good, ids in ((True, p.chosen_ids), (False, p.rejected_ids))
    ]
    data = from_outcomes(outcomes, 100)
    net = ScoreNet(load_for_head(str(base), None))
    ours = []
    step = make_optimizer(net, optimizer)
    for _ in range(3):
        loss = weighted_sum(LOSSES["ranking"], read(net, data, "cpu"), data) / len(data)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        step.step()
        step.zero_grad()
        ours.append(loss.item())
    assert losses == pytest.approx(ours, rel=1e-4) and ours[2] < 0.6


def test_no_pairs_are_refused(tmp_path):
    with pytest.raises(UserError, match="no preference pairs"):
        train_pairwise("no/model", [], PairwiseStage(), Session(tmp_path), "pairwise")
