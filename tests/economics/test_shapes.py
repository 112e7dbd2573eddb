"""Counts and cache sizes against published figures and against real objects."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from reasoner.economics.memory import kv_cache_bytes, shared_kv_bytes
from reasoner.economics.shape import count_parameters, shape_of
from reasoner.registry import UserError


def llama(layers, hidden, inner, heads, kv_heads, vocab=128256, **more):
    return AutoConfig.for_model(
        "llama", num_hidden_layers=layers, hidden_size=hidden, intermediate_size=inner, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocab, **{"tie_word_embeddings": False, **more},
    )  # fmt: skip


LLAMA_405B = llama(126, 16384, 53248, 128, 8)
PUBLISHED = {  # parameters by the models' own cards and indices
    "Llama 3.1 8B": (llama(32, 4096, 14336, 32, 8), 8_030_261_248),
    "Llama 3.1 70B": (llama(80, 8192, 28672, 64, 8), 70_553_706_496),
    "Llama 3.1 405B": (LLAMA_405B, 405_853_388_800),
    "SmolLM2 135M": (llama(30, 576, 1536, 9, 3, 49152, tie_word_embeddings=True), 134_515_008),
    "Qwen2.5 0.5B": (
        AutoConfig.for_model(
            "qwen2", num_hidden_layers=24, hidden_size=896, intermediate_size=4864, num_attention_heads=14,
            num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True,
        ),
        494_032_768,
    ),
    "Qwen2.5 7B": (
        AutoConfig.for_model(
            "qwen2", num_hidden_layers=28, hidden_size=3584, intermediate_size=18944, num_attention_heads=28,
            num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False,
        ),
        7_615_616_512,
    ),
    "Qwen3 0.6B": (
        AutoConfig.for_model(
            "qwen3", num_hidden_layers=28, hidden_size=1024, intermediate_size=3072, num_attention_heads=16,
            num_key_value_heads=8, head_dim=128, vocab_size=151936, tie_word_embeddings=True,
        ),
        596_049_920,
    ),
    "Mistral 7B v0.1": (
        AutoConfig.for_model(
            "mistral", num_hidden_layers=32, hidden_size=4096, intermediate_size=14336, num_attention_heads=32,
            num_key_value_heads=8, vocab_size=32000, tie_word_embeddings=False,
        ),
        7_241_732_096,
    ),
    "Mixtral 8x7B": (
        AutoConfig.for_model(
            "mixtral", num_hidden_layers=32, hidden_size=4096, intermediate_size=14336, num_attention_heads=32,
            num_key_value_heads=8, vocab_size=32000, num_local_experts=8, num_experts_per_tok=2,
            tie_word_embeddings=False,
        ),
        46_702_792_704,
    ),
    "Gemma 2 2B": (
        AutoConfig.for_model(
            "gemma2", num_hidden_layers=26, hidden_size=2304, intermediate_size=9216, num_attention_heads=8,
            num_key_value_heads=4, head_dim=256, vocab_size=256000, tie_word_embeddings=True,
        ),
        2_614_341_888,
    ),
    "Phi-3 mini": (
        AutoConfig.for_model(
            "phi3", num_hidden_layers=32, hidden_size=3072, intermediate_size=8192, num_attention_heads=32,
            num_key_value_heads=32, vocab_size=32064, tie_word_embeddings=False,
        ),
        3_821_079_552,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    config, published = PUBLISHED[name]
    assert count_parameters(config).total == published


def test_active_parameters_of_a_mixture():
    config, _ = PUBLISHED["Mixtral 8x7B"]
    counted = count_parameters(config)
    assert counted.active + counted.embedding == pytest.approx(12.9e9, rel=0.01)  # the authors' figure


def test_a_tied_output_layer_is_a_product_and_not_counted_twice():
    counted = count_parameters(PUBLISHED["SmolLM2 135M"][0])
    assert counted.embedding == 0 and counted.dense < counted.total
    untied = count_parameters(PUBLISHED["Phi-3 mini"][0])
    assert untied.embedding == 32064 * 3072


def test_the_published_cache_of_llama_405b():
    assert kv_cache_bytes(LLAMA_405B, 1, 1, 2) == 516_096


def test_latent_attention_keeps_512_and_64_values_a_layer():
    config = AutoConfig.for_model("deepseek_v3")  # the defaults are the 671B model's
    assert kv_cache_bytes(config, 1, 1, 2) == config.num_hidden_layers * (512 + 64) * 2
    assert (
        kv_cache_bytes(config, 1, 1, 2, compressed=False) == config.num_hidden_layers * 128 * (192 + 128) * 2
    )


SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 64, "max_position_embeddings": 128,
}  # fmt: skip
CACHED = {
    "grouped": AutoConfig.for_model("llama", **SMALL),
    "head size of its own": AutoConfig.for_model("qwen3", head_dim=16, **SMALL),
    "window in all layers": AutoConfig.for_model("mistral", sliding_window=8, **SMALL),
    "every second layer a window": AutoConfig.for_model("gemma2", head_dim=8, sliding_window=8, **SMALL),
    "multi-query": AutoConfig.for_model("llama", **{**SMALL, "num_key_value_heads": 1}),
}


@pytest.mark.parametrize("name", CACHED)
def test_a_real_cache_has_the_predicted_bytes(name):
    config = CACHED[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    cache = DynamicCache(config=config)
    with torch.inference_mode():
        for piece in (torch.ones(3, 5, dtype=torch.long), torch.ones(3, 1, dtype=torch.long)):
            model(piece, past_key_values=cache, use_cache=True)
    held = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert held == kv_cache_bytes(config, 6, 3, 4)


def test_a_window_bounds_what_its_layers_keep():
    config = CACHED["every second layer a window"]
    assert shape_of(config).windows == (8, None, 8, None)
    # two layers keep 8 tokens, two keep 100; two heads of 8, keys and values, in 16 bits
    assert kv_cache_bytes(config, 100, 1, 2) == (2 * 8 + 2 * 100) * 2 * 2 * 8 * 2


def test_votes_over_a_shared_prefix_keep_it_once():
    shared, alone = shared_kv_bytes(LLAMA_405B, prefix=1000, branches=16, tokens=500)
    assert shared == 516_096 * (1000 + 16 * 500)
    assert alone == 516_096 * 16 * 1500


def test_a_config_without_sizes_is_one_line():
    with pytest.raises(UserError, match=r"num_hidden_layers.*expected a decoder's config"):
        shape_of(AutoConfig.for_model("clip_vision_model").__class__.__mro__[1]())
