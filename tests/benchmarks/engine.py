"""Sampling speed on a real chat model: `python -m tests.benchmarks.engine MODEL_FOLDER [--prompts 64] [--samples 8]`.

Word problems in the model's chat template, several samples of each, up to `--max-tokens`, at a temperature at which a small
chat model ends its answers, so that lengths differ as they do in use. `engine_real`: tokens that are kept (up to the end
of the turn) per second, ours against `model.generate` with `num_return_sequences`, in batches of `--batch` sequences.
`lora_step`: the same sampling with a LoRA adapter of rank 16 on all linear layers, against ours without, so that 1 means
no cost. `local_vs_vllm`: the same samples by a vLLM server on the same cores, which waits while ours draws; `--vllm
PROGRAM`, or the environment of launch/vllm.sh that REASONER_VLLM names. Without one, null.
All compute in `--dtype`: float32 on a CPU unless it says bfloat16, on a GPU as the model was saved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from reasoner.data.prompting import PromptConfig, Prompting, load_prompting
from reasoner.engine.connect import EngineConfig, connect
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, Sampling, place_key
from reasoner.policy.models import load_model
from tests.benchmarks.measure import medians, row, seconds

ROWS = ("engine_real", "lora_step", "local_vs_vllm")
STORIES = (
    "{a} children each pick {b} apples. They give away {c}. How many apples are left?",
    "A box holds {a} rows of {b} eggs, and {c} are broken. How many eggs are whole? Explain each step.",
    "Tom reads {a} pages a day for {b} days. The book has {c} pages more than that. How long is the book?",
    "A train goes {a} miles an hour for {b} hours, rests, and goes {c} miles more. How far does it go in all?",
)


def questions(count: int) -> list[str]:
    return [
        STORIES[i % len(STORIES)].format(a=3 + i * 7 % 19, b=2 + i * 5 % 11, c=1 + i * 3 % 17)
        for i in range(count)
    ]


class Job:
    """A model with the prompts that both sides answer; each call draws anew."""

    def __init__(self, model, prompting: Prompting, args: argparse.Namespace):
        self.model, self.prompting, self.args = model, prompting, args
        self.prompts = [prompting.prompt_ids(q) for q in questions(args.prompts)]
        self.rounds = 0

    @property
    def longest(self) -> int:
        return max(map(len, self.prompts)) + self.args.max_tokens

    def ours(self, model=None) -> float:
        """Kept tokens a second by the engine."""
        engine = LocalEngine(
            self.model if model is None else model, self.prompting.eos_ids, self.args.batch, self.longest,
            tokenizer=self.prompting.tokenizer,
        )  # fmt: skip
        return self.sampled(engine)

    def sampled(self, engine) -> float:
        """Kept tokens a second by any engine."""
        self.rounds += 1
        args, way = self.args, Sampling(temperature=self.args.temperature)
        asked = [
            Request((i, k), ids, args.max_tokens, place_key(self.rounds, 0, str(i), [(0, k)]), way)
            for i, ids in enumerate(self.prompts)
            for k in range(args.samples)
        ]
        kept = 0

        def work() -> None:
            nonlocal kept
            kept = sum(len(c.token_ids) for c in engine.sample(asked))

        return 1 / (seconds(work) / kept)

    def generate(self) -> float:
        """Kept tokens a second by transformers."""
        self.rounds += 1
        torch.manual_seed(self.rounds)
        args, ends, kept = self.args, self.prompting.eos_ids, 0
        size = max(1, args.batch // args.samples)

        def work() -> None:
            nonlocal kept
            for start in range(0, len(self.prompts), size):
                batch = self.prompting.tokenizer.pad(
                    {"input_ids": self.prompts[start : start + size]},
                    padding_side="left",
                    return_tensors="pt",
                ).to(self.model.device)
                out = self.model.generate(
                    **batch, max_new_tokens=args.max_tokens, do_sample=True, top_k=0, temperature=args.temperature,
                    num_return_sequences=args.samples, eos_token_id=ends,
                )  # fmt: skip
                new = out[:, batch["input_ids"].shape[1] :]
                ended = torch.isin(new, torch.tensor(ends, device=new.device))
                kept += int((ended.cumsum(1) - ended.long() == 0).sum())

        return 1 / (seconds(work) / kept)


def beside_lora(job: Job, dtype: str) -> dict:
    """Ours with an adapter beside ours without."""
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    with_lora = get_peft_model(load_model(job.args.model, dtype), config).to(job.model.device).eval()
    rates = medians(lambda: job.ours(with_lora), job.ours, pairs=job.args.pairs)
    return row("lora_step", *rates, "without the adapter", "tokens/s", 0.77)


def against_vllm(job: Job, program: str, folder: str, where: dict) -> dict:
    """Ours beside a vLLM server that is started on the same cores, with as many threads and sequences at once."""
    peer = f"vLLM, {job.args.batch} requests at once"
    if not program:
        return row("local_vs_vllm", job.ours(), None, peer, "tokens/s", None) | where | {"pairs": 1}
    if not torch.cuda.is_available():
        os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(torch.get_num_threads())}
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GB
    dtype = str(job.model.dtype).removeprefix("torch.")
    config = EngineConfig(kind="vllm", spawn=1, executable=program, dtype=dtype, in_flight=job.args.batch)
    prompting, size = job.prompting, job.model.config.vocab_size
    with tempfile.TemporaryDirectory() as logs:
        engine = connect(
            config, prompting.tokenizer, prompting.eos_ids, size, job.longest, folder, Path(logs),
            progress=lambda note: print(note, file=sys.stderr),
        )  # fmt: skip
        with closing(engine):
            rates = medians(job.ours, lambda: job.sampled(engine), pairs=job.args.pairs)
    return row("local_vs_vllm", *rates, peer, "tokens/s", None) | where


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a chat model")
    for name, default in (("prompts", 64), ("samples", 8), ("max-tokens", 512), ("batch", 64), ("pairs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, help="rows to measure")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="what all sides compute in")
    there = os.environ.get("REASONER_VLLM")
    program = str(Path(there) / "bin" / "vllm") if there else ""
    parser.add_argument("--vllm", default=program, help="the program vllm, in an environment of its own")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = args.dtype or ("auto" if device == "cuda" else "float32")
    model = load_model(args.model, dtype).to(device)
    job = Job(model, load_prompting(args.model, PromptConfig(chat=True)), args)
    where = {"device": device, "dtype": str(model.dtype), "pairs": args.pairs}
    if "engine_real" in args.only:
        rates = medians(job.ours, job.generate, pairs=args.pairs)
        peer = f"generate, batches of {args.batch}"
        print(json.dumps(row("engine_real", *rates, peer, "tokens/s", 3) | where), flush=True)
    if "lora_step" in args.only:
        print(json.dumps(beside_lora(job, dtype) | where), flush=True)
    if "local_vs_vllm" in args.only:
        print(json.dumps(against_vllm(job, args.vllm, args.model, where)), flush=True)
    return 0


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main())
