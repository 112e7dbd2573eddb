"""GGUF files against their model: `python -m tests.benchmarks.export MODEL_FOLDER [--prompts 100] [--tokens 32] [--bits 16 8 4]`.

The model is exported in 16, 8 and 4 bits into a folder that is removed afterwards; llama.cpp's server answers word
problems made here (reasoning-gym's gsm_symbolic) greedily, and from behind each token that is another again on the
model's own text. Beside that, the perplexity of a fixed text (reasoner.export.agreement.PASSAGE) by the file and by the
model. Prints one JSON line for each precision. Needs the extra `export`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import reasoning_gym
import torch

from reasoner.commands.quiet import quiet
from reasoner.commands.solve import prompt_for
from reasoner.data.prompting import load_prompting
from reasoner.export.agreement import PASSAGE, agreement, greedy, perplexity
from reasoner.export.gguf_file import export_gguf
from reasoner.policy.adapters import load_merged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 8, 4])
    given = parser.parse_args()
    quiet()
    prompting = load_prompting(given.model, prompt_for(given.model, {}))
    made = reasoning_gym.create_dataset("gsm_symbolic", size=given.prompts, seed=0)
    prompts = [prompting.prompt_ids(row["question"]) for row in made]
    lm = load_merged(given.model, torch.float32)
    answers = greedy(lm, prompts, prompting.eos_ids, given.tokens)
    text = prompting.encode(PASSAGE)
    with tempfile.TemporaryDirectory() as folder:
        for bits in given.bits:
            file = Path(folder) / f"{bits}.gguf"
            export_gguf(given.model, file, bits)
            found = agreement(answers, file, prompts, prompting.eos_ids, given.tokens)
            read = perplexity(lm, file, text)
            row = {"bits": bits, "megabytes": round(file.stat().st_size / 1e6), **found._asdict()}
            row |= {"perplexity": read.file, "own_perplexity": read.own, "perplexity_tokens": read.tokens}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
