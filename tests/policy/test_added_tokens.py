"""Adapters whose tokenizer has tokens that the base does not know: load, merge, switch, train and save them."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from small_models import save_small_qwen
from transformers import AutoModelForCausalLM

from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, Sampling
from reasoner.policy.adapters import (
    LoRA,
    SharedBase,
    load_merged,
    load_peft,
    load_trainable,
    save_plain,
)
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.registry import UserError

SIZE = LoRA(r=4, alpha=8)  # type: ignore[call-arg]
KINDS = {  # how an adapter may come by embeddings of its own, in PEFT's words
    "resized": {},
    "modules_to_save": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding_only": {"modules_to_save": ["embed_tokens"]},
    "trainable_tokens": {"trainable_token_indices": [-2, -1]},
    "lora_on_embedding": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_small_qwen(tmp_path_factory.mktemp("base"), ["1 + 2 = 3\n"] * 9, 300)


def save_adapter(kind: str, base, folder, seed=1):
    """An adapter for two more tokens than the base has; some token ids, and the logits that PEFT's own model gives."""
    tokenizer = load_tokenizer(str(base))
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=True)
    size = len(tokenizer)
    torch.manual_seed(seed)
    lm = AutoModelForCausalLM.from_pretrained(base)
    assert lm.config.vocab_size == size - 2  # else the base knows them already
    lm.resize_token_embeddings(size)
    options = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
    } | KINDS[kind]
    if "trainable_token_indices" in options:
        options["trainable_token_indices"] = [size + i for i in options["trainable_token_indices"]]
    peft = get_peft_model(lm, LoraConfig(**options)).eval()
    with torch.no_grad():
        for weight in peft.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.05)
    peft.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = torch.tensor([[5, 6, size - 1, 7, size - 2]])
    with torch.no_grad():
        return ids, peft(ids).logits


@pytest.fixture(params=KINDS)
def adapter(request, base, tmp_path):
    """Folder, token ids among them the added ones, and the logits that are right."""
    return str(tmp_path / "adapter"), *save_adapter(request.param, base, tmp_path / "adapter")


@torch.no_grad()
def assert_gives(model, ids, logits) -> None:
    torch.testing.assert_close(model.eval()(ids).logits, logits, rtol=0, atol=1e-5)


def test_loaded_and_merged_it_gives_what_pefts_own_model_gives(adapter, tmp_path):
    folder, ids, logits = adapter
    assert_gives(load_merged(folder), ids, logits)
    assert_gives(load_trainable(folder, None), ids, logits)
    assert_gives(load_peft(folder, SIZE), ids, logits)
    save_plain(folder, tmp_path / "merged")
    assert_gives(load_model(str(tmp_path / "merged")), ids, logits)
    whole = load_tokenizer(str(tmp_path / "merged"))
    assert whole.convert_tokens_to_ids(["<think>", "</think>"]) == [ids[0, 4].item(), ids[0, 2].item()]


def test_the_engine_draws_from_it(adapter):
    folder, ids, logits = adapter
    policy = SharedBase(folder, SIZE).view("policy")
    asked = [Request("a", ids[0].tolist(), 1, 1, Sampling(0.0))]
    for model in (policy, load_merged(folder)):
        (drawn,) = LocalEngine(model, [0], 2, 32).sample(asked)
        assert drawn.token_ids == (logits[0, -1].argmax().item(),)
        assert drawn.logprobs_full[0] == pytest.approx(logits[0, -1].log_softmax(-1).max().item(), abs=1e-5)


def test_on_a_shared_base_it_trains_alone_and_is_saved_whole(adapter, tmp_path):
    folder, ids, logits = adapter
    shared = SharedBase(folder, SIZE)
    policy, alone = shared.view("policy"), shared.view(None)
    ref = shared.new("ref", "policy", trained=False)
    with torch.no_grad():
        before = alone(ids).logits
    assert_gives(policy, ids, logits)
    assert_gives(ref, ids, logits)
    trained = [w for w in shared.lm.parameters() if w.requires_grad]
    assert {id(w) for w in trained} == {id(w) for w in policy.weights.values()}
    policy(ids).logits.square().sum().backward()
    assert all(w.grad is not None and w.grad.any() for w in policy.weights.values())
    with torch.no_grad():
        for weight in policy.weights.values():
            weight.add_(weight.grad, alpha=-1e-3)
        after = policy(ids).logits
        assert (after - logits).abs().max() > 1e-4
        assert torch.equal(alone(ids).logits, before)
    assert_gives(ref, ids, logits)
    policy.save_pretrained(tmp_path / "again")
    load_tokenizer(folder).save_pretrained(tmp_path / "again")
    assert_gives(load_merged(str(tmp_path / "again")), ids, after)


def test_pefts_trained_weights_are_ours(adapter):
    folder, _, _ = adapter
    theirs = {
        n.replace(".default", "") for n, w in load_peft(folder, SIZE).named_parameters() if w.requires_grad
    }
    shared = SharedBase(folder, SIZE)
    ours = {n.replace(".policy", "") for n, w in shared.peft.named_parameters() if w.requires_grad}
    assert ours == theirs and len(shared.view("policy").weights) == len(ours)


def test_an_adapter_with_other_embeddings_does_not_overwrite_the_shared_ones(base, tmp_path):
    save_adapter("resized", base, tmp_path / "one")
    save_adapter("resized", base, tmp_path / "other", seed=2)
    shared = SharedBase(str(tmp_path / "one"), SIZE)
    assert shared.fits(tmp_path / "one") and not shared.fits(tmp_path / "other")
    before = copy.deepcopy(shared.lm.get_input_embeddings().weight)
    with pytest.raises(UserError, match=r"with its \d+ tokens; expected one that was trained on this base"):
        shared.load("prm", tmp_path / "other")
    assert torch.equal(shared.lm.get_input_embeddings().weight, before)
    plain = SharedBase(str(base), SIZE)
    plain.view("policy").save_pretrained(tmp_path / "plain")
    assert plain.fits(tmp_path / "plain") and not plain.fits(tmp_path / "one")


def test_such_adapters_by_name_in_one_batch_are_a_user_error(base, tmp_path):
    ids, _ = save_adapter("modules_to_save", base, tmp_path / "adapter")
    engine = LocalEngine(load_peft(str(tmp_path / "adapter"), SIZE), [0], 2, 32)
    with pytest.raises(UserError, match="whole weights of their own"):
        engine.sample([Request("a", ids[0].tolist(), 1, 1, adapter="default")])


def test_an_adapter_without_a_tokenizer_has_its_bases(base, tmp_path):
    SharedBase(str(base), SIZE).view("policy").save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).get_vocab() == load_tokenizer(str(base)).get_vocab()
