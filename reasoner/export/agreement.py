"""A GGUF file is run, and what it answers is compared with the model that it was made from."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import torch

QUESTIONS = (
    "What is 17 + 25?",
    "Anna has 3 boxes with 12 apples each. She gives 7 apples away. How many are left?",
    "Write one sentence about the sea.",
    "List three even numbers.",
    "A train goes 60 miles in 90 minutes. How fast is it in miles per hour?",
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Solve for x: 2x + 3 = 11.",
)
WAIT_S = 600.0  # of one answer


class Agreement(NamedTuple):
    """Greedy answers of `asked` prompts, `same` of them to the last token; `tokens` that the model wrote in all, of which
    the file chose `chosen` after the model's own tokens before."""

    asked: int
    same: int
    tokens: int
    chosen: int


def can_run() -> bool:
    """Whether a program that runs GGUF files is installed here (xllamacpp, llama.cpp with its server)."""
    return importlib.util.find_spec("xllamacpp") is not None


def agreement(
    answers: Sequence[list[int]], file: Path, prompts: Sequence[Sequence[int]], eos_ids: Sequence[int],
    max_tokens: int,
) -> Agreement:  # fmt: skip
    """What a model answered to prompts (token ids) greedily, beside what llama.cpp's server makes of them with a file."""
    same = chosen = 0
    with server(file, max(map(len, prompts)) + max_tokens + 8) as url:
        for ids, answer in zip(prompts, answers, strict=True):
            same += ask(url, ids, eos_ids, max_tokens) == answer
            chosen += sum(
                ask(url, [*ids, *answer[:i]], eos_ids, 1) == [token] for i, token in enumerate(answer)
            )
    return Agreement(len(prompts), same, sum(map(len, answers)), chosen)


@torch.inference_mode()
def greedy(lm: Any, ids: Sequence[int], eos_ids: Sequence[int], max_tokens: int) -> list[int]:
    """The most probable tokens one after the other, by the logits alone, without the end of the turn."""
    drawn: list[int] = []
    inputs, past = torch.tensor([list(ids)]), None
    while len(drawn) < max_tokens:
        out = lm(input_ids=inputs, past_key_values=past, use_cache=True)
        token = int(out.logits[0, -1].argmax())
        if token in eos_ids:
            break
        drawn.append(token)
        inputs, past = torch.tensor([[token]]), out.past_key_values
    return drawn


@contextmanager
def server(file: Path, context: int) -> Iterator[str]:
    """llama.cpp's HTTP server on a free local port, with one file; it ends with this block."""
    import xllamacpp  # pyright: ignore[reportMissingImports]

    given = xllamacpp.CommonParams()
    given.model.path = str(file)
    given.n_ctx, given.n_parallel, given.verbosity, given.warmup = context, 1, -1, False
    given.cpuparams.n_threads = torch.get_num_threads()
    running = xllamacpp.Server(given)
    yield running.listening_address
    del running


def ask(url: str, ids: Sequence[int], eos_ids: Sequence[int], max_tokens: int) -> list[int]:
    """The greedy continuation of token ids, without the end of the turn."""
    body = {
        "prompt": list(ids), "n_predict": max_tokens, "temperature": 0, "return_tokens": True, "cache_prompt": True,
    }  # fmt: skip
    told = httpx.post(f"{url}/completion", json=body, timeout=WAIT_S).raise_for_status().json()["tokens"]
    return told[: next((i for i, token in enumerate(told) if token in eos_ids), len(told))]
