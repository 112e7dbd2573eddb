"""Speed of reward models, ours beside the plain way: `python -m tests.benchmarks.score [NAME ...]`.

prm_one_pass  step scores of 16-step solutions, against a plain forward pass over the same padded solutions
prm_tree      step scores of trees, against their leaves each alone: three alternatives to every step of a solution
prm_tree_rollouts  the same where a whole continuation branches off at every step, so that less is shared
train_tokens  training tokens per second on chains, against transformers' Trainer with the same model and batch
tree_tokens   solution tokens per second of training on trees, against the same solutions one by one
Each prints one JSON line; rounds alternate, medians are reported. ratio above 1: ours is faster.
"""

import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments

from reasoner.losses import step_bce
from reasoner.policy.heads import ScoreNet
from reasoner.policy.labelled import Labelled, from_steps
from reasoner.policy.packing import num_tokens
from reasoner.records import StepLabels
from reasoner.scoring.prm import score_steps
from reasoner.trainers.reward_loss import LOSSES, mass, weighted_sum
from reasoner.trainers.reward_model import read
from reasoner.tree import ROOT, Node, Problem, Tree

PAIRS = 5
STEPS, STEP_TOKENS, PROMPT_TOKENS, VOCABULARY = 16, 12, 40, 1000


def _lm(hidden_size: int = 192, num_layers: int = 4):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2", vocab_size=VOCABULARY, hidden_size=hidden_size, intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers, num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=1024,
        tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def _ids(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(count)]


def _chain(rng: random.Random) -> Tree:
    tree = Tree.of_prompt(Problem("p", "", "", {}), _ids(rng, PROMPT_TOKENS))
    ends = tuple(range(STEP_TOKENS - 1, STEPS * STEP_TOKENS, STEP_TOKENS))
    tree.add(Node(ROOT, PROMPT_TOKENS, tuple(_ids(rng, STEPS * STEP_TOKENS)), step_ends=ends))
    return tree


def _alternatives(rng: random.Random, count: int = 3) -> Tree:
    """A solution with `count` other steps beside each of its own, as in PRM800K and in a beam: 49 leaves."""
    tree = _chain(rng)
    for step in range(STEPS):
        for _ in range(count):
            ids = tuple(_ids(rng, STEP_TOKENS))
            parent, offset = (1, step * STEP_TOKENS) if step else (ROOT, PROMPT_TOKENS)
            tree.add(Node(parent, offset, ids, step_ends=(STEP_TOKENS - 1,)))
    return tree


def _rollouts(rng: random.Random) -> Tree:
    """One chain and a continuation from the end of each of its steps: 16 leaves."""
    tree = _chain(rng)
    for step in range(1, STEPS):
        rest = (STEPS - step) * STEP_TOKENS
        ends = tuple(range(STEP_TOKENS - 1, rest, STEP_TOKENS))
        tree.add(Node(1, step * STEP_TOKENS, tuple(_ids(rng, rest)), step_ends=ends))
    return tree


def _leaves(tree: Tree) -> list[Tree]:
    found = []
    for leaf in tree.leaves():
        alone = Tree.of_prompt(tree.problem, list(tree.nodes[ROOT].token_ids))
        ids = tuple(tree.completion_ids(leaf))
        alone.add(
            Node(ROOT, PROMPT_TOKENS, ids, step_ends=tuple(range(STEP_TOKENS - 1, len(ids), STEP_TOKENS)))
        )
        found.append(alone)
    return found


def _compare(name, ours: Callable[[], int], peer: Callable[[], int], peer_name, unit, target) -> dict:
    """Work per second of both, in alternating rounds after one to warm up."""
    ours(), peer()
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(PAIRS):
        for side, work in enumerate((ours, peer)):
            began = time.perf_counter()
            done = work()
            rates[side].append(done / (time.perf_counter() - began))
    mine, other = map(statistics.median, rates)
    return {
        "name": name, "ours": float(f"{mine:.4g}"), "peer": float(f"{other:.4g}"), "peer_name": peer_name, "unit": unit,
        "ratio": round(mine / other, 2), "target": target, "pairs": PAIRS,
    }  # fmt: skip


def prm_one_pass(count: int = 32) -> dict:
    rng, net = random.Random(0), ScoreNet(_lm()).eval()
    trees = [_chain(rng) for _ in range(count)]
    ids_BT = torch.tensor([t.token_ids(1) for t in trees])

    def ours() -> int:
        for tree in trees:
            tree.scores.clear()
        return score_steps(net, trees, "prm")

    def peer() -> int:
        with torch.inference_mode():
            net.lm.base_model(input_ids=ids_BT)
        return ids_BT.numel()

    return _compare("score: prm_one_pass", ours, peer, "plain forward, one padded batch", "tokens/s", 0.9)


def prm_tree(make: Callable[[random.Random], Tree] = _alternatives, count: int = 2) -> dict:
    rng, net = random.Random(0), ScoreNet(_lm()).eval()
    trees = [make(rng) for _ in range(count)]
    alone = [leaf for tree in trees for leaf in _leaves(tree)]

    def score(some: list[Tree]) -> int:
        for tree in some:
            tree.scores.clear()
        score_steps(net, some, "prm")
        return len(alone)

    found = _compare(
        "score: prm_tree", lambda: score(trees), lambda: score(alone), "leaves each alone", "leaves/s", 4.0
    )
    return found | {"fewer_tokens": _fewer(trees, alone)}


def _fewer(trees: list[Tree], alone: list[Tree]) -> float:
    return round(sum(map(num_tokens, alone)) / sum(map(num_tokens, trees)), 2)


def prm_tree_rollouts() -> dict:
    return prm_tree(_rollouts) | {"name": "score: prm_tree_rollouts", "target": None}


def _records(trees: list[Tree], rng: random.Random) -> list[StepLabels]:
    return [
        StepLabels(
            str(t), "", [""] * (len(ids) // STEP_TOKENS),
            [float(rng.random() < 0.5) for _ in range(len(ids) // STEP_TOKENS)],
            list(tree.nodes[ROOT].token_ids), ids, list(range(STEP_TOKENS - 1, len(ids), STEP_TOKENS)),
        )
        for t, tree in enumerate(trees)
        for leaf in tree.leaves()
        for ids in [tree.completion_ids(leaf)]
    ]  # fmt: skip


def _train(net: ScoreNet, optimizer: torch.optim.Optimizer, data: list[Labelled]) -> None:
    (weighted_sum(LOSSES["bce"], read(net, data, "cpu"), data) / mass(LOSSES["bce"], data)).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def train_tokens(batch_size: int = 8, num_updates: int = 4) -> dict:
    rng = random.Random(0)
    records = _records([_chain(rng) for _ in range(batch_size * num_updates)], rng)
    net = ScoreNet(_lm()).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    total = sum(len(r.prompt_ids) + len(r.completion_ids) for r in records)

    def ours() -> int:
        for at in range(0, len(records), batch_size):
            _train(net, optimizer, from_steps(records[at : at + batch_size], 10**6))
        return total

    rows = [
        {
            "input_ids": r.prompt_ids + r.completion_ids,
            "labels": [
                r.labels[r.step_ends.index(i - len(r.prompt_ids))] if i - len(r.prompt_ids) in r.step_ends else float("nan")
                for i in range(len(r.prompt_ids) + len(r.completion_ids))
            ],
        }
        for r in records
    ]  # fmt: skip

    class Classifier(torch.nn.Module):
        """A token classifier as transformers' Trainer takes one: the loss from a padded batch."""

        def __init__(self):
            super().__init__()
            self.net = ScoreNet(_lm())

        def forward(self, input_ids, labels, attention_mask=None):
            hidden_BTD = self.net.lm.base_model(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state
            logits_BT = self.net.head(hidden_BTD)[..., 0]
            return {"loss": step_bce(logits_BT, labels).sum() / (~labels.isnan()).sum()}

    def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([row["input_ids"] for row in batch])
        labels = torch.tensor([row["labels"] for row in batch])
        return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=str(Path(folder)), per_device_train_batch_size=batch_size, num_train_epochs=1, use_cpu=True,
            report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
            learning_rate=1e-4,
        )  # fmt: skip
        model = Classifier()

        def peer() -> int:
            Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()  # pyright: ignore[reportArgumentType]
            return total

        return _compare("score: train_tokens", ours, peer, "transformers Trainer", "tokens/s", 1.0)


def tree_tokens() -> dict:
    rng = random.Random(0)
    records = _records([_alternatives(rng) for _ in range(2)], rng)
    net = ScoreNet(_lm()).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    merged, chains = from_steps(records, 10**6), [d for r in records for d in from_steps([r], 10**6)]
    total = sum(len(r.prompt_ids) + len(r.completion_ids) for r in records)

    def train(data: list[Labelled]) -> int:
        _train(net, optimizer, data)
        return total

    return _compare("score: tree_tokens", lambda: train(merged), lambda: train(chains), "chains one by one",
                    "solution tokens/s", 2.0)  # fmt: skip


COMPARISONS: dict[str, Callable[[], dict]] = {
    "prm_one_pass": prm_one_pass,
    "prm_tree": prm_tree,
    "prm_tree_rollouts": prm_tree_rollouts,
    "train_tokens": train_tokens,
    "tree_tokens": tree_tokens,
}

if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for chosen in sys.argv[1:] or COMPARISONS:
        print(json.dumps(COMPARISONS[chosen]()), flush=True)
