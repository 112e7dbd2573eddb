"""Stop strings, cancellation, adapters per request, min-p and bad input: what a request may ask of the engine."""

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from small_models import always, small_lm

from reasoner.engine.connect import EngineConfig
from reasoner.engine.local import LocalEngine
from reasoner.engine.open import open_engine
from reasoner.engine.protocol import BASE, Request, Sampling, place_key
from reasoner.policy.models import train_tokenizer
from reasoner.registry import UserError

PROMPT = [5, 9, 2, 33, 7, 7, 41, 12]
GREEDY = Sampling(temperature=0.0)
TEXTS = ["one step.\n\nthen the next step.\n\n#### 7", "abc abd abe"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 280)


@pytest.fixture(scope="module")
def lm(tokenizer):
    return small_lm("qwen2", vocab_size=len(tokenizer))


def engine_of(model, **options) -> LocalEngine:
    return LocalEngine(model, **{"eos_ids": [0], "num_slots": 4, "max_context": 128, **options})


def request(id, prefix=PROMPT, max_tokens=12, sampling=GREEDY, **options) -> Request:
    return Request(id, prefix, max_tokens, place_key(0, 0, str(id), [(len(prefix), 0)]), sampling, **options)


# --- stop strings ---


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("b.\n", "ab.\n"),  # across three tokens
        ("\n", "ab.\n"),
        ("a", "a"),
        ("ab.\n\xe9a", "ab.\n\xe9a"),  # a character of two tokens
        ("b.a", None),  # never comes
    ],
)
def test_a_stop_string_ends_with_the_token_that_completes_it(lm, tokenizer, stop, text):
    written = [tokenizer(piece).input_ids[0] for piece in "ab.\n"] + tokenizer("\xe9").input_ids
    assert len(written) == 6
    model = always(lm, *written)
    engine = engine_of(model, tokenizer=tokenizer)
    prefix = [9, written[-1]]
    found, other = engine.sample(
        [request("s", prefix, 20, stop_strings=(stop, "zzz")), request("o", prefix, 9)]
    )
    assert len(other.token_ids) == 9 and other.stop_reason == "length"
    if text is None:
        assert (found.stop_reason, len(found.token_ids)) == ("length", 20)
    else:
        assert (found.stop_reason, tokenizer.decode(found.token_ids)) == ("stop", text)


def test_stop_strings_stop_where_the_text_first_holds_them(lm, tokenizer):
    engine = engine_of(lm, tokenizer=tokenizer, num_slots=16)
    asked = [
        request(i, PROMPT[: 1 + i % 6], 40, Sampling(), stop_strings=("e", "st", "\n")) for i in range(40)
    ]
    free = [request(i, r.prefix_ids, 40, Sampling()) for i, r in enumerate(asked)]
    stopped = 0
    for got, whole in zip(engine.sample(asked), engine.sample(free), strict=True):
        texts = [tokenizer.decode(whole.token_ids[: n + 1]) for n in range(len(whole.token_ids))]
        ends = [n + 1 for n, t in enumerate(texts) if any(s in t for s in ("e", "st", "\n"))]
        assert got.token_ids == (whole.token_ids[: ends[0]] if ends else whole.token_ids)
        stopped += got.stop_reason == "stop"
    assert stopped > 10


def test_stop_strings_need_a_tokenizer_that_fits(lm, tokenizer):
    with pytest.raises(UserError, match="need a tokenizer"):
        engine_of(lm).submit([request("a", stop_strings=("x",))])
    with pytest.raises(UserError, match="belongs to the model"):
        engine_of(small_lm("qwen2"), tokenizer=tokenizer)
    with pytest.raises(UserError, match="belongs to the model"):
        engine_of(lm, eos_ids=[100_000])


# --- cancellation ---


def test_a_running_request_ends_at_once(lm):
    engine = engine_of(lm, eos_ids=[], num_slots=2)
    engine.submit([request("short", max_tokens=3), request("long", max_tokens=60), request("waits")])
    assert [c.id for c in engine.poll()] == ["short"]
    engine.cancel(["long", "waits", "unknown"])
    found = {c.id: c for c in engine.poll()}
    assert {i: (len(c.token_ids), c.stop_reason) for i, c in found.items()} == {
        "long": (3, "cancelled"),
        "waits": (0, "cancelled"),
    }
    assert engine.poll() == []
    assert engine.sample([request("long", max_tokens=6)])[0].token_ids[:3] == found["long"].token_ids


# --- adapters ---


def adapted(kind: str = "qwen2", **options):
    """A model with adapters a and b of different ranks and scales, b active."""
    model = small_lm(kind, **options)
    targets = {"target_modules": "all-linear"} if kind != "gpt2" else {"target_modules": ["c_attn", "c_proj"]}
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **targets), "a")
    wrapped.add_adapter("b", LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, **targets))
    wrapped.set_adapter("b")
    return wrapped.eval()


@pytest.mark.parametrize("kind", ["qwen2", "phi", "gpt2"])
def test_rows_of_several_adapters_in_one_batch(kind):
    wrapped = adapted(kind)
    trainable = [n for n, p in wrapped.named_parameters() if p.requires_grad]
    names = ["a", "b", BASE, ""]
    asked = [request((name, i), PROMPT[i:], 10, adapter=name) for i in range(3) for name in names]
    engine = engine_of(wrapped, num_slots=6)
    found = {c.id: c for c in [*engine.sample(asked), *engine.sample(asked)]}  # once more from the cache
    for name in names:
        for i in range(3):
            mine = found[name, i]
            assert mine.adapter == name
            if name == BASE:
                with wrapped.disable_adapter(), torch.no_grad():
                    logits = wrapped(torch.tensor([[*PROMPT[i:], *mine.token_ids]])).logits[0]
            else:
                wrapped.set_adapter(name or "b")
                with torch.no_grad():
                    logits = wrapped(torch.tensor([[*PROMPT[i:], *mine.token_ids]])).logits[0]
                wrapped.set_adapter("b")
            logprobs = torch.log_softmax(logits, -1)[len(PROMPT) - i - 1 : -1]
            picked = logprobs.gather(-1, torch.tensor(mine.token_ids)[:, None])[:, 0]
            assert torch.allclose(torch.tensor(mine.logprobs_full), picked, atol=1e-4)
            assert logprobs.argmax(-1).tolist() == list(mine.token_ids)
    assert found["a", 0].token_ids != found["b", 0].token_ids != found[BASE, 0].token_ids
    as_it_stands = [r for r in asked if r.adapter == ""]
    for r, c in zip(as_it_stands, engine_of(wrapped).sample(as_it_stands), strict=True):  # no row names one
        assert c.token_ids == found[r.id].token_ids == found["b", r.id[1]].token_ids
    assert [n for n, p in wrapped.named_parameters() if p.requires_grad] == trainable


def test_adapters_never_meet_each_others_keys_and_values():
    wrapped = adapted()
    for name in ("a", "b", "", BASE):
        engine = engine_of(wrapped)
        for other in ("a", "b", "", BASE):
            engine.sample([request(other, adapter=other)])
        alone = engine_of(wrapped).sample([request(0, adapter=name)])[0]
        after = engine.sample([request(0, adapter=name)])[0]
        assert after.token_ids == alone.token_ids
        assert after.logprobs_full == pytest.approx(alone.logprobs_full, abs=1e-5)


def test_score_under_an_adapter_and_new_adapter_weights():
    wrapped = adapted()
    engine = engine_of(wrapped)
    base, a = engine.score([PROMPT], BASE)[0], engine.score([PROMPT], "a")[0]
    with wrapped.disable_adapter():
        assert base == pytest.approx(engine_of(wrapped).score([PROMPT])[0], abs=1e-4)
    assert a != pytest.approx(base, abs=1e-2)
    before = engine.sample([request(0, adapter="a"), request(1)])
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if "lora_B" in name:
                p.zero_()
    engine.load_weights(1)
    assert engine.score([PROMPT], "a")[0] == pytest.approx(base, abs=1e-4)
    after = engine.sample([request(0, adapter="a"), request(1), request(2, adapter=BASE)])
    assert after[0].token_ids == after[1].token_ids == after[2].token_ids
    assert after[0].token_ids != before[0].token_ids


def test_an_unknown_adapter_is_named():
    with pytest.raises(UserError, match="no adapter 'c' in this model; expected one of a, b, base"):
        engine_of(adapted()).submit([request(0, adapter="c")])
    merged = adapted()
    merged.merge_adapter()
    with pytest.raises(UserError, match="unmerge"):
        engine_of(merged).sample([request(0, adapter="a")])


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_in_half_precision_an_adapters_products_are_not_rounded_into_the_weights(kind):
    wrapped = adapted(kind).bfloat16()
    for name, p in wrapped.named_parameters():
        if "lora_" in name:
            p.data = p.data.float()  # as it is trained
    engine = engine_of(wrapped)
    mine = engine.sample([request(0, max_tokens=12)])[0]
    assert engine.decoder is not None and engine.decoder.blocks[0].qkv.low is not None

    def logprobs() -> torch.Tensor:
        with torch.no_grad():
            logits = wrapped(torch.tensor([[*PROMPT, *mine.token_ids]])).logits[0].float()
        at = torch.log_softmax(logits, -1)[len(PROMPT) - 1 : -1]
        return at.gather(-1, torch.tensor(mine.token_ids)[:, None])[:, 0]

    drawn, modules = torch.tensor(mine.logprobs_full), logprobs()
    with wrapped.disable_adapter():
        base = logprobs()
    wrapped.float()
    exact = logprobs()
    ours, theirs = ((x - exact).abs().max() for x in (drawn, modules))
    assert ours < 2 * theirs + 1e-3, (ours, theirs)
    assert (base - exact).abs().max() > 10 * ours


# --- bad input ---


def test_what_cannot_be_drawn_is_a_reason_and_the_others_finish(lm):
    engine = engine_of(lm, max_context=20)
    asked = [
        request("good", max_tokens=4),
        request("empty", []),
        request("long", [1] * 20),
        request("unknown", [1, 10_000]),
        request("negative", [-1, 3]),
        request("nothing", max_tokens=0),
        request("good too", max_tokens=4),
    ]
    reasons = {c.id: (c.stop_reason, len(c.token_ids)) for c in engine.sample(asked)}
    assert reasons == {
        "good": ("length", 4), "empty": ("empty", 0), "long": ("context", 0), "unknown": ("vocabulary", 0),
        "negative": ("vocabulary", 0), "nothing": ("length", 0), "good too": ("length", 4),
    }  # fmt: skip


def test_a_budget_too_small_for_one_sequence(lm):
    per_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head size, bytes
    engine = engine_of(lm, eos_ids=[], slot_bytes=12 * per_token)
    short, full, over = engine.sample(
        [request("short", PROMPT[:4], 5), request("full", PROMPT, 30), request("over", PROMPT * 2, 2)]
    )
    assert (short.stop_reason, len(short.token_ids)) == ("length", 5)
    assert (full.stop_reason, len(full.token_ids)) == ("memory", 4)
    assert (over.stop_reason, len(over.token_ids)) == ("memory", 0)
    assert engine_of(lm, slot_bytes=3 * 128 * per_token).num_slots == 3
    assert engine_of(lm, slot_bytes=0).sample([request(0)])[0].stop_reason == "memory"


def test_how_much_keys_and_values_may_take_is_a_key(lm, tokenizer, tmp_path):
    per_token = 2 * 2 * 2 * 8 * 4

    def opened(kv_bytes: int) -> LocalEngine:
        found = open_engine(EngineConfig(kv_bytes=kv_bytes), lm, tokenizer, [0], 64, 9, tmp_path, PROMPT)
        assert isinstance(found, LocalEngine)
        return found

    assert opened(3 * 64 * per_token).num_slots == 3
    with pytest.raises(
        UserError, match=f"kv_bytes={63 * per_token} holds 63 tokens .* expected {64 * per_token} bytes"
    ):
        opened(63 * per_token)
    with pytest.raises(ValueError, match="kv_bytes with kind vllm"):
        EngineConfig(kind="vllm", spawn=1, kv_bytes=1)


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": -1}, {"top_p": 1.5}, {"min_p": -0.1}])
def test_sampling_rules_out_of_range(bad):
    with pytest.raises(ValueError, match="expected a temperature"):
        Sampling(**bad)


# --- lengths and types of numbers ---


@pytest.mark.parametrize("kind", ["qwen2", "phi"])
def test_bfloat16_numbers_are_those_of_the_model(kind):
    model = small_lm(kind).bfloat16()
    asked = [request(i, PROMPT[: 2 + i], 12, Sampling()) for i in range(6)]
    for r, c in zip(asked, engine_of(model).sample(asked), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*r.prefix_ids, *c.token_ids]])).logits[0].float()
        logprobs = torch.log_softmax(logits, -1)[len(r.prefix_ids) - 1 : -1]
        picked = logprobs.gather(-1, torch.tensor(c.token_ids)[:, None])[:, 0]
        assert (torch.tensor(c.logprobs_full) - picked).abs().max() < 0.25  # logits near 8 have steps of 1/16
        assert all(math.isfinite(x) for x in c.entropy)


def test_a_model_in_training_draws_without_dropout():
    model = small_lm("gpt2", attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    asked = [request(i, PROMPT, 10) for i in range(3)]
    expected = [c.token_ids for c in engine_of(model).sample(asked)]
    model.train()
    assert [c.token_ids for c in engine_of(model).sample(asked)] == expected
    assert model.training and model.transformer.h[0].attn.training


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["qwen2", "phi"])
def test_cuda_draws_what_the_cpu_draws(kind):
    model = small_lm(kind)
    asked = [request(i, PROMPT[: 2 + i % 5], 20, Sampling(top_p=0.9)) for i in range(12)]
    here = engine_of(model).sample(asked)
    there = engine_of(copy.deepcopy(model).cuda()).sample(asked)
    assert (
        sum(a.token_ids == b.token_ids for a, b in zip(here, there, strict=True)) >= 11
    )  # rounding may flip one
