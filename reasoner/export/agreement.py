"""A GGUF file is run, and what it answers is compared with the model that it was made from."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import torch

from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, Sampling

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
            told = ask(url, ids, eos_ids, max_tokens)
            same += told == answer
            at = 0
            while at < len(answer):  # from behind each token that is another, on the model's own text again
                shared = _shared(told, answer[at:])
                chosen += shared
                at += shared + 1
                if at < len(answer):
                    told = ask(url, [*ids, *answer[:at]], eos_ids, len(answer) - at)
    return Agreement(len(prompts), same, sum(map(len, answers)), chosen)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def greedy(
    lm: Any, prompts: Sequence[Sequence[int]], eos_ids: Sequence[int], max_tokens: int
) -> list[list[int]]:
    """The most probable tokens one after the other, without the end of the turn."""
    engine = LocalEngine(lm, eos_ids, 32, max(map(len, prompts)) + max_tokens)
    asked = [Request(str(i), list(ids), max_tokens, i, Sampling(0.0)) for i, ids in enumerate(prompts)]
    drawn = {completion.id: list(completion.token_ids) for completion in engine.sample(asked)}
    return [_before_end(drawn[str(i)], eos_ids) for i in range(len(prompts))]


def _before_end(ids: list[int], eos_ids: Sequence[int]) -> list[int]:
    return ids[: next((i for i, token in enumerate(ids) if token in eos_ids), len(ids))]


@contextmanager
def server(file: Path, context: int) -> Iterator[str]:
    """llama.cpp's HTTP server on a free local port, with one file; it ends with this block."""
    xllamacpp: Any = importlib.import_module("xllamacpp")
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
    answer = httpx.post(f"{url}/completion", json=body, timeout=WAIT_S).raise_for_status().json()
    return _before_end(answer["tokens"], eos_ids)
