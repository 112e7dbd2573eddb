"""Windows and mixtures of experts: operations and kept activations against torch's own count, sizes against published ones."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from reasoner.economics.memory import activation_bytes
from reasoner.economics.shape import count_parameters, feed_forward, shape_of
from reasoner.economics.speed import forward_flops, training_flops, weight_flops

SMALL = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 96, "max_position_embeddings": 128,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "n_group": 2,
    "topk_group": 2,
}  # fmt: skip
KINDS = {
    "window in all layers": ("mistral", {"sliding_window": 8}),
    "every second layer a window": ("gemma2", {"head_dim": 16, "sliding_window": 8}),
    "local and global": ("gemma3_text", {"head_dim": 16, "sliding_window": 8,
                                         "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}),
    "experts": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "experts and a shared one": ("qwen2_moe", {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
                                               "shared_expert_intermediate_size": 80, "mlp_only_layers": [1]}),
    "many small experts": ("qwen3_moe", {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 48,
                                         "head_dim": 16}),
    "latent attention and experts": ("deepseek_v3", {**LATENT, "num_key_value_heads": 4, "n_routed_experts": 8,
                                                     "n_shared_experts": 1, "num_experts_per_tok": 2,
                                                     "moe_intermediate_size": 48, "first_k_dense_replace": 1}),
}  # fmt: skip


def config_of(name: str, attention: str = "eager"):
    kind, own = KINDS[name]
    return AutoConfig.for_model(kind, attn_implementation=attention, **{**SMALL, **own})


@pytest.mark.parametrize("name", KINDS)
def test_operations_are_those_that_eager_attention_and_the_chosen_experts_take(name):
    """Eager attention computes the whole square, also beyond a window; of grouped products torch's counter knows nothing."""
    config = config_of(name)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager")
    ids = torch.randint(0, 96, (2, 48))
    with FlopCounterMode(display=False) as forward:
        logits = model(ids, use_cache=False).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    counted = forward.get_total_flops()
    assert forward_flops(config, 48, 2) == pytest.approx(counted, rel=0.02)
    assert training_flops(config, 48, 2) == pytest.approx(counted + backward.get_total_flops(), rel=0.02)


def test_of_what_is_attended_to_a_window_leaves_out_the_rest():
    config = config_of("local and global")
    assert shape_of(config).windows == (8, 8, 8, None)
    weights = weight_flops(count_parameters(config))
    # of ten tokens the last two don't see all: 1 + … + 8 + 8 + 8 pairs in three layers, 1 + … + 10 in one
    assert forward_flops(config, 10, 3, causal=True) == 3 * (10 * weights + 4 * 4 * 16 * (3 * (36 + 16) + 55))
    assert forward_flops(config, 10, 3) == 3 * (10 * weights + 4 * 4 * 16 * 4 * 100)


def kept_bytes(model, ids) -> int:
    """Bytes that autograd keeps from the forward pass of the layers, weights left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.get_decoder()(ids, use_cache=False).last_hidden_state
    assert hidden.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("name", [n for n in KINDS if "window" not in n and "local" not in n])
def test_kept_activations_of_a_mixture(name):
    config = config_of(name, "sdpa")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).train()
    measured = kept_bytes(model, torch.randint(0, 96, (2, 64)))
    predicted, _ = activation_bytes(shape_of(config), config, 128, 4, checkpointing=False)
    print(f"{name}: predicted {predicted:,.0f}, measured {measured:,.0f}, {predicted / measured - 1:+.1%}")
    assert predicted == pytest.approx(measured, rel=0.15)


def test_what_a_layer_of_experts_keeps_of_a_token():
    config = config_of("experts and a shared one")
    # two experts of 48 with a token's input and output, a probability of each of six, the shared one and its output
    sparse = 2 * (4 * 48 + 2 * 64) + 6 + 4 * 80 + 64
    assert feed_forward(config) == (sparse, 4 * 160, sparse, sparse)


def moe(kind: str, layers: int, hidden: int, heads: int, kv_heads: int, vocab: int, **more):
    return AutoConfig.for_model(
        kind, num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv_heads,
        vocab_size=vocab, tie_word_embeddings=False, **more,
    )  # fmt: skip


PUBLISHED = {  # 10^9 parameters, and those that a token goes through, by the models' cards
    "Mixtral 8x22B": (moe("mixtral", 56, 6144, 48, 8, 32768, intermediate_size=16384, num_local_experts=8,
                          num_experts_per_tok=2), 141, 39),
    "Qwen3-30B-A3B": (moe("qwen3_moe", 48, 2048, 32, 4, 151936, intermediate_size=6144, moe_intermediate_size=768, head_dim=128,
                          num_experts=128, num_experts_per_tok=8), 30.5, 3.3),
    "Qwen1.5-MoE-A2.7B": (moe("qwen2_moe", 24, 2048, 16, 16, 151936, intermediate_size=5632, moe_intermediate_size=1408,
                              shared_expert_intermediate_size=5632, num_experts=60, num_experts_per_tok=4), 14.3, 2.7),
    "OLMoE-1B-7B": (moe("olmoe", 16, 2048, 16, 16, 50304, intermediate_size=1024, num_experts=64, num_experts_per_tok=8),
                    6.9, 1.3),
    "DeepSeek-V3": (AutoConfig.for_model("deepseek_v3"), 671, 37),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_active_parameters_are_the_published_ones(name):
    """A card counts embeddings among the active parameters."""
    config, total, active = PUBLISHED[name]
    counted = count_parameters(config)
    assert counted.total / 1e9 == pytest.approx(total, rel=0.01)
    assert (counted.active + counted.embedding) / 1e9 == pytest.approx(active, rel=0.02)
