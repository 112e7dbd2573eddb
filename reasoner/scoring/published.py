"""Published process reward models: how each lays its text out, where it is read, and what its head says.

A model is loaded as any causal LM; what it reads is one logit per step, so it stands as a ScoreNet. Solutions
of one problem share their prefixes in one packed pass, as trees do.

Shape suffixes: S states, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from transformers import PreTrainedTokenizerBase

from reasoner.policy.heads import LabelTokens, ScoreNet, check_scores
from reasoner.policy.labelled import State, Trie
from reasoner.policy.machine import own_device
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.policy.packing import batches, pack
from reasoner.registry import UserError, lookup
from reasoner.tree import ROOT, Problem, Tree


class Piece(NamedTuple):
    """Text that is tokenised on its own; the model is read at the tokens that hold the characters `read`."""

    text: str
    read: tuple[int, ...] = ()


Layout = Callable[[PreTrainedTokenizerBase, str, Sequence[str]], list[Piece]]
Decode = Callable[[Sequence[int]], str]
Head = Callable[[Path, torch.nn.Module, PreTrainedTokenizerBase], torch.nn.Module]


class Published(NamedTuple):
    """`layout(tokenizer, prompt, steps)` writes the text, `head(folder, lm, tokenizer)` maps hidden states to a logit."""

    layout: Layout
    head: Head


def _start(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of the token that begins a sequence, where there is one."""
    return str(tokenizer.bos_token or "")


def tagged(tokenizer: PreTrainedTokenizerBase, prompt: str, steps: Sequence[str]) -> list[Piece]:
    """Math-Shepherd: "question step ки", a line a step, read at each ки (Wang et al. 2024, model card)."""
    text, read = prompt, []
    for i, step in enumerate(steps):
        text += f"{' ' if i == 0 else chr(10)}{step.strip()} ки"
        read.append(len(text) - 1)
    start = _start(tokenizer)
    return [Piece(start + text, tuple(len(start) + r for r in read))]


def turns(tokenizer: PreTrainedTokenizerBase, prompt: str, steps: Sequence[str]) -> list[Piece]:
    """RLHFlow: each step a user's turn answered by "+", read at the token before that answer (Dong et al. 2024)."""
    messages: list[dict[str, str]] = []
    read = []
    for i, step in enumerate(steps):
        messages.append({"role": "user", "content": f"{prompt} {step.strip()}" if i == 0 else step.strip()})
        asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        read.append(len(str(asked)) - 1)
        messages.append({"role": "assistant", "content": "+"})
    return [Piece(str(tokenizer.apply_chat_template(messages, tokenize=False)), tuple(read))]


def lines(tokenizer: PreTrainedTokenizerBase, prompt: str, steps: Sequence[str]) -> list[Piece]:
    """Skywork-o1: the problem, then each step closed by a line end, which is read (He et al. 2024)."""
    pieces = [Piece(f"{_start(tokenizer)}{prompt}\n")]
    for step in steps:
        pieces += [Piece(step.strip("\n")), Piece("\n", (0,))]
    return pieces


EXTRA = "<extra_0>"
QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


def extra_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, steps: Sequence[str]) -> list[Piece]:
    """Qwen2.5-Math-PRM: one assistant turn with a tag after each step, which is read (Zhang et al. 2025)."""
    answer = "".join(step.strip() + EXTRA for step in steps)
    messages = [
        {"role": "system", "content": QWEN_SYSTEM},
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": answer},
    ]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    at = text.index(answer)
    read = []
    for step in steps:
        at += len(step.strip()) + len(EXTRA)
        read.append(at - 1)
    return [Piece(text, tuple(read))]


def separated(tokenizer: PreTrainedTokenizerBase, prompt: str, steps: Sequence[str]) -> list[Piece]:
    """TRL's token classifiers: prompt and steps tokenised one by one, read at the separator after each step."""
    pieces = [Piece(_start(tokenizer) + prompt)]
    for step in steps:
        pieces += [Piece(step.strip("\n")), Piece("\n", (0,))]
    return pieces


def plus_minus(folder: Path, lm: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> torch.nn.Module:
    """The tokens "+" and "-" as the tokenizer writes them after a space (Math-Shepherd's 648 and 387)."""
    good, bad = (tokenizer(f" {sign}", add_special_tokens=False).input_ids[-1] for sign in "+-")
    return LabelTokens(lm, (good, bad))


def bare_plus_minus(folder: Path, lm: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> torch.nn.Module:
    """The tokens "+" and "-" as they begin an answer."""
    good, bad = (tokenizer(sign, add_special_tokens=False).input_ids[-1] for sign in "+-")
    return LabelTokens(lm, (good, bad))


def value_head(folder: Path, lm: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> torch.nn.Module:
    saved = _tensors(folder, "v_head.summary.")
    return _linear(saved["weight"], saved["bias"])


def two_classes(folder: Path, lm: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> torch.nn.Module:
    """The logit of the second of two classes over the first: softmax as a sigmoid of the difference."""
    saved = _tensors(folder, "score.")
    inner = []
    if "2.weight" in saved:  # two layers with a ReLU between
        inner = [_linear(saved["0.weight"], saved["0.bias"]), torch.nn.ReLU()]
        saved = {"weight": saved["2.weight"], "bias": saved["2.bias"]}
    bias = saved.get("bias", torch.zeros(2))
    weight = saved["weight"]
    return torch.nn.Sequential(*inner, _linear(weight[1:] - weight[:1], bias[1:] - bias[:1]))


PUBLISHED: dict[str, Published] = {
    "math_shepherd": Published(tagged, plus_minus),
    "rlhflow": Published(turns, bare_plus_minus),
    "skywork": Published(lines, value_head),
    "qwen_math_prm": Published(extra_tokens, two_classes),
    "trl": Published(separated, two_classes),
}


class PublishedPRM(NamedTuple):
    net: ScoreNet
    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    decode: Decode | None = None  # text of the policy's tokens

    @property
    def lm(self):
        return self.net.lm


def load_published(path: str, layout: str, decode: Decode | None = None) -> PublishedPRM:
    """A local folder with a published model, its kind named as in PUBLISHED, on this process's device."""
    kind = lookup(PUBLISHED, layout, "published reward model")
    tokenizer, lm = load_tokenizer(path), load_model(path)
    net = ScoreNet(lm)
    net.head = kind.head(Path(path), lm, tokenizer)
    return PublishedPRM(net.eval().requires_grad_(False).to(own_device()), tokenizer, kind.layout, decode)


def layout_of(path: str) -> str:
    """The kind of published model that a folder's weights tell; one without a head of its own has to be named."""
    named: set[str] = set()
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(str(file), "pt") as opened:
            named |= set(opened.keys())
    told = {"v_head.summary.weight": "skywork", "score.2.weight": "qwen_math_prm", "score.weight": "trl"}
    for tensor, kind in told.items():
        if tensor in named:
            return kind
    raise UserError(
        f"{path} holds no head that this program trained, and none that tells a published reward model; expected "
        f"either, or its kind before the name, as in math_shepherd:NAME; kinds are {', '.join(PUBLISHED)}"
    )


def tokens_of(prm: PublishedPRM, prompt: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
    """Token ids of a solution as the model wants it, and the positions at which it is read."""
    ids: list[int] = []
    positions: list[int] = []
    for piece in prm.layout(prm.tokenizer, prompt, steps):
        encoded = prm.tokenizer(piece.text, add_special_tokens=False, return_offsets_mapping=True)
        spans = encoded["offset_mapping"]
        for char in piece.read:
            # bytes of one character may be several tokens with the same span: the last holds its end
            held = [i for i, (a, b) in enumerate(spans) if a <= char < b]
            positions.append(len(ids) + held[-1])
        ids += encoded["input_ids"]
    return ids, positions


def score_solutions(
    prm: PublishedPRM, prompt: str, solutions: Sequence[Sequence[str]], max_tokens: int = 8192
) -> list[list[float]]:
    """P(good) of every step of solutions of one problem, in one pass over their shared prefixes.

    Steps beyond the model's context are NaN.
    """
    limit = int(getattr(prm.net.lm.config, "max_position_embeddings", 1 << 30))
    tries: list[Trie] = []
    read: list[list[tuple[int, State] | None]] = []
    for steps in solutions:
        ids, positions = tokens_of(prm, prompt, steps)
        if (
            not tries
            or tries[-1].num_tokens + len(ids) > max_tokens
            or tries[-1].tree.nodes[0].token_ids[0] != ids[0]
        ):
            tries.append(Trie(Problem("", prompt, "", {}), ids[:1]))
        states = tries[-1].add(ids[1:limit])
        at = len(tries) - 1
        read.append([(at, states[p]) if p < len(states) else None for p in positions])
    device = next(prm.net.parameters()).device
    value_at: dict[tuple[int, State], float] = {}
    for numbers in batches([t.tree for t in tries], max_tokens):
        packed = pack([tries[t].tree for t in numbers], device)
        wanted = sorted({r for of_one in read for r in of_one if r is not None and r[0] in numbers})
        flat = [packed.state(numbers.index(t), *state) for t, state in wanted]
        at_S = torch.tensor(flat, dtype=torch.long, device=device)  # none where no step fits the context
        with torch.inference_mode():
            logits_S = prm.net(
                packed.ids_BT, packed.positions_BT, packed.tour_B2T, at_S, packed.source_N, packed.target_N
            )
        value_at.update(
            zip(wanted, check_scores(logits_S, "a published reward model").sigmoid().tolist(), strict=True)
        )
    return [[math.nan if r is None else value_at[r] for r in of_one] for of_one in read]


def score_published(prm: PublishedPRM, trees: Sequence[Tree], name: str, max_tokens: int = 8192) -> int:
    """Set `tree.scores[name]` to P(good) of every step, read from its text; returns tokens scored.

    A step beyond the model's context has the score 0: nothing speaks for it.
    """
    scored = 0
    for tree in trees:
        nodes = [i for i, node in enumerate(tree.nodes) if i != ROOT and node.step_ends]
        texts = [step_texts(tree, i, prm.decode) for i in nodes]
        found = score_solutions(prm, tree.problem.prompt, texts, max_tokens)
        tree.scores[name] = {
            i: [0.0 if math.isnan(v) else v for v in values[-len(tree.nodes[i].step_ends) :]]
            for i, values in zip(nodes, found, strict=True)
        }
        scored += sum(len(tokens_of(prm, tree.problem.prompt, steps)[0]) for steps in texts)
    return scored


def step_texts(tree: Tree, node: int, decode: Decode | None) -> list[str]:
    """The text of each step on the path to the end of `node`."""
    assert decode is not None, "a published model reads text: load it with decode"
    texts: list[str] = []
    step: list[int] = []
    for span in tree.path(node)[1:]:
        ends = set(tree.nodes[span.node].step_ends)
        for at, token in enumerate(tree.nodes[span.node].token_ids[: span.end]):
            step.append(token)
            if at in ends:
                texts.append(decode(step))
                step = []
    return texts


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def _tensors(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The saved tensors whose names begin so, in float32, without that beginning."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), "pt") as file:
            names = [k for k in file.keys() if k.startswith(prefix)]  # noqa: SIM118
            found |= {k.removeprefix(prefix): file.get_tensor(k).float() for k in names}
    if not found:
        raise UserError(
            f"{folder} has no weights called {prefix}*; expected those of a published reward model in safetensors: "
            "check the folder and the layout"
        )
    return found
