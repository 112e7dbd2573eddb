"""Small models and trees that tests build; nothing is downloaded."""

import copy
import json
import math
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from reasoner.policy.models import load_model, load_tokenizer, save, train_tokenizer
from reasoner.tree import Node, Problem, Tree
from verifiers import Verdict

CORRECT, WRONG = Verdict("correct", "ok"), Verdict("incorrect", "wrong")
ERROR = Verdict("error", "internal_error")


# sizes of a stage `init` that trains in a second
TINY = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}


def save_small_qwen(folder: Path, texts: list[str], vocab_size: int = 600) -> Path:
    """A small random model of Qwen2.5-0.5B's architecture (tied embeddings) with its tokenizer."""
    tokenizer = train_tokenizer(texts, vocab_size)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2", vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    save(AutoModelForCausalLM.from_config(config), tokenizer, folder)
    return folder


def first_rows(path: Path, count: int) -> list[dict]:
    """The first rows of a gzipped JSON-lines file."""
    import gzip

    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for _, line in zip(range(count), lines, strict=False)]


def small_lm(kind: str, vocab_size: int = 64, seed: int = 0, **options):
    """A random two-layer model of an architecture, in float32, with logits far from uniform."""
    torch.manual_seed(seed)
    grouped = {} if kind in ("phi", "gpt2") else {"num_key_value_heads": 2, "head_dim": 8}
    usual = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 256, "initializer_range": 0.3, **grouped,
    }  # fmt: skip
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, vocab_size=vocab_size, **ids, **{**usual, **options})
    return AutoModelForCausalLM.from_config(config).eval()


def always(lm, *tokens: int):
    """A model that greedily writes the given tokens one after the other, over and over, whatever came before."""
    return writes_after(lm, dict(zip(tokens, (*tokens[1:], tokens[0]), strict=True)))


def writes_after(lm, following: dict[int, int]):
    """A model that writes `following[t]` after the token t, whatever came before it."""
    model = copy.deepcopy(lm)
    with torch.no_grad():
        for p in model.base_model.layers.parameters():
            p.zero_()
        width = model.config.hidden_size
        model.base_model.embed_tokens.weight = torch.nn.Parameter(torch.zeros(lm.config.vocab_size, width))
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(lm.config.vocab_size, width))
        for i, (token, after) in enumerate(following.items()):
            model.base_model.embed_tokens.weight[token, i] = 1.0
            model.lm_head.weight[after, i] = 1.0
    return model


def go_by_last_token(folder: Path, table: dict[int, dict[int, float]]) -> None:
    """Give the model of a folder weights by which the last token alone decides on the next: for each token of the table the
    chances of some tokens, all others sharing the rest evenly."""
    lm = load_model(str(folder), torch.float32)
    width = lm.config.hidden_size
    with torch.no_grad():
        for p in lm.base_model.layers.parameters():
            p.zero_()
        embeddings = lm.get_input_embeddings().weight.zero_()
        head = torch.zeros_like(embeddings)
        for at, (token, after) in enumerate(table.items()):
            embeddings[token, at] = 1.0
            head[:, at] = math.log((1 - sum(after.values())) / (len(head) - len(after))) / math.sqrt(width)
            for following, chance in after.items():
                head[following, at] = math.log(chance) / math.sqrt(width)
    lm.config.tie_word_embeddings = False
    lm.lm_head.weight = torch.nn.Parameter(head)
    save(lm, load_tokenizer(str(folder)), folder)


def make_tree(
    prompt: list[int], *nodes: tuple, verdicts: dict[int, Verdict] | None = None, name: str = "p"
) -> Tree:
    """A tree of (parent, offset, token_ids, step_ends) rows after the root; verdicts by node."""
    tree = Tree.of_prompt(Problem(name, "", "math", {"answer": "1"}, source="hand", licence="cc0"), prompt)
    for parent, offset, token_ids, step_ends in nodes:
        tree.add(Node(parent, offset, tuple(token_ids), step_ends=tuple(step_ends)))
    tree.verdicts.update(verdicts or {})
    return tree


def branching_tree() -> Tree:
    """Two chains; one branches at a step end (node 3, then 5) and inside a step (node 4, then 6).

    prompt 1 2 3 ┬ 10 11| 12 13| 14 15|     node 1, branches after 12 and after 13
                 └ 20| 21 22|               node 2
    """
    return make_tree(
        [1, 2, 3],
        (0, 3, [10, 11, 12, 13, 14, 15], [1, 3, 5]),
        (0, 3, [20, 21, 22], [0, 2]),
        (1, 4, [30, 31], [1]),
        (1, 3, [40, 41, 42], [0, 2]),
        (3, 2, [50], [0]),
        (4, 1, [60, 61], [1]),
        verdicts={1: CORRECT, 2: WRONG, 4: CORRECT, 5: ERROR, 6: WRONG},
    )
