"""Packed trees against the same trees flattened, a row per leaf: equal log-probabilities and gradients."""

import numpy as np
import pytest
import torch
from small_models import branching_tree, make_tree, small_lm
from transformers import AutoConfig, AutoModelForCausalLM

from reasoner.policy import packing
from reasoner.policy.attention import tree_mask
from reasoner.policy.heads import PolicyNet
from reasoner.policy.packing import Packed, batches, layers_cost, num_tokens, pack, pieces
from reasoner.signals.backup import leaf_weights, path_weights


def trees() -> list:
    """Branches inside nodes, nested, at a start and at an end; an empty node; a bare chain."""
    return [
        branching_tree(),
        make_tree([4, 5], (0, 2, [6, 7, 8], [2]), (1, 0, [9, 10], [1]), (2, 1, [11], [0]), (1, 3, [12], [0])),
        make_tree([13], (0, 1, [14, 15, 16, 17], [3])),
        make_tree(
            [18, 19, 20, 21], (0, 4, [22], [0]), (0, 4, [], []), (2, 0, [23, 24], [1]), (0, 2, [25], [0])
        ),
    ]


def token_factor(token: int) -> float:
    """Something like an advantage: another number for each token."""
    return float(np.sin(3 * token))


def flattened_loss(model, some_trees) -> torch.Tensor:
    """Each leaf's weight times the sum over its tokens, each trajectory run through the model alone."""
    loss = torch.zeros(())
    for tree in some_trees:
        for leaf, weight in leaf_weights(tree).items():
            ids = tree.token_ids(leaf)
            done = len(ids) - len(tree.completion_ids(leaf))
            table = torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0], -1)
            for at in range(done, len(ids)):
                loss = loss - weight * token_factor(ids[at]) * table[at - 1, ids[at]]
    return loss


def packed_loss(model, some_trees, row_tokens: int) -> torch.Tensor:
    packed = pack(some_trees, row_tokens=row_tokens)
    net = PolicyNet(model)
    logprobs, _ = net(packed.ids_BT, packed.positions_BT, packed.tour_B2T, packed.source_N, packed.target_N)
    weights = [
        {
            i: w[:-1] * [token_factor(t) for t in tree.nodes[i].token_ids]
            for i, w in enumerate(path_weights(tree))
        }
        for tree in some_trees
    ]
    return -(packed.flat(weights) * logprobs).sum()


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2"])
@pytest.mark.parametrize(("row_tokens", "cost"), [(1, 512), (256, 512), (1, 0)])
def test_loss_and_gradients_are_those_of_flattened_leaves(monkeypatch, kind, row_tokens, cost):
    monkeypatch.setattr(packing, "LAYERS_COST", cost)  # 0: each branch of the root is a piece of its own
    model = small_lm(kind)
    # an empty node carries no token, so its leaf is the same in both
    losses = flattened_loss(model, trees()), packed_loss(model, trees(), row_tokens)
    assert losses[1].item() == pytest.approx(losses[0].item(), abs=1e-5)
    gradients = [torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) for loss in losses]
    num_compared = 0
    for flat, packed in zip(*gradients, strict=True):
        if flat is None:
            assert packed is None
            continue
        scale = max(1.0, float(flat.abs().max()))
        assert torch.allclose(packed, flat, atol=1e-5 * scale, rtol=0)
        num_compared += float(flat.abs().max()) > 1e-4
    assert num_compared > 10


@pytest.mark.parametrize(("row_tokens", "cost"), [(1, 512), (30, 512), (256, 512), (1, 0), (30, 0)])
def test_each_logprob_is_that_of_its_trajectory(monkeypatch, row_tokens, cost):
    monkeypatch.setattr(packing, "LAYERS_COST", cost)
    model = small_lm("qwen2")
    packed = pack(trees(), row_tokens=row_tokens)
    with torch.no_grad():
        logprobs, entropy = PolicyNet(model)(
            packed.ids_BT, packed.positions_BT, packed.tour_B2T, packed.source_N, packed.target_N, True
        )
        at = 0
        for tree in trees():
            for i in range(1, len(tree.nodes)):
                for j, token in enumerate(tree.nodes[i].token_ids):
                    before = tree.token_ids(i, j)
                    table = torch.log_softmax(model(torch.tensor([before])).logits[0, -1], -1)
                    assert logprobs[at].item() == pytest.approx(table[token].item(), abs=1e-5)
                    assert entropy[at].item() == pytest.approx(-(table.exp() @ table).item(), abs=1e-5)
                    at += 1
        assert at == len(logprobs) == sum(t.num_sampled for t in trees())


def test_several_trees_share_a_row_and_do_not_see_each_other():
    packed = pack(trees(), row_tokens=64)
    assert [num_tokens(t) for t in trees()] == [20, 9, 5, 8]
    assert packed.ids_BT.shape == (1, 42)
    assert packed.ids_BT[0, :20].tolist() == [
        1, 2, 3, 10, 11, 12, 13, 14, 15, 20, 21, 22, 30, 31, 40, 41, 42, 50, 60, 61,
    ]  # fmt: skip
    mask = tree_mask(packed.tour_B2T)[0, 0]
    assert not mask[:20, 20:].any() and not mask[20:, :20].any()
    # 61 sees its ancestors 1 2 3 10 11 12 40 60 and itself
    assert mask[19].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 14, 18, 19]


def test_what_is_packed_grows_with_its_tokens_and_its_mask_with_their_square_when_used():
    def chain(length: int) -> Packed:
        return pack([make_tree([1] * 4, (0, 4, [2] * length, [length - 1]))])

    def held(packed: Packed) -> int:
        return sum(x.nbytes for x in vars(packed).values() if isinstance(x, torch.Tensor | np.ndarray))

    short, long = chain(508), chain(4092)
    assert held(long) < 9 * held(short)
    mask = tree_mask(long.tour_B2T)
    assert mask.nbytes == 4096**2
    assert torch.equal(mask[0, 0], torch.ones(4096, 4096, dtype=torch.bool).tril())
    # without room for a second tree in a row there are more rows
    assert pack(trees(), row_tokens=1).ids_BT.shape == (3, 20)


def test_long_branches_after_a_short_prompt_are_pieces_with_the_prompt_before_each():
    fan = make_tree([1, 2], *((0, 2, [3] * length, []) for length in (300, 310, 5, 290)))
    assert pieces(fan) == [[0, 2], [0, 1, 3], [0, 4]]
    packed = pack([fan])
    assert packed.ids_BT.shape == (3, 312)
    # each row begins with the prompt, whose place is that in the first
    assert packed.ids_BT[:, :3].tolist() == [[1, 2, 3]] * 3
    assert packed.starts == [[0, 312 + 2, 2, 312 + 302, 2 * 312 + 2]]
    assert packed.source_N[[0, 300, 610, 615]].tolist() == [312 + 1, 1, 312 + 1, 2 * 312 + 1]
    # what is long before the branches is not repeated
    assert pieces(make_tree([1] * 900, (0, 900, [3] * 300, []), (0, 900, [3] * 310, []))) == [[0, 1, 2]]


def test_positions_are_depths_in_the_trajectory():
    packed = pack([branching_tree()])
    assert packed.positions_BT.tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 3, 4, 5, 7, 8, 6, 7, 8, 9, 7, 8]
    ]  # fmt: skip
    assert packed.target_N.tolist() == list(range(3, 20))
    # each node's first token is predicted by the last of the state that it continues
    assert packed.source_N.tolist() == [2, 3, 4, 5, 6, 7, 2, 9, 10, 6, 12, 5, 14, 15, 13, 14, 18]


@pytest.mark.parametrize("cost", [0, 512])
def test_state_is_the_last_token_of_the_prefix(monkeypatch, cost):
    some = trees()
    monkeypatch.setattr(packing, "LAYERS_COST", cost)
    packed = pack(some, row_tokens=30)
    ids = packed.ids_BT.flatten()
    for t, tree in enumerate(some):
        for i, node in enumerate(tree.nodes):
            for offset in range(len(node.token_ids) + 1):
                prefix = tree.token_ids(i, offset)
                if prefix:
                    at = packed.state(t, i, offset)
                    assert ids[at] == prefix[-1]
                    assert packed.positions_BT.flatten()[at] == len(prefix) - 1
    monkeypatch.undo()
    single = pack([branching_tree()])
    # with offset 0: the state that the node continues, through an empty or fresh node too
    assert (single.state(0, 5, 0), single.state(0, 6, 0), single.state(0, 1, 0)) == (13, 14, 2)


def test_batches_hold_each_tree_once_within_the_limit():
    some = [make_tree([1], (0, 1, list(range(n)), [])) for n in (3, 90, 7, 40, 40, 5, 200)]
    for max_tokens in (1, 100, 256, 10_000):
        found = batches(some, max_tokens, row_tokens=16)
        assert sorted(t for batch in found for t in batch) == list(range(7))
        for batch in found:
            packed = pack([some[t] for t in batch], row_tokens=16)
            assert len(batch) == 1 or packed.ids_BT.numel() <= max_tokens
    assert batches([], 10) == []


def test_a_wide_model_is_laid_out_in_fewer_pieces():
    """A branch apart has the prompt before it once more: that pays where attention is what costs."""

    def net(**sizes):
        return PolicyNet(
            AutoModelForCausalLM.from_config(
                AutoConfig.for_model("qwen2", vocab_size=8, num_hidden_layers=1, **sizes)
            )
        )

    narrow = net(hidden_size=128, intermediate_size=448, num_attention_heads=4, num_key_value_heads=2)
    assert layers_cost(narrow) == pytest.approx(packing.LAYERS_COST, rel=0.05)
    wide = layers_cost(
        net(hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3)
    )
    assert wide == pytest.approx(3.54e6 / (2 * 576 * packing.PAIR_COST), rel=0.01)
    tree = make_tree([1] * 40, *[(0, 40, [2] * 20, [19])] * 16)
    assert len(pieces(tree)) > 1 == len(pieces(tree, wide))
    assert pack([tree], cost=wide).ids_BT.shape == (1, 360)
    assert batches([tree] * 2, 3 * 360, cost=wide) == [[0, 1]]
