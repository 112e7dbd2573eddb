"""A GGUF file is run, and what it answers is compared with the model that it was made from."""

from __future__ import annotations

import importlib
import importlib.util
import math
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
# Never change it: perplexities of this text are written down (tests/benchmarks/README.md).
PASSAGE = (
    "The ferry to the island leaves at seven in the morning and comes back at six. On most days it carries about "
    "forty people: workers who repair the old lighthouse, a teacher with her two sons, and a few visitors who want to "
    "walk along the cliffs. In winter the sea is often too rough, and then nobody crosses for days. The shop on the "
    "island keeps flour, rice, candles and batteries for such weeks. Last January the boat stayed in the harbour for "
    "nine days. By the end there were only 12 loaves of bread left for 31 people, so the baker cut each of them into "
    "five pieces, which gave 60 pieces, almost two for everyone. When the wind finally turned, the captain sounded "
    "the horn three times, and the children ran down to the pier to see what had come: letters, apples, and a new "
    "rope for the school bell.\n"
)
WAIT_S = 600.0  # of one answer


class Agreement(NamedTuple):
    """Greedy answers of `asked` prompts, `same` of them to the last token; `tokens` that the model wrote in all, of which
    the file chose `chosen` after the model's own tokens before."""

    asked: int
    same: int
    tokens: int
    chosen: int


class Perplexity(NamedTuple):
    """exp of the mean surprise, in nats, at the tokens of a text behind its first: the model's own, and the file's."""

    own: float
    file: float
    tokens: int


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


def perplexity(lm: Any, file: Path, ids: Sequence[int]) -> Perplexity:
    """How much a text (token ids) surprises a model, and llama.cpp's server with a file of it."""
    with server(file, len(ids) + 8) as url:
        told = [forced(url, ids[:at], ids[at]) for at in range(1, len(ids))]
    return Perplexity(_exp_mean(own_logprobs(lm, ids)), _exp_mean(told), len(ids) - 1)


@torch.no_grad()
def own_logprobs(lm: Any, ids: Sequence[int]) -> list[float]:
    """log p of each token but the first behind those before it."""
    logprobs_TV = lm(torch.tensor([list(ids)], device=lm.device)).logits[0, :-1].float().log_softmax(-1)
    return logprobs_TV[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].tolist()


def _exp_mean(logprobs: Sequence[float]) -> float:
    surprise = -sum(logprobs) / len(logprobs)
    return (
        math.exp(surprise) if surprise < 700 else math.inf
    )  # the server's least number, where a chance is 0


def forced(url: str, ids: Sequence[int], token: int) -> float:
    """log p of one token behind others: the server tells that of the token it takes, before the bias that makes it take it."""
    body = {
        "prompt": list(ids), "n_predict": 1, "temperature": 0, "n_probs": 1, "logit_bias": [[token, 1e4]], "cache_prompt": True,
    }  # fmt: skip
    answer = httpx.post(f"{url}/completion", json=body, timeout=WAIT_S).raise_for_status().json()
    (taken,) = answer["completion_probabilities"]
    assert taken["id"] == token, f"llama.cpp took token {taken['id']}, not {token}: it knows no logit_bias"
    return taken["logprob"]


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
