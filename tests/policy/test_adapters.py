"""One base, many adapters: the numbers and gradients of separate models, in memory and through the files."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from small_models import save_small_qwen
from transformers import AutoModelForCausalLM

from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request
from reasoner.policy.adapters import (
    LoRA,
    SharedBase,
    base_of,
    load_for_head,
    load_merged,
    load_trainable,
    save_plain,
    save_trained,
)
from reasoner.policy.heads import HEAD_FILE, PolicyNet, ScoreNet
from reasoner.policy.models import load_tokenizer, save
from reasoner.policy.recompute import recompute_layers
from reasoner.registry import UserError

IDS = torch.tensor([[3, 5, 7, 11, 13, 17], [2, 4, 6, 8, 10, 12]])
POSITIONS = torch.arange(6).expand(2, 6)
TOUR = torch.stack([torch.arange(6), torch.full((6,), 6)]).expand(2, 2, 6)  # chains
SOURCE, TARGET = torch.tensor([1, 2, 8]), torch.tensor([2, 3, 9])
LORA = LoRA(r=4, alpha=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_small_qwen(tmp_path_factory.mktemp("base"), ["1 + 2 = 3\n"] * 9, 300))


def disturb(adapter, seed: int) -> None:
    """Give an adapter weights that change what the model says (a new one's B is zero)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))


def five(folder: str, checkpointing: bool):
    shared = SharedBase(folder, LORA, "policy", checkpointing)
    policy = shared.view("policy")
    disturb(policy, 1)
    ref = shared.new("ref", like="policy", trained=False)
    critic, prm = shared.new("critic", like="policy"), shared.new("prm", like="policy", trained=False)
    disturb(policy, 2)
    disturb(critic, 3)
    disturb(prm, 4)
    return shared, policy, ref, critic, prm


def alone(folder: str, seed: int, checkpointing: bool = False):
    """The same weights as a model of its own, wrapped by PEFT."""
    model = SharedBase(folder, LORA, "policy", checkpointing).view("policy")
    disturb(model, seed)
    return model


def read(net, at=(4, 9)):
    nothing = torch.zeros(0, dtype=torch.long)
    return net(IDS, POSITIONS, TOUR, torch.tensor(at), nothing, nothing)


def logp(lm):
    return PolicyNet(lm)(IDS, POSITIONS, TOUR, SOURCE, TARGET)[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_interleaved_adapters_give_the_gradients_of_separate_models(folder, checkpointing):
    """All forward passes first, one backward last: the hardest order for recomputed layers."""
    _, policy, ref, critic, prm = five(folder, checkpointing)
    critic_net, prm_net = ScoreNet(critic), ScoreNet(prm)
    for net in (critic_net, prm_net):
        torch.nn.init.normal_(net.head.weight, generator=torch.Generator().manual_seed(9))
    first = logp(policy)
    values = read(critic_net)
    with torch.no_grad():
        reference, scores = logp(ref), read(prm_net)
    second = logp(policy)
    (first.sum() + values.square().sum() + (second * second.detach() * 0.5).sum()).backward()

    # each in a model of its own, without recomputed layers
    own_policy, own_critic, own_ref, own_prm = (alone(folder, seed) for seed in (2, 3, 1, 4))
    logp(own_policy).sum().backward()
    again = logp(own_policy)
    (again * again.detach() * 0.5).sum().backward()
    own_net, own_prm_net = ScoreNet(own_critic), ScoreNet(own_prm)
    for net in (own_net, own_prm_net):
        net.head.load_state_dict(critic_net.head.state_dict())
    read(own_net).square().sum().backward()
    assert torch.allclose(reference, logp(own_ref), atol=1e-6)
    assert torch.allclose(scores, read(own_prm_net), atol=1e-6)
    assert torch.allclose(critic_net.head.weight.grad, own_net.head.weight.grad, atol=1e-5)
    for ours, theirs in ((policy, own_policy), (critic, own_critic)):
        for (name, a), (other, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert name == other and a.grad.abs().max() > 1e-4
            assert torch.allclose(a.grad, b.grad, atol=1e-5), name
    assert all(w.grad is None for frozen in (ref, prm) for w in frozen.parameters())


def test_an_adapter_has_its_own_parameters_only_and_the_base_is_frozen(folder):
    shared, policy, ref, critic, _ = five(folder, False)
    ids = [set(map(id, view.parameters())) for view in (policy, ref, critic)]
    assert all(ids) and not (ids[0] & ids[1] or ids[1] & ids[2] or ids[0] & ids[2])
    trained = {id(w) for w in shared.lm.parameters() if w.requires_grad}
    assert trained == ids[0] | ids[2]
    assert sum(w.numel() for w in policy.parameters()) < 0.2 * sum(w.numel() for w in shared.lm.parameters())


def test_the_base_alone_is_the_model_without_adapters(folder):
    shared, policy, *_ = five(folder, False)
    plain = logp(AutoModelForCausalLM.from_pretrained(folder).eval())
    assert torch.allclose(logp(shared.view(None)), plain, atol=1e-6)
    assert not torch.allclose(logp(policy), plain, atol=1e-2)


def test_the_engine_samples_from_the_adapter_also_between_recomputed_passes(folder):
    shared, policy, *_ = five(folder, True)
    critic = ScoreNet(shared.view("critic"))
    loss = read(critic).sum() + logp(policy).sum()
    request = Request("a", (3, 5, 7), 5, place=1)
    done = LocalEngine(policy, [0], num_slots=2, max_context=16).sample([request])[0]
    loss.backward()
    ids = torch.tensor([[3, 5, 7, *done.token_ids]])
    with torch.no_grad():
        table = torch.log_softmax(alone(folder, 2)(input_ids=ids).logits[0], -1)
    wanted = [float(table[2 + i, t]) for i, t in enumerate(done.token_ids)]
    assert done.logprobs_full == pytest.approx(wanted, abs=1e-4)
    separate = alone(folder, 2)
    logp(separate).sum().backward()
    for a, b in zip(policy.parameters(), separate.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi"])
def test_recomputed_layers_change_no_gradient(kind):
    from small_models import small_lm

    found = []
    for recompute in (False, True):
        model = small_lm(kind)
        calls = []
        layer = model.get_submodule("transformer.h.0" if kind == "gpt2" else "model.layers.0").mlp
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        if recompute:
            recompute_layers(model)
        logp(model).sum().backward()
        found.append((len(calls), [w.grad for w in model.parameters() if w.grad is not None]))
    assert (found[0][0], found[1][0]) == (1, 2)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_saved_adapters_load_in_peft_and_here_and_merge_to_a_plain_model(folder, tmp_path):
    _, policy, _, critic, _ = five(folder, False)
    tokenizer = load_tokenizer(folder)
    save_trained(policy, tokenizer, tmp_path / "policy")
    net = ScoreNet(critic)
    torch.nn.init.normal_(net.head.weight)
    net.save(tokenizer, tmp_path / "critic")
    wanted = logp(policy)
    with torch.no_grad():
        in_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "policy")
        assert torch.allclose(logp(in_peft.eval().get_base_model()), wanted, atol=1e-6)
        assert torch.allclose(logp(load_merged(str(tmp_path / "policy"))), wanted, atol=1e-5)
        save_plain(str(tmp_path / "policy"), tmp_path / "plain")
        with pytest.raises(UserError, match="holds something already"):
            save_plain(str(tmp_path / "policy"), tmp_path / "plain")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
        assert torch.allclose(logp(plain), wanted, atol=1e-5)
        assert not (tmp_path / "plain/adapter_config.json").exists()
        assert len(load_tokenizer(str(tmp_path / "plain"))) == len(tokenizer)
        assert (tmp_path / "critic" / HEAD_FILE).is_file()
        assert torch.allclose(read(ScoreNet.load(tmp_path / "critic")), read(net), atol=1e-5)

        other = SharedBase(str(tmp_path / "policy"), LORA)
        assert torch.allclose(logp(other.view("policy")), wanted, atol=1e-6)
        loaded = ScoreNet.load(tmp_path / "critic", other.load("critic", tmp_path / "critic"))
        assert torch.allclose(read(loaded), read(net), atol=1e-6)
        assert torch.allclose(logp(other.view("policy")), wanted, atol=1e-6)


def test_a_reference_adapter_of_trl_is_not_saved(folder, tmp_path):
    wrapped = load_trainable(folder, LORA)
    wrapped.add_adapter("ref", wrapped.peft_config["default"])
    save_trained(wrapped, load_tokenizer(folder), tmp_path)
    assert not (tmp_path / "ref").exists() and (tmp_path / "adapter_model.safetensors").is_file()


def test_a_head_trains_an_adapter_or_all_weights(folder):
    lm = load_for_head(folder, LORA)
    assert 0 < sum(w.numel() for w in lm.parameters()) < 20_000
    whole = load_for_head(folder, None)
    assert all(w.requires_grad for w in whole.parameters())


def test_bad_input_is_named(folder, tmp_path):
    shared = SharedBase(folder, LORA)
    shared.view("policy").save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match="r=4, alpha=8; expected r=8"):
        SharedBase(str(tmp_path / "a"), LoRA(r=8, alpha=8))
    path = tmp_path / "a/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "other/base"}))
    with pytest.raises(UserError, match="expected one that was trained on this base"):
        shared.load("critic", tmp_path / "a")
    with pytest.raises(UserError, match="names the output layer"):
        SharedBase(folder, LoRA(r=2, alpha=2, target_modules=["lm_head", "q_proj"]))
    with pytest.raises(ValueError, match="nothing of its own"):
        shared.view(None).save_pretrained(tmp_path / "c")


def test_four_bits_need_their_library(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="bitsandbytes is not there"):
        SharedBase(folder, LoRA(four_bit=True))


def test_an_adapter_finds_its_base_after_both_have_moved(tmp_path, monkeypatch):
    """Named from the working folder or whole, moved or copied: the critic stays an adapter on the shared base."""
    monkeypatch.chdir(tmp_path)
    save_small_qwen(tmp_path / "run" / "base", ["1+1=2"] * 20)
    for named in ("run/base", str(tmp_path / "run" / "base")):
        shared = SharedBase(named, LoRA(r=2, alpha=4), "policy")
        save(shared.view("policy"), load_tokenizer(named), tmp_path / "run" / "sft")
        shutil.copytree("run", "copy")
        (tmp_path / "run").rename("moved")
        monkeypatch.chdir("/")
        for folder in (tmp_path / "copy", tmp_path / "moved"):
            assert base_of(folder / "sft") == str(folder / "base")
            assert SharedBase(str(folder / "sft"), LoRA(r=2, alpha=4)).fits(folder / "sft")
        assert not SharedBase(str(tmp_path / "copy/base"), LoRA(r=2, alpha=4)).fits(
            tmp_path / "moved" / "sft"
        )
        monkeypatch.chdir(tmp_path)
        (tmp_path / "moved").rename("run")
        shutil.rmtree("copy")
    (tmp_path / "run" / "sft").rename("alone")
    (tmp_path / "run").rename("gone")
    with pytest.raises(UserError, match=r"alone was trained on .*run/base, which is not there"):
        base_of("alone")
