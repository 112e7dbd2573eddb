"""The local engine against plain forward passes of the same model, whatever the batching and the cache."""

import copy
import math

import pytest
import torch
from small_models import small_lm

from reasoner.engine.local import KEPT, LocalEngine
from reasoner.engine.protocol import Request, Sampling, place_key
from reasoner.ledger import Ledger

PROMPT = [5, 9, 2, 33, 7, 7, 41, 12]
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def lm():
    return small_lm("qwen2")


def engine_of(model, **options) -> LocalEngine:
    return LocalEngine(model, **{"eos_ids": [0], "num_slots": 8, "max_context": 128, **options})


def request(id, prefix=PROMPT, max_tokens=12, sampling=GREEDY, **options) -> Request:
    return Request(id, prefix, max_tokens, place_key(0, 0, str(id), [(len(prefix), 0)]), sampling, **options)


def varied_requests(count: int) -> list[Request]:
    """Requests of different prefixes, some shared, lengths and ways of sampling."""
    ways = [Sampling(), Sampling(temperature=0.7), Sampling(top_k=5), Sampling(top_p=0.8), GREEDY]
    return [
        request(i, PROMPT[: 1 + i % 5] + [1 + i % 3] * (i % 7), 3 + i % 20, ways[i % 5])
        for i in range(count)
    ]  # fmt: skip


@torch.inference_mode()
def full_logprobs(model, ids) -> torch.Tensor:
    return torch.log_softmax(model(torch.tensor([list(ids)]), use_cache=False).logits[0].float(), -1)


def check_numbers(model, asked: Request, completion) -> None:
    """Full log-probabilities and entropies equal those of a plain forward pass over the whole sequence."""
    start, tokens = len(asked.prefix_ids), torch.tensor(completion.token_ids)
    logprobs = full_logprobs(model, [*asked.prefix_ids, *completion.token_ids])[start - 1 : -1]
    picked = logprobs.gather(-1, tokens[:, None])[:, 0]
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    assert torch.allclose(torch.tensor(completion.logprobs_full), picked, atol=1e-4)
    assert torch.allclose(torch.tensor(completion.entropy), entropy, atol=1e-4)


def generated(model, prefix, max_tokens) -> list[int]:
    """What transformers itself generates greedily."""
    out = model.generate(
        torch.tensor([prefix]), attention_mask=torch.ones(1, len(prefix), dtype=torch.long),
        max_new_tokens=max_tokens, do_sample=False, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return out[0, len(prefix) :].tolist()


ARCHITECTURES = [
    pytest.param("llama", {}, id="llama"),
    pytest.param("qwen2", {"tie_word_embeddings": True}, id="qwen2"),
    pytest.param("qwen3", {}, id="qwen3"),
    pytest.param("mistral", {"sliding_window": None}, id="mistral"),
    pytest.param("gemma", {}, id="gemma"),
    pytest.param("phi", {}, id="phi"),
    pytest.param("gpt2", {}, id="gpt2"),
    pytest.param("gemma3_text", {"sliding_window": 256}, id="gemma3-wide-window"),
    pytest.param("mistral", {"sliding_window": 8}, id="mistral-window"),
    pytest.param("gemma3_text", {"sliding_window": 8}, id="gemma3-window"),
    pytest.param("gemma2", {"sliding_window": 8, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.5},
                 id="gemma2-window-and-caps"),
    pytest.param("cohere", {"logit_scale": 0.25}, id="cohere-logit-scale"),
    pytest.param("granite", {"logits_scaling": 3.0}, id="granite-logit-scale"),
    pytest.param("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
                 id="qwen2-window"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), ARCHITECTURES)
def test_greedy_output_is_that_of_generate(kind, options):
    model = small_lm(kind, **options)
    engine = engine_of(model, num_slots=3)
    asked = [request(i, [1 + (7 * i + 3 * j) % 60 for j in range(2 + 3 * i)], 24) for i in range(5)]
    for r, completion in zip(asked, engine.sample(asked), strict=True):
        assert list(completion.token_ids) == generated(model, r.prefix_ids, 24)
        check_numbers(model, r, completion)


def test_numbers_of_sampled_tokens(lm):
    asked = varied_requests(20)
    for r, completion in zip(asked, engine_of(lm).sample(asked), strict=True):
        check_numbers(lm, r, completion)
        full, own = completion.logprobs_full, completion.logprobs
        if r.sampling == GREEDY:
            assert own == (0.0,) * len(full)
        elif r.sampling == Sampling():
            assert own == pytest.approx(full, abs=1e-5)
        elif r.sampling.temperature == 1:  # renormalised over fewer tokens
            assert all(a >= b - 1e-5 for a, b in zip(own, full, strict=True))


@pytest.mark.parametrize("num_slots", [2, 5, 64])
def test_same_tokens_alone_and_in_company(lm, num_slots):
    asked = varied_requests(41)
    together = engine_of(lm, num_slots=num_slots).sample(asked)
    backwards = engine_of(lm, num_slots=num_slots).sample(asked[::-1])[::-1]
    for i, r in enumerate(asked):
        assert together[i].token_ids == backwards[i].token_ids
        assert together[i].stop_reason == backwards[i].stop_reason
        if i % 4 == 0:
            alone = engine_of(lm, num_slots=num_slots).sample([r])[0]
            assert alone.token_ids == together[i].token_ids
            assert alone.logprobs == pytest.approx(together[i].logprobs, abs=1e-4)
    assert len({c.token_ids for c in together}) > 25


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.6), Sampling(temperature=1.5, top_k=6)]
)
def test_first_tokens_follow_the_distribution(lm, sampling):
    n = 4000
    asked = [request(i, PROMPT, 1, sampling) for i in range(n)]
    drawn = torch.tensor([c.token_ids[0] for c in engine_of(lm, num_slots=256).sample(asked)])
    logits = full_logprobs(lm, PROMPT)[-1] / sampling.temperature
    if sampling.top_k:
        logits[logits < logits.topk(sampling.top_k).values[-1]] = -math.inf
    expected = torch.softmax(logits.double(), -1) * n
    observed = torch.bincount(drawn, minlength=64).double()
    assert (observed[expected == 0] == 0).all()
    large = expected >= 5
    cells_e = torch.cat((expected[large], expected[~large].sum()[None]))
    cells_o = torch.cat((observed[large], observed[~large].sum()[None]))
    keep = cells_e > 0
    freedom = int(keep.sum()) - 1
    assert freedom >= 5
    chi_square = float(((cells_o - cells_e).square()[keep] / cells_e[keep]).sum())
    # Wilson and Hilferty: z of a chi-square; exceeded by chance with probability 0.0005
    z = ((chi_square / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert z < 3.3


def test_new_weights_never_meet_old_keys_and_values(lm):
    model, other = copy.deepcopy(lm), small_lm("qwen2", seed=1)
    engine = engine_of(model)
    asked = [request(i, sampling=Sampling()) for i in range(4)]
    before = engine.sample(asked)
    assert [c.token_ids for c in engine.sample(asked)] == [c.token_ids for c in before]  # from the cache
    engine.load_weights(7, other.state_dict())
    after = engine.sample(asked)
    expected = engine_of(other).sample(asked)
    assert [c.token_ids for c in after] == [c.token_ids for c in expected]
    assert [c.token_ids for c in after] != [c.token_ids for c in before]
    assert [c.weights_version for c in before + after] == [0] * 4 + [7] * 4
    for r, completion in zip(asked, after, strict=True):
        check_numbers(other, r, completion)


def test_weights_do_not_change_under_running_requests(lm):
    engine = engine_of(lm)
    engine.submit([request("a")])
    with pytest.raises(RuntimeError, match="1 requests are under way"):
        engine.load_weights(1)


def counted(engine: LocalEngine, asked: list[Request]) -> dict:
    """The counters of one stage."""
    with engine.ledger.stage("rollout"):
        engine.sample(asked)
    return engine.ledger.counts.pop("rollout")["policy"]


@pytest.mark.parametrize("num_slots", [2, 8])
def test_siblings_prefill_their_prompt_once(lm, num_slots):
    engine = engine_of(lm, num_slots=num_slots, eos_ids=[], ledger=Ledger())
    # a prefix's last token is fed by the first decode step, so 7 of the 8 are filled beforehand
    first = counted(engine, [request(i, PROMPT, 3) for i in range(6)])
    assert first["prefilled"] == 7
    assert first["reused"] == 5 * 7
    assert first["decoded"] == 6 * 3
    assert first["slots_busy"] == 18
    again = counted(engine, [request(i, PROMPT, 3) for i in range(6)])
    assert again.get("prefilled", 0) == 0
    assert again["reused"] == 6 * 7


def test_a_continuation_reuses_what_was_decoded(lm):
    engine = engine_of(lm, eos_ids=[], ledger=Ledger())
    with engine.ledger.stage("rollout"):
        tokens = list(engine.sample([request("root", max_tokens=10)])[0].token_ids)
    engine.ledger.counts.clear()
    # 8 + 9 tokens have passed through the model, the tenth drawn has not
    inner = counted(engine, [request("inner", PROMPT + tokens[:6], 2)])
    assert (inner.get("prefilled", 0), inner["reused"]) == (0, 8 + 5)
    parted = counted(engine, [request("parted", [*PROMPT, *tokens[:3], 63 - tokens[3], 1, 2], 2)])
    assert (parted["prefilled"], parted["reused"]) == (2, 8 + 3)


def test_a_continuation_goes_on_as_the_chain_did(lm):
    engine = engine_of(lm, eos_ids=[])
    whole = engine.sample([request("root", max_tokens=20)])[0].token_ids
    inner = engine.sample([request(cut, PROMPT + list(whole[:cut]), 20 - cut) for cut in (1, 5, 19)])
    assert [c.token_ids for c in inner] == [whole[1:], whole[5:], whole[19:]]


@pytest.mark.parametrize("kv_bytes", [0, 2000, 20_000])
def test_eviction_changes_nothing(lm, kv_bytes):
    siblings = [request(("sibling", i), PROMPT, 5, Sampling()) for i in range(6)]
    asked = siblings + varied_requests(30)
    small = engine_of(lm, num_slots=4, kv_bytes=kv_bytes)
    for _ in range(2):
        found = small.sample(asked)
        assert [c.token_ids for c in found] == [c.token_ids for c in engine_of(lm).sample(asked)]
        assert small.prefixes.num_bytes <= kv_bytes


def test_the_prefix_cache_does_not_grow_with_the_number_of_prompts(lm):
    engine = engine_of(lm, num_slots=2, max_context=24)
    bound = KEPT * 2 * engine.max_context * engine.token_bytes
    most = 0
    for first in range(8):
        engine.sample([request((first, i), [first, i, *PROMPT], 4) for i in range(40)])
        most = max(most, engine.prefixes.num_bytes)
    assert bound / 2 < most <= bound < 8 * 40 * 9 * engine.token_bytes


def test_what_ends_a_continuation(lm):
    tokens = generated(lm, PROMPT, 12)
    assert 0 not in tokens and tokens.index(tokens[4]) == 4
    ends = [
        request("length"),
        request("one", max_tokens=1),
        request("stop", stop_ids=frozenset([tokens[4]])),
        request("either", stop_ids=frozenset([tokens[6], tokens[1]])),
    ]
    engine = engine_of(lm)
    found = [(c.stop_reason, list(c.token_ids)) for c in engine.sample(ends)]
    assert found == [("length", tokens), ("length", tokens[:1]), ("stop", tokens[:5]), ("stop", tokens[:2])]
    eos = engine_of(lm, eos_ids=[tokens[4], 63]).sample([request("eos"), ends[3]])
    assert [(c.stop_reason, list(c.token_ids)) for c in eos] == [("eos", tokens[:5]), ("stop", tokens[:2])]


def test_context_limit(lm):
    tokens = generated(lm, PROMPT, 12)
    full, over, inside = engine_of(lm, max_context=12).sample(
        [request("full", PROMPT + tokens[:4]), request("over", PROMPT * 2), request("inside")]
    )
    assert (full.stop_reason, full.token_ids, full.logprobs) == ("context", (), ())
    assert (over.stop_reason, over.token_ids) == ("context", ())
    assert (inside.stop_reason, list(inside.token_ids)) == ("length", tokens[:4])


def drained(engine: LocalEngine) -> dict:
    found = {}
    while finished := engine.poll():
        found.update((c.id, c) for c in finished)
    return found


def test_cancelling_pending_and_running_requests(lm):
    engine = engine_of(lm, num_slots=2)
    engine.submit([request("short", max_tokens=2), *(request(i, max_tokens=12) for i in "abc")])
    assert [c.id for c in engine.poll()] == ["short"]
    engine.cancel(["a", "b"])  # a runs, b waits
    found = drained(engine)
    tokens = tuple(generated(lm, PROMPT, 12))
    assert {i: c.stop_reason for i, c in found.items()} == {"a": "cancelled", "b": "cancelled", "c": "length"}
    assert found["b"].token_ids == ()
    assert 2 <= len(found["a"].token_ids) < 12
    assert found["a"].token_ids == tokens[: len(found["a"].token_ids)]
    assert found["c"].token_ids == tokens


def test_cancelling_what_is_over_cancels_nothing_later(lm):
    engine = engine_of(lm)
    engine.sample([request("a")])
    engine.cancel(["a", "never"])
    assert engine.sample([request("a")])[0].stop_reason == "length"


def test_nan_logits_end_all_requests_and_leave_no_trace(lm):
    broken = copy.deepcopy(lm)
    engine = engine_of(broken, num_slots=3)
    asked = varied_requests(8)
    with torch.no_grad():
        broken.base_model.layers[0].self_attn.v_proj.weight.fill_(math.nan)
    found = engine.sample(asked)
    assert [c.stop_reason for c in found] == ["nan"] * 8
    assert all(c.token_ids == c.logprobs == c.entropy == () for c in found)
    engine.load_weights(1, lm.state_dict())
    healed = engine.sample(asked)
    assert [c.token_ids for c in healed] == [c.token_ids for c in engine_of(lm).sample(asked)]


def test_nan_in_one_row_stays_there(lm):
    poisoned = copy.deepcopy(lm)
    with torch.no_grad():
        poisoned.base_model.embed_tokens.weight = torch.nn.Parameter(
            lm.base_model.embed_tokens.weight.clone()
        )
        poisoned.base_model.embed_tokens.weight[50] = math.nan
        poisoned.lm_head.weight = torch.nn.Parameter(lm.lm_head.weight.clone())
    engine = engine_of(poisoned, num_slots=2)
    bad = [request(("bad", i), [50, *PROMPT], 6) for i in range(2)]
    good = [request(("good", i), PROMPT[i:], 6) for i in range(4)]
    found = engine.sample([good[0], *bad, *good[1:]])
    reasons = [c.stop_reason for c in found]
    assert reasons[1:3] == ["nan", "nan"] and set(reasons[:1] + reasons[3:]) == {"length"}


def test_what_was_drawn_before_nan_logits_is_kept(lm):
    """The model's own greedy text, up to a token whose embedding is not a number: what follows it is no text."""
    tokens = generated(lm, PROMPT, 12)
    fatal = tokens[5]
    assert tokens.index(fatal) == 5 and fatal not in PROMPT
    poisoned = copy.deepcopy(lm)
    with torch.no_grad():
        poisoned.lm_head.weight = torch.nn.Parameter(lm.lm_head.weight.clone())
        poisoned.base_model.embed_tokens.weight = torch.nn.Parameter(
            lm.base_model.embed_tokens.weight.clone()
        )
        poisoned.base_model.embed_tokens.weight[fatal] = math.nan
    found = engine_of(poisoned).sample([request("whole")])[0]
    assert (found.stop_reason, list(found.token_ids)) == ("nan", tokens[:6])
    assert all(map(math.isfinite, (*found.logprobs, *found.logprobs_full, *found.entropy)))
    assert len(found.logprobs) == len(found.logprobs_full) == len(found.entropy) == 6


def test_requests_that_cannot_be_served(lm):
    engine = engine_of(lm)
    with pytest.raises(ValueError, match="ids repeat"):
        engine.sample([request("a"), request("a")])
    assert list(engine.sample([request("a")])[0].token_ids) == generated(lm, PROMPT, 12)
    assert engine.poll() == []


def test_score_is_the_full_logprob_of_each_token(lm):
    sequences = [PROMPT, [3], [4, 4, 4], PROMPT * 3]
    for ids, found in zip(sequences, engine_of(lm).score(sequences), strict=True):
        logprobs = full_logprobs(lm, ids)
        assert found == pytest.approx([float(logprobs[i, t]) for i, t in enumerate(ids[1:])], abs=1e-4)
