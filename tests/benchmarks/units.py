"""Unit costs that reasoner/economics/scaling.py takes as measured: python -m tests.benchmarks.units

One process: seconds to prepare a problem (read from JSON lines, told apart, compared with 1,000 test problems, written in
its random order, and tokenized), and, for trees of 16 chains of 256 tokens, bytes of a token on disk and in memory and
tokens a second that are written, read and labelled (hard and soft labels, outcomes, pairs and traces, with their texts).
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from reasoner.data.prompting import PromptConfig, load_prompting
from reasoner.data.rows import SourceConfig
from reasoner.ledger import Ledger
from reasoner.policy.models import save, train_tokenizer
from reasoner.signals.outcome_labels import outcome_labels
from reasoner.signals.pairs import PairConfig, sibling_pairs
from reasoner.signals.step_labels import StepLabelConfig, step_labels
from reasoner.signals.traces import TraceConfig, traces
from reasoner.stages.context import Context, random_order
from reasoner.store import put_records, put_trees, read_trees
from reasoner.trainers.loop import Session
from tests.benchmarks.store import CHAINS, make_trees, peak_mb

NUM, TREES, TOKENS = 20_000, 400, 256
PROMPT = "A shop has {} boxes of {} pens each and sells {} of them on Monday and {} on Tuesday. How many pens are left? {}"


def tell(name: str, value: float, unit: str) -> None:
    print(json.dumps({"name": name, "ours": value, "unit": unit, "pairs": 1}), flush=True)


def prompting_in(folder: Path):
    """A small tokenizer on a model of one layer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = train_tokenizer([PROMPT.format(i, i + 1, i + 2, i + 3, i) for i in range(100)], 600)
    config = AutoConfig.for_model(
        "qwen2", vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    save(AutoModelForCausalLM.from_config(config), tokenizer, folder)
    return load_prompting(str(folder), PromptConfig()), len(tokenizer)


def preparing(folder: Path, prompting) -> None:
    sets = {}
    for name, start, num in (("train", 0, NUM), ("test", 10 * NUM, 1000)):
        path = folder / f"{name}.jsonl"
        with path.open("w") as file:
            for i in range(start, start + num):
                prompt = PROMPT.format(i, i % 97, i % 89, i % 83, i)
                file.write(json.dumps({"prompt": prompt, "answer": str(i)}) + "\n")
        sets[name] = [SourceConfig(name="jsonl", path=str(path), size=NUM)]
    session = Session(folder / "stage", Ledger(), parts=folder / "stage/parts")
    context = Context(folder, sets, PromptConfig(), session)
    begun = time.process_time()
    spool = context.spooled(["train"], lambda *_: [("", n) for n in random_order(NUM, 0).tolist()])
    for problem in spool.read(0, len(spool)):
        prompting.prompt_ids(problem.prompt)
    tell("prepare a problem", (time.process_time() - begun) / len(spool), "s")


def trees_through(folder: Path, prompting, vocab: int) -> None:
    before = peak_mb()
    trees = []
    for tree in make_trees(TREES, TOKENS):
        for node in tree.nodes[1:]:
            ids = tuple(t % vocab for t in node.token_ids)
            object.__setattr__(node, "token_ids", ids)
        trees.append(tree)
    tokens = TREES * CHAINS * TOKENS
    tell("a token in memory", (peak_mb() - before) * 2**20 / tokens, "bytes")
    begun = time.process_time()
    for number in range(0, TREES, 4):
        put_trees(folder / "trees", number // 4, trees[number : number + 4])
    tell("tokens written", tokens / (time.process_time() - begun), "1/s")
    size = sum(path.stat().st_size for path in (folder / "trees").iterdir())
    tell("a token on disk", size / tokens, "bytes")
    begun = time.process_time()
    found = list(read_trees(folder / "trees"))
    tell("tokens read", tokens / (time.process_time() - begun), "1/s")
    begun = time.process_time()
    written = folder / "records"
    for kind in ("hard", "soft"):
        config = StepLabelConfig(kind=kind)
        put_records(written / kind, 0, list(step_labels(found, config, prompting.decode)))
    put_records(written / "outcome", 0, list(outcome_labels(found, prompting.decode)))
    put_records(written / "pairs", 0, list(sibling_pairs(found, PairConfig(), prompting.decode)))
    put_records(written / "traces", 0, list(traces(found, TraceConfig(), prompting.decode, prompting.encode)))
    tell("tokens labelled", tokens / (time.process_time() - begun), "1/s")
    size = sum(path.stat().st_size for path in written.rglob("*.parquet"))
    tell("records of a token", size / tokens, "bytes")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prompting, vocab = prompting_in(folder / "model")
        preparing(folder, prompting)
        trees_through(folder, prompting, vocab)


if __name__ == "__main__":
    main()
