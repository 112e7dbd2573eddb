"""The trainer's log-probabilities of packed trees are the model's own, with sliding windows, soft caps and scales."""

import pytest
import torch
from small_models import branching_tree, make_tree, small_lm

from reasoner.policy import tree_attention
from reasoner.policy.attention import tree_mask
from reasoner.policy.heads import PolicyNet
from reasoner.policy.packing import pack
from reasoner.policy.recompute import recompute_layers

KINDS = [
    ("qwen2", {}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    ("mistral", {"sliding_window": 4}),
    ("gemma3_text", {"sliding_window": 4}),
    ("gemma2", {"sliding_window": 4, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.5}),
    ("cohere", {"logit_scale": 0.25}),
    ("phi", {}),
    ("gpt2", {}),
]


@pytest.mark.parametrize("cost", [tree_attention.CALL_COST, -1], ids=["masked", "node by node"])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_packed_logprobs_are_those_of_each_path(kind, options, cost, monkeypatch):
    monkeypatch.setattr(tree_attention, "CALL_COST", cost)
    model, tree = small_lm(kind, **options), branching_tree()
    packed = pack([tree], row_tokens=32)
    with torch.no_grad():
        found, _ = PolicyNet(model)(
            packed.ids_BT, packed.positions_BT, packed.tour_B2T, packed.source_N, packed.target_N
        )
        expected = []
        for i, node in enumerate(tree.nodes[1:], 1):
            ids = tree.token_ids(i, len(node.token_ids))
            table = torch.log_softmax(model(torch.tensor([list(ids)]), use_cache=False).logits[0].float(), -1)
            start = len(ids) - len(node.token_ids)
            expected += [float(table[start + k - 1, t]) for k, t in enumerate(node.token_ids)]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_blocks_are_the_nodes_and_their_ancestors():
    """branching_tree's nodes after a second tree of one token, and padding."""
    packed = pack([branching_tree(), make_tree([9])], row_tokens=24)
    runs = list(tree_attention._runs(tree_mask(packed.tour_B2T)[0, 0].numpy(), 0))
    # prompt and node 1 are one run; then nodes 2 to 6; the tree of one token and the padding see themselves alone
    assert [b - a for _, a, b in runs] == [9, 3, 2, 3, 1, 2, 1]
    block = tree_attention._block(tree_mask(packed.tour_B2T)[0, 0].numpy(), 0, 14, 17, torch.float32)
    assert block.seen.tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
        14,
        15,
        16,
    ]  # node 4 branches off after three tokens of node 1
    assert block.bias_11TS is not None and block.bias_11TS[0, 0].exp().tolist() == [
        [1.0] * 6 + [1, 0, 0], [1.0] * 6 + [1, 1, 0], [1.0] * 9,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "recompute"), [("qwen2", False), ("gpt2", False), ("phi", False), ("qwen2", True)]
)
def test_node_by_node_gives_the_gradients_of_the_mask(kind, recompute, monkeypatch):
    found = []
    for cost in (10**9, -1):
        monkeypatch.setattr(tree_attention, "CALL_COST", cost)
        model = small_lm(kind)
        if recompute:
            recompute_layers(model)
        called = []
        sdpa = torch.nn.functional.scaled_dot_product_attention
        monkeypatch.setattr(
            tree_attention.F,
            "scaled_dot_product_attention",
            lambda *a, c=called, f=sdpa, **k: c.append(1) or f(*a, **k),
        )
        packed = pack([branching_tree(), branching_tree()], row_tokens=32)
        logprobs, _ = PolicyNet(model)(
            packed.ids_BT, packed.positions_BT, packed.tour_B2T, packed.source_N, packed.target_N
        )
        logprobs.square().sum().backward()
        found.append((logprobs.detach(), [p.grad for p in model.parameters()], len(called)))
        monkeypatch.undo()
    (masked, masked_grads, none), (by_node, by_node_grads, some) = found
    times = 1 + recompute
    # one call a layer; layers, trees, runs of tokens with ancestors
    assert none == 2 * times and some == 2 * 2 * 6 * times
    assert torch.allclose(masked, by_node, atol=1e-5)
    for a, b in zip(masked_grads, by_node_grads, strict=True):
        assert a is not None and b is not None
        assert torch.allclose(a, b, atol=1e-5 * max(1.0, float(a.abs().max())), rtol=0)
