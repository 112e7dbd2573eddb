"""Peak of live tensor bytes: PPO's five models with LoRA against plain LoRA fine-tuning of the same base.

    python -m tests.benchmarks.memory [--model FOLDER | --layers 12 --width 768] [--tokens 512 --batch 4]

Both sides train the same base (a random one of 100M parameters by default) on sequences of the same number and
length, in one process, one after the other. Ours is a whole round of `train_policy`: rollout with its keys
and values, PRM, ORM, reference and critic scores, one update of policy and critic. Every storage counts
from the operation that makes it until it is freed, weights, gradients, optimizer states and KV included.
Prints one JSON line per comparison; ratio = peer / ours.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import weakref
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.ledger import Ledger
from reasoner.policy.adapters import LoRA, SharedBase, load_peft
from reasoner.policy.heads import ScoreNet
from reasoner.policy.models import load_model, load_tokenizer, save, train_tokenizer
from reasoner.search.branch import BranchConfig
from reasoner.signals.advantages import AdvantageConfig
from reasoner.signals.reward import RewardConfig
from reasoner.trainers.loop import OptimizerConfig, Session
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_gradient import train_policy
from reasoner.tree import Problem

LORA = LoRA(r=16, alpha=32)
PROMPT = "1 + 2 = 3\n" * 4


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages that operations have returned and that are not freed yet; `peak` is the most at once."""

    def __init__(self):
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, out)):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return out

    def _see(self, storage) -> None:
        key = storage._cdata
        size = storage.nbytes()
        if key not in self.sizes:
            self.sizes[key] = 0
            weakref.finalize(storage, self._drop, key)
        self.now += size - self.sizes[key]
        self.sizes[key] = size
        self.peak = max(self.peak, self.now)

    def _drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)


def make_base(folder: Path, args: argparse.Namespace) -> int:
    """Save a random Llama-shaped base with the vocabulary of 32,768 tokens; returns its number of parameters."""
    tokenizer = train_tokenizer(["1 + 2 = 3\n"] * 9, 300)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2", vocab_size=args.vocab, hidden_size=args.width, intermediate_size=args.width * 8 // 3,
        num_hidden_layers=args.layers, num_attention_heads=args.width // 64, num_key_value_heads=args.width // 192,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    save(model, tokenizer, folder)
    return sum(p.numel() for p in model.parameters())


def reward_models(base: Path, out: Path) -> None:
    """PRM, ORM and critic as adapters with heads, as their trainer saves them."""
    shared = SharedBase(str(base), LORA)
    for name in ("prm", "orm", "critic"):
        net = ScoreNet(shared.new(name, like="policy"))
        torch.nn.init.normal_(net.head.weight, std=0.01)
        net.save(load_tokenizer(str(base)), out / name)


def policy_stage(
    prompting: Prompting, args: argparse.Namespace, checkpointing: bool, rounds: int, lora: LoRA | None
) -> PolicyGradientStage:
    """Step-level PPO on single chains, as long as `args.tokens` with their prompt."""
    reward = RewardConfig(prm_weight=0.1, orm_weight=0.1)
    return PolicyGradientStage(
        rounds=rounds, problems_per_round=args.batch, max_tokens=args.tokens - len(prompting.prompt_ids(PROMPT)),
        minibatches=1, drop_uniform=False, tree=BranchConfig(num_roots=1, num_rounds=0),
        advantage=AdvantageConfig(reward=reward), kl_weight=0.01, lora=lora, gradient_checkpointing=checkpointing,
        num_slots=args.batch, tokens_per_batch=args.tokens * args.batch, whiten=False,
        optimizer=OptimizerConfig(lr=1e-6), critic_optimizer=OptimizerConfig(lr=1e-6),
    )  # fmt: skip


def five_models(
    base: Path, adapters: Path, args: argparse.Namespace, checkpointing: bool, rounds: int = 1,
    lora: LoRA | None = LORA,
) -> int:  # fmt: skip
    """Peak of rounds of step-level PPO: policy, reference, critic, PRM and ORM; five whole models without `lora`."""
    prompting = Prompting(load_tokenizer(str(base)), PromptConfig())
    problems = [Problem(str(i), PROMPT, "math", {"answer": "1"}) for i in range(args.batch)]
    config = policy_stage(prompting, args, checkpointing, rounds, lora)
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as out, LiveBytes() as live, ledger.stage("ppo"):
        train_policy(str(base), prompting, problems, config, Session(Path(out), ledger), str(adapters / "critic"),
                     str(adapters / "prm"), orm_path=str(adapters / "orm"))  # fmt: skip
    return live.peak


def plain_lora(base: Path, args: argparse.Namespace, checkpointing: bool) -> int:
    """Peak of two updates of ordinary LoRA fine-tuning: transformers' own loss on whole sequences, AdamW."""
    with LiveBytes() as live:
        model = load_peft(str(base), LORA)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
        ids_BT = torch.randint(1, 300, (args.batch, args.tokens))
        for _ in range(2):
            model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return live.peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in {"layers": 12, "width": 768, "vocab": 32768, "tokens": 512, "batch": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", type=Path, help="folder of a base, instead of a random one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base, adapters = args.model or Path(scratch) / "base", Path(scratch) / "adapters"
        num_params = (
            sum(p.numel() for p in load_model(str(base)).parameters())
            if args.model
            else make_base(base, args)
        )
        reward_models(base, adapters)
        for checkpointing in (False, True):
            peer = plain_lora(base, args, checkpointing)
            gc.collect()
            ours = five_models(base, adapters, args, checkpointing)
            gc.collect()
            name = "five_models_lora" + ("_checkpointed" if checkpointing else "")
            print(json.dumps({
                "name": name, "ours": round(ours / 2**20), "peer": round(peer / 2**20),
                "peer_name": "plain LoRA fine-tuning", "unit": "MiB", "ratio": round(peer / ours, 3), "target": 0.74,
                "pairs": 1,
            }), flush=True)  # fmt: skip
            copies = ours + 4 * 4 * num_params  # computed: each model with a float32 base of its own
            print(json.dumps({
                "name": name.replace("lora", "lora_vs_separate_bases"), "ours": round(ours / 2**20),
                "peer": round(copies / 2**20), "peer_name": "the same with five bases (computed)", "unit": "MiB",
                "ratio": round(copies / ours, 3), "target": None, "pairs": 1,
            }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
