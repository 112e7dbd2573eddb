"""Every architecture is drawn as its own forward pass would, or refused by name before anything is drawn."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from reasoner.engine.check import check_sampler
from reasoner.engine.local import LocalEngine
from reasoner.registry import UserError
from reasoner.trainers.gates import check_packed

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
RIGHT = {
    "llama": GROUPED, "mistral": {**GROUPED, "sliding_window": 4}, "qwen2": GROUPED, "qwen3": GROUPED,
    "gemma2": GROUPED, "gemma3_text": {**GROUPED, "sliding_window": 4}, "phi": {}, "phi3": {"num_key_value_heads": 2},
    "gpt2": {}, "gpt_neox": {}, "cohere": {**GROUPED, "logit_scale": 0.25}, "olmo2": {"num_key_value_heads": 2},
    "granite": {"num_key_value_heads": 2}, "starcoder2": {"num_key_value_heads": 2}, "mixtral": {**GROUPED, **EXPERTS},
    "gpt_oss": {**GROUPED, **EXPERTS, "sliding_window": 4},
}  # fmt: skip
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
REFUSED = {
    "gptj": {}, "bloom": {"n_head": 4, "n_layer": 2}, "mamba": {}, "stablelm": {"num_key_value_heads": 2},
    "qwen3_next": {**GROUPED, **LINEAR, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                   "shared_expert_intermediate_size": 16, "linear_num_value_heads": 2, "linear_num_key_heads": 2,
                   "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "lfm2": {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
    "deepseek_v3": {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4,
                    "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
                    "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1},
}  # fmt: skip


def made(kind: str, **options):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **options})).eval()


def engine_on(model, max_context: int = 64) -> LocalEngine:
    return LocalEngine(model, [0], 4, max_context)


@pytest.mark.parametrize("kind", RIGHT)
def test_these_are_drawn_right(kind):
    engine = engine_on(made(kind, **RIGHT[kind]))
    check_sampler(engine)
    assert not engine.prefixes.num_bytes  # nothing of the check stays


@pytest.mark.parametrize("kind", REFUSED)
def test_these_are_right_or_refused_by_name(kind):
    model = made(kind, **REFUSED[kind])
    try:
        engine = engine_on(model)
    except UserError as problem:
        assert kind in str(problem)
        return
    with pytest.raises(UserError, match=f"local engine (cannot run|draws) {kind} models"):
        check_sampler(engine)


@pytest.mark.parametrize("kind", RIGHT)
def test_these_are_trained_right_on_packed_trees(kind):
    check_packed(made(kind, **RIGHT[kind]))


@pytest.mark.parametrize("kind", ["mamba", "qwen3_next", "lfm2"])
def test_a_state_that_goes_from_token_to_token_is_refused(kind):
    with pytest.raises(UserError, match=kind):
        check_packed(made(kind, **REFUSED[kind]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_of_large_logits_is_no_fault(dtype):
    model = made("llama", **GROUPED)
    with torch.no_grad():
        model.lm_head.weight *= 12
    model = model.to(dtype)
    assert model(torch.arange(20)[None]).logits.detach().abs().max() > 40
    check_packed(model)
    check_sampler(engine_on(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_wrong_attention_is_found(monkeypatch, dtype):
    engine = engine_on(made("qwen2", **GROUPED).to(dtype))
    engine.decoder = None
    monkeypatch.setattr("reasoner.engine.decoder.fits", lambda model: False)
    from reasoner.policy import attention

    plain = attention.attend
    monkeypatch.setattr(
        attention, "attend", lambda q, k, v, s, w, scale, *more: plain(q, k, v, s, w, 0.9 * scale, *more)
    )
    with pytest.raises(UserError, match="draws qwen2 models wrongly: log-probabilities are off by up to"):
        check_sampler(engine)


def test_rotations_that_follow_the_longest_sequence_are_refused_beyond_their_length():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = made("llama", **{**GROUPED, "max_position_embeddings": 32, "rope_parameters": rope})
    check_sampler(engine_on(model, 32))
    with pytest.raises(UserError, match="at most 32"):
        check_sampler(engine_on(model, 33))
