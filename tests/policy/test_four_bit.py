"""A base in 4 bits under an adapter: what is drawn and what is trained are one model, and gradients go through it."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reasoner.policy.adapters import LoRA, SharedBase

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install 'reasoner[qlora]')")
IDS = torch.arange(24).view(2, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, **shape)).save_pretrained(path)
    return path


def gradient(base: SharedBase) -> torch.Tensor:
    weights = [p for p in base.lm.parameters() if p.requires_grad]
    logits = base.lm(IDS).logits
    return torch.cat([g.flatten() for g in torch.autograd.grad(logits.pow(2).mean(), weights)])


def test_drawing_from_the_base_leaves_its_gradients(folder):
    from bitsandbytes.nn import Linear4bit

    base = SharedBase(str(folder), LoRA(r=4, four_bit=True))
    assert sum(isinstance(m, Linear4bit) for m in base.lm.modules()) == 14
    for name, p in base.lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    before = gradient(base)
    with torch.no_grad():
        drawn = base.lm.eval()(IDS).logits
    trained = base.lm.train()(IDS).logits
    torch.testing.assert_close(drawn, trained, rtol=0, atol=1e-4)
    torch.testing.assert_close(gradient(base), before, rtol=0, atol=1e-6 * float(before.abs().max()))
    assert (before != 0).float().mean() > 0.9
