"""The config of the 7B model, built and stepped whole on tensors without storage: shapes, gradients, bytes."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from reasoner.config import read_yaml, validate
from reasoner.pipeline import RunConfig
from reasoner.policy import adapters
from reasoner.trainers.policy_models import load_models

GIB = 2**30


def qwen_7b(*_, **__):
    """Qwen2.5-7B's shape, from its model card's config.json."""
    config = AutoConfig.for_model(
        "qwen2", vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, max_position_embeddings=131072, tie_word_embeddings=False,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def test_one_gpu_holds_the_7b_model_and_its_adapters(monkeypatch):
    monkeypatch.setattr(adapters, "load_model", qwen_7b)
    path = Path(__file__).parent.parent.parent / "configs/gsm8k/ppo_7b.yaml"
    stage = validate(RunConfig, read_yaml(path), str(path)).stages[0]
    with torch.device("meta"):
        models, sampler = load_models(stage.model, None, None, stage)
    base = sum(w.numel() * w.element_size() for w in sampler.shared.lm.parameters() if not w.requires_grad)
    trained = [w for net in (models.policy, models.critic) for w in net.parameters() if w.requires_grad]
    assert 14 * GIB < base < 15 * GIB  # one copy of 7.6 billion weights in bfloat16
    # weights, gradients and two moments of policy and critic in float32
    assert 4 * sum(w.numel() * w.element_size() for w in trained) < 3 * GIB

    rows, width = 8192 // 1024, 1024
    meta = {"device": "meta"}
    ids_BT = torch.zeros(rows, width, dtype=torch.long, **meta)
    tour_B2T = torch.zeros(rows, 2, width, dtype=torch.int32, **meta)
    some_N = torch.zeros(4000, dtype=torch.long, **meta)
    logprobs_N, _ = models.policy(ids_BT, ids_BT, tour_B2T, some_N, some_N)
    values_S = models.critic(ids_BT, ids_BT, tour_B2T, some_N[:200], some_N, some_N)
    (logprobs_N.sum() + values_S.sum()).backward()
    assert logprobs_N.shape == (4000,) and values_S.shape == (200,)
    assert all(w.grad is not None for net in (models.policy, models.critic) for w in net.parameters())
    assert all(w.grad is None for w in sampler.shared.lm.parameters() if not w.requires_grad)
