"""A real chat model through the engine and the trainer's packing: transformers' own generate and forward pass agree."""

import pytest
import torch
from small_models import first_rows
from transformers import AutoModelForCausalLM

from reasoner.data.prompting import PromptConfig, Prompting, load_prompting
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, Sampling, place_key
from reasoner.policy.heads import PolicyNet
from reasoner.policy.packing import pack
from reasoner.tree import Node, Problem, Tree

pytestmark = pytest.mark.real

NEW = 32  # tokens of a completion
TIE = 1e-3  # logits closer than this are a tie that float32 sums in another order may turn


@pytest.fixture(scope="module")
def lm(real_model):
    return AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def chat(real_model) -> Prompting:
    return load_prompting(real_model, PromptConfig(chat=True))


@pytest.fixture(scope="module")
def prompts(chat, shared_data) -> list[list[int]]:
    rows = first_rows(shared_data / "gsm8k" / "train.jsonl.gz", 2000)
    ids = [chat.prompt_ids(row["question"]) for row in rows]
    return sorted(ids, key=len)[:200]  # the short ones, so that a laptop needs minutes


@torch.no_grad()
def generated(lm, chat: Prompting, prompts: list[list[int]]) -> list[list[int]]:
    """What generate writes greedily, in batches of similar length, up to the end of the turn."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), 25):
        batch = order[start : start + 25]
        padded = chat.tokenizer.pad(
            {"input_ids": [prompts[i] for i in batch]}, padding_side="left", return_tensors="pt"
        )
        out = lm.generate(**padded, max_new_tokens=NEW, do_sample=False, eos_token_id=chat.eos_ids)
        for i, ids in zip(batch, out[:, padded["input_ids"].shape[1] :].tolist(), strict=True):
            end = next((k + 1 for k, t in enumerate(ids) if t in chat.eos_ids), len(ids))
            found[i] = ids[:end]
    return found


@torch.no_grad()
def test_greedy_is_generates_on_200_prompts_and_logprobs_are_the_forward_passes(lm, chat, prompts):
    assert len(prompts) == 200
    engine = LocalEngine(lm, chat.eos_ids, 64, max(map(len, prompts)) + NEW, tokenizer=chat.tokenizer)
    drawn = engine.sample([Request(i, p, NEW, i, Sampling(0.0)) for i, p in enumerate(prompts)])
    assert engine.decoder is not None  # the fast step, not the model's modules
    ended = sum(c.stop_reason == "eos" for c in drawn)
    differing, gaps = 0, []
    for prompt, ours, theirs in zip(prompts, drawn, generated(lm, chat, prompts), strict=True):
        ids = [*prompt, *ours.token_ids]
        logits = lm(torch.tensor([ids]), use_cache=False, logits_to_keep=len(ids) - len(prompt) + 1).logits[
            0, :-1
        ]
        table = logits.log_softmax(-1)
        here = table.gather(-1, torch.tensor(ours.token_ids)[:, None])[:, 0]
        gaps.append(float((here - torch.tensor(ours.logprobs_full)).abs().max()))
        entropy = -(table.exp() * table).sum(-1)
        assert torch.allclose(entropy, torch.tensor(ours.entropy), atol=1e-3)
        if list(ours.token_ids) != theirs:
            at = next(k for k, (a, b) in enumerate(zip(ours.token_ids, theirs, strict=False)) if a != b)
            gap = float(logits[at, ours.token_ids[at]] - logits[at, theirs[at]])
            print(f"token {at}: {ours.token_ids[at]} or {theirs[at]}, logits apart {gap:.2e}")
            assert abs(gap) < TIE
            differing += 1
    print(f"{differing} of 200 differ, at ties; {ended} ended; log-probabilities within {max(gaps):.1e}")
    assert differing <= 4
    assert max(gaps) < 1e-4


def test_sampled_alone_or_in_company_it_draws_the_same(lm, chat, prompts):
    """In float32 another batch sums in another order: the noise is the same, so what differs lies on a border."""
    asked = [Request(i, prompts[i % 8], 24, place_key(0, 0, "p", [(0, i)])) for i in range(32)]
    longest = max(map(len, prompts[:8])) + 24
    together = LocalEngine(lm, chat.eos_ids, 32, longest).sample(asked)
    apart = [LocalEngine(lm, chat.eos_ids, 1, longest).sample([r])[0] for r in asked[:8]]
    same = sum(a.token_ids == b.token_ids for a, b in zip(together, apart, strict=False))
    assert same >= 7
    assert len({c.token_ids for c in together[::8]}) > 1  # one prompt, several draws


def test_packed_gradients_are_the_separate_chains(lm, chat, prompts):
    """A tree of real continuations: tokens computed once, in one masked row, or each chain by itself."""
    engine = LocalEngine(lm, chat.eos_ids, 8, 400)
    tree = Tree.of_prompt(Problem("p", "", "math", {"answer": "1"}), prompts[0])

    def grow(parent: int, offset: int, num: int) -> None:
        prefix = tree.token_ids(parent, offset)
        places = [place_key(1, 0, "p", [(parent, offset), (k, k)]) for k in range(num)]
        for c in engine.sample([Request(k, prefix, 20, place) for k, place in enumerate(places)]):
            tree.add(Node(parent, offset, c.token_ids, step_ends=(len(c.token_ids) - 1,)))

    grow(0, len(prompts[0]), 2)
    grow(1, 7, 2)
    grow(3, 11, 2)
    sizes = [len(n.token_ids) for n in tree.nodes[1:]]
    assert len(sizes) == 6 and min(sizes) > 10
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(size, generator=generator) for size in sizes]
    net = PolicyNet(lm)

    def gradient(loss_parts) -> dict[str, torch.Tensor]:
        lm.zero_grad()
        for loss in loss_parts:
            loss.backward()
        return {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}

    def packed():
        row = pack([tree], row_tokens=256)
        logprobs, _ = net(row.ids_BT, row.positions_BT, row.tour_B2T, row.source_N, row.target_N)
        assert len(logprobs) == sum(sizes)
        yield (logprobs * torch.cat(weights)).sum()

    def separate():
        for i, weight in enumerate(weights, 1):
            ids = tree.token_ids(i, sizes[i - 1])
            table = lm(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
            targets = torch.tensor(ids[-sizes[i - 1] :])
            yield (table[-sizes[i - 1] - 1 : -1].gather(-1, targets[:, None])[:, 0] * weight).sum()

    lm.requires_grad_(True)
    ours, theirs = gradient(packed()), gradient(separate())
    lm.zero_grad()
    lm.requires_grad_(False)
    assert ours.keys() == theirs.keys() and len(ours) == 272  # the embeddings are tied
    largest = max(float(g.abs().max()) for g in theirs.values())
    off = {name: float((ours[name] - g).abs().max()) / largest for name, g in theirs.items()}
    print(f"gradients of up to {largest:.3g}, apart by {max(off.values()):.1e} of it")
    assert max(off.values()) < 1e-5
