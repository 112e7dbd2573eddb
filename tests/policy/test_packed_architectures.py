"""The trainer's log-probabilities of packed trees are the model's own, with sliding windows, soft caps and scales."""

import pytest
import torch
from small_models import branching_tree, small_lm

from reasoner.policy.heads import PolicyNet
from reasoner.signals.packing import pack

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


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_packed_logprobs_are_those_of_each_path(kind, options):
    model, tree = small_lm(kind, **options), branching_tree()
    packed = pack([tree], row_tokens=32)
    with torch.no_grad():
        found, _ = PolicyNet(model)(
            packed.ids_BT, packed.positions_BT, packed.mask_B1TT, packed.source_N, packed.target_N
        )
        expected = []
        for i, node in enumerate(tree.nodes[1:], 1):
            ids = tree.token_ids(i, len(node.token_ids))
            table = torch.log_softmax(model(torch.tensor([list(ids)]), use_cache=False).logits[0].float(), -1)
            start = len(ids) - len(node.token_ids)
            expected += [float(table[start + k - 1, t]) for k, t in enumerate(node.token_ids)]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
