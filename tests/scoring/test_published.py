"""Published reward models on small random weights: one shared pass against a plain forward pass per prefix."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import small_lm

from reasoner.policy.models import save, train_tokenizer
from reasoner.registry import UserError
from reasoner.scoring.published import EXTRA, layout_of, load_published, score_solutions, tokens_of

PROMPT = "What is 2+3-4?"
SOLUTIONS = [
    ["Step 1: 2+3=5", "Step 2: 5-4=1", "The answer is: 1"],
    ["Step 1: 2+3=5", "Step 2: 5-4=2", "The answer is: 2"],
    ["Step 1: 3-4=1"],
]
CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
KINDS = {"math_shepherd": "mistral", "rlhflow": "llama", "skywork": "qwen2", "qwen_math_prm": "qwen2", "trl": "qwen2"}


@pytest.fixture(params=sorted(KINDS))
def saved(request, tmp_path):
    """A folder as the model's authors publish it: the causal LM, and their head's weights beside it."""
    tokenizer = train_tokenizer([PROMPT, *(s for steps in SOLUTIONS for s in steps), " ки + -"], 330)
    tokenizer.add_tokens([EXTRA], special_tokens=True)
    tokenizer.chat_template = CHAT
    lm = small_lm(KINDS[request.param], vocab_size=len(tokenizer))
    save(lm, tokenizer, tmp_path)
    torch.manual_seed(1)
    heads = {
        "skywork": {"v_head.summary.weight": 0.2 * torch.randn(1, 32), "v_head.summary.bias": 0.2 * torch.randn(1)},
        "qwen_math_prm": {
            "score.0.weight": 0.2 * torch.randn(32, 32), "score.0.bias": 0.2 * torch.randn(32),
            "score.2.weight": 0.2 * torch.randn(2, 32), "score.2.bias": 0.2 * torch.randn(2),
        },
        "trl": {"score.weight": 0.2 * torch.randn(2, 32), "score.bias": 0.2 * torch.randn(2)},
    }.get(request.param, {})  # fmt: skip
    if heads:
        save_file(heads, tmp_path / "head.safetensors")
    return request.param, tmp_path, lm, heads


def plain(kind, lm, heads, ids, prm) -> float:
    """P(good) at the last token of a prefix, by the authors' formula."""
    out = lm(torch.tensor([ids]), output_hidden_states=True)
    hidden = lm.base_model(torch.tensor([ids])).last_hidden_state[0, -1]
    if kind in ("math_shepherd", "rlhflow"):
        space = " " if kind == "math_shepherd" else ""
        signs = [prm.tokenizer(space + s, add_special_tokens=False).input_ids[-1] for s in "+-"]
        return out.logits[0, -1, signs].softmax(-1)[0].item()
    if kind == "skywork":
        return (heads["v_head.summary.weight"] @ hidden + heads["v_head.summary.bias"]).sigmoid().item()
    if kind == "qwen_math_prm":
        hidden = torch.relu(heads["score.0.weight"] @ hidden + heads["score.0.bias"])
        return (heads["score.2.weight"] @ hidden + heads["score.2.bias"]).softmax(-1)[1].item()
    return (heads["score.weight"] @ hidden + heads["score.bias"]).softmax(-1)[1].item()


def test_one_pass_equals_a_pass_per_prefix(saved):
    kind, folder, lm, heads = saved
    prm = load_published(str(folder), kind)
    scores = score_solutions(prm, PROMPT, SOLUTIONS)
    assert [len(s) for s in scores] == [3, 3, 1]
    with torch.no_grad():
        for steps, of_one in zip(SOLUTIONS, scores, strict=True):
            ids, positions = tokens_of(prm, PROMPT, steps)
            for at, found in zip(positions, of_one, strict=True):
                assert found == pytest.approx(plain(kind, lm, heads, ids[: at + 1], prm), abs=1e-5)
    assert scores[0][0] == scores[1][0] and scores[0][1] != scores[1][1]
    assert len({round(x, 4) for s in scores for x in s}) > 3


def test_read_where_the_model_card_says(saved):
    kind, folder, *_ = saved
    prm = load_published(str(folder), kind)
    ids, positions = tokens_of(prm, PROMPT, SOLUTIONS[0])
    ends = [prm.tokenizer.decode(ids[: p + 1]) for p in positions]
    closing = {"math_shepherd": "ки", "rlhflow": "[assistant]", "qwen_math_prm": EXTRA}.get(kind, "\n")
    for end, step in zip(ends, SOLUTIONS[0], strict=True):
        assert end.endswith(closing) and end.removesuffix(closing).rstrip("\n ").endswith(step)
    if kind == "rlhflow":
        assert all(prm.tokenizer.decode(ids[p + 1 :]).startswith("+") for p in positions)


def test_steps_beyond_the_context_have_no_score(saved):
    kind, folder, *_ = saved
    prm = load_published(str(folder), kind)
    long = ["1+1=2 " * 20] * 20
    scores = score_solutions(prm, PROMPT, [long])[0]
    known = [x == x for x in scores]
    assert known[0] and not known[-1] and known == sorted(known, reverse=True)


def test_weights_tell_the_layout_where_they_can(saved):
    kind, folder, *_ = saved
    if kind in ("math_shepherd", "rlhflow"):  # plain causal models, as any other
        with pytest.raises(UserError, match="as in math_shepherd:NAME; kinds are math_shepherd, rlhflow"):
            layout_of(str(folder))
    else:
        assert layout_of(str(folder)) == kind


def test_a_folder_without_the_head_is_named(saved):
    kind, folder, *_ = saved
    if (folder / "head.safetensors").is_file():
        assert load_file(folder / "head.safetensors")
        (folder / "head.safetensors").unlink()
        with pytest.raises(UserError, match="no weights called"):
            load_published(str(folder), kind)
