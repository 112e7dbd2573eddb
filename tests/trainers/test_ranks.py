"""How work is shared by processes: every label, row and problem once, evenly, alike on any number of them."""

import pytest
import torch
from accelerate import PartialState
from small_models import make_tree, small_lm

from reasoner.policy.heads import Likelihood, ScoreNet
from reasoner.policy.labelled import Labelled, divided
from reasoner.policy.packing import num_tokens
from reasoner.registry import UserError
from reasoner.trainers.policy_batch import minibatch_of
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.ranks import same_count
from reasoner.trainers.reward_loss import LOSSES, mass, weighted_sum
from reasoner.trainers.reward_model import own_share, read
from reasoner.trainers.trl_settings import RankRows, epoch_batches


def fan(num: int, length: int = 6) -> Labelled:
    """One tree of solutions that part at the prompt and in their middle; a label in the middle and at each end."""
    rows = [(0, 2, [10 + i] * length, []) for i in range(num)] + [
        (1 + i, 3, [40 + i] * length, []) for i in range(num)
    ]
    found = Labelled(make_tree([1, 2], *rows), num_solutions=2 * num)
    for node in range(1, 2 * num + 1):
        for offset in (3, length):
            found.states.append((node, offset))
            found.labels.append((node * 7 + offset) % 3 / 2)
            found.groups.append((0, 2) if offset == 3 and node <= num else (node, 1))
    return found


@pytest.mark.parametrize("num", [2, 3, 8])
@pytest.mark.parametrize("loss", ["bce", "ranking"])
@pytest.mark.parametrize("head", [None, Likelihood()], ids=["state", "likelihood"])
def test_one_large_tree_is_shared_by_all_and_the_loss_is_the_whole_ones(num, loss, head):
    net = ScoreNet(small_lm("qwen2"), head)
    if head is None:
        torch.nn.init.normal_(net.head.weight)
    loss_of, batch = LOSSES[loss], [fan(8), fan(1)]

    def backward(of_rank: list[list[Labelled]]) -> tuple[float, torch.Tensor]:
        net.zero_grad()
        total = sum(weighted_sum(loss_of, read(net, own, "cpu"), own) for own in of_rank if own) / mass(
            loss_of, batch
        )
        total.backward()
        return total.item(), net.lm.get_input_embeddings().weight.grad.clone()

    shares = [own_share(batch, loss_of.compares, rank, num) for rank in range(num)]
    (whole, gradient), (parts, same) = backward([batch]), backward(shares)
    assert parts == pytest.approx(whole, rel=1e-5) and torch.allclose(same, gradient, atol=1e-5)
    assert sum(mass(loss_of, own) for own in shares) == pytest.approx(mass(loss_of, batch))
    if loss == "bce":
        loads = [sum(num_tokens(d.tree) for d in own) for own in shares]
        assert min(loads) > 0 and max(loads) < 2.5 * sum(loads) / num
    assert own_share(batch, False, 0, 1) == batch


def test_a_lot_has_only_the_tokens_that_its_states_need():
    lots = divided(fan(2), 5, together=False)
    assert [num_tokens(lot.tree) for lot in lots[:2]] == [5, 8]  # prompt 2 + 3 tokens; prompt 2 + all 6
    assert sum(len(lot.labels) for lot in lots) == 8


@pytest.mark.parametrize("by_length", [False, True])
def test_processes_share_the_rows_that_one_would_have(monkeypatch, by_length):
    lengths = [3 + (i * 7) % 11 for i in range(30)]
    given = {}
    for num in (1, 2, 4):
        for rank in range(num):
            monkeypatch.setattr(PartialState, "_shared_state", dict(PartialState._shared_state))
            state = PartialState(cpu=True)
            state.num_processes, state.process_index = num, rank
            rows = RankRows(lengths, 8, seed=3, by_length=by_length)
            given[num, rank] = [list(rows), list(rows)]
            assert rows.tokens == sum(lengths[i] for epoch in given[num, rank] for b in epoch for i in b)
            assert len(rows) == 3
    for num in (2, 4):
        for epoch in range(2):
            for update in range(3):
                together = [i for rank in range(num) for i in given[num, rank][epoch][update]]
                assert sorted(together) == sorted(given[1, 0][epoch][update]) and len(together) == 8
    first, second = given[1, 0]
    assert first != second and len({i for b in first for i in b}) == 24
    with pytest.raises(UserError, match="batch_size=6 cannot be shared evenly by 4"):
        RankRows(lengths, 6, seed=3)
    assert RankRows(lengths[:7], 32, seed=3).per_process == 1  # 7 rows on 4 processes: a row each


def test_rows_of_like_length_are_together():
    lengths = [i % 40 for i in range(1600)]
    spread = [
        max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in epoch_batches(lengths, 8, 0, 1, True)
    ]
    mixed = [
        max(lengths[i] for i in b) - min(lengths[i] for i in b)
        for b in epoch_batches(lengths, 8, 0, 1, False)
    ]
    assert sum(spread) / len(spread) <= 1 and sum(mixed) / len(mixed) > 20


def test_few_rows_are_not_sorted_whole():
    """Of 96 rows 24 at a time are sorted, so that a batch of 8 is no third of all lengths."""
    lengths = list(range(96))
    spread = [max(b) - min(b) for b in epoch_batches(lengths, 8, 0, 1, True)]
    assert sum(spread) / len(spread) > 16


@pytest.mark.parametrize(("minibatches", "num"), [(2, 2), (4, 8), (8, 8)])
def test_every_process_has_problems_in_every_minibatch(minibatches, num):
    """Problem i goes to process i mod num; cut by the same index, most had none."""
    config = PolicyGradientStage(problems_per_round=64, minibatches=minibatches)
    counts = {(minibatch_of(i, config), i % num): 0 for i in range(64)}
    for i in range(64):
        counts[minibatch_of(i, config), i % num] += 1
    assert len(counts) == minibatches * num and set(counts.values()) == {64 // (minibatches * num)}
    assert minibatch_of(64, config) == 0  # a problem drawn in place of a useless one


@pytest.mark.gpu
def test_counting_over_nccl_stays_on_the_device():
    state = PartialState()
    torch.distributed.init_process_group("nccl", init_method="tcp://127.0.0.1:29511", rank=0, world_size=1)
    try:
        assert same_count([[1]], state.device) == [[1]]
        with pytest.raises(RuntimeError):
            same_count([[1]], torch.device("cpu"))
    finally:
        torch.distributed.destroy_process_group()
