"""What it saves to keep a tree on one of several servers: `python -m tests.benchmarks.affinity MODEL_FOLDER --vllm PROGRAM`.

Trees of 4 branches and 4 levels below a prompt in the model's chat template are grown by two vLLM servers on this machine.
Once all requests of a tree go to one server, once each goes to the server with the fewest under way. The servers count the
tokens of prompts that they were asked for and those that they had already. Prints one JSON line: prompt tokens that had to be
computed, as ratio without over with affinity, the shares that were there already, and the seconds of both.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx
import torch
from transformers import AutoConfig

from reasoner.data.prompting import PromptConfig, load_prompting
from reasoner.engine.connect import EngineConfig, connect
from reasoner.engine.protocol import Request, place_key
from tests.benchmarks.engine import questions
from tests.benchmarks.measure import row, seconds

ARITY, DEPTH, SEGMENT = 4, 4, 16
BLOCK = 32  # tokens of a prefix that are kept or not as one; the least that vLLM takes on a CPU
NODES = sum(ARITY**level for level in range(1, DEPTH + 1))
COUNTERS = ("queries", "hits")


def grow_trees(engine, prompts: list[list[int]], seed: int, keeps_together: bool) -> None:
    """All trees at once, a continuation asked for as soon as what it continues is there."""
    prefixes = {(tree,): ids for tree, ids in enumerate(prompts)}

    def below(path: tuple[int, ...]) -> list[Request]:
        paths = [(*path, child) for child in range(ARITY)]
        return [
            Request(p, prefixes[path], SEGMENT, place_key(seed, 0, str(p[0]), [(0, i) for i in p[1:]]),
                    tree=(seed, p[0] if keeps_together else p))
            for p in paths
        ]  # fmt: skip

    engine.submit([request for tree in range(len(prompts)) for request in below((tree,))])
    while finished := engine.poll():
        for c in finished:
            prefixes[c.id] = [*prefixes[c.id[:-1]], *c.token_ids]
            if len(c.id) <= DEPTH and c.stop_reason == "length":
                engine.submit(below(c.id))


def counted(urls: list[str]) -> dict[str, float]:
    """Prompt tokens that the servers were asked for, and those of them that they had."""
    total = dict.fromkeys(COUNTERS, 0.0)
    for url in urls:
        text = httpx.get(f"{url}/metrics").text
        for name in COUNTERS:
            found = re.findall(rf"^vllm:prefix_cache_{name}_total{{.*?}} (\S+)$", text, re.M)
            assert len(found) == 1, f"{url}/metrics has {len(found)} counters of prefix_cache_{name}"
            total[name] += float(found[0])
    return total


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a chat model")
    parser.add_argument("--vllm", required=True, help="the program vllm, in an environment of its own")
    parser.add_argument("--trees", type=int, default=4)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GB
    prompting = load_prompting(args.model, PromptConfig(chat=True))
    prompts = [prompting.prompt_ids(q) for q in questions(args.trees)]
    size = AutoConfig.from_pretrained(args.model).vocab_size
    longest = max(map(len, prompts)) + DEPTH * SEGMENT
    config = EngineConfig(
        kind="vllm", spawn=2, executable=args.vllm, dtype="float32", arguments=["--block-size", str(BLOCK)]
    )
    found = {}
    with tempfile.TemporaryDirectory() as logs:
        engine = connect(
            config, prompting.tokenizer, prompting.eos_ids, size, longest, args.model, Path(logs),
            progress=lambda note: print(note, file=sys.stderr),
        )  # fmt: skip
        with closing(engine):
            urls = [server.url for server in engine.servers]
            assert len(set(urls)) == 2, urls
            for seed, keeps_together in ((1, False), (2, True)):
                before = counted(urls)
                taken = seconds(partial(grow_trees, engine, prompts, seed, keeps_together))
                after = counted(urls)
                asked, had = (after[name] - before[name] for name in COUNTERS)
                found[keeps_together] = (asked - had, had / asked, taken)
    (computed, share, taken), (apart, share_apart, taken_apart) = found[True], found[False]
    line = row(
        "tree_affinity", computed, apart, "each request to the freer server", "prompt tokens computed", None
    )
    line |= {"ratio": round(apart / computed, 3), "had": round(share, 3), "had_apart": round(share_apart, 3)}
    print(json.dumps(line | {"seconds": round(taken, 1), "seconds_apart": round(taken_apart, 1)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
