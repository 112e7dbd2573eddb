"""Checks that run the model for a moment: the engine says what the model says, and some problems are within its reach."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from reasoner.data.golds import judgeable
from reasoner.doctor.case import Case, draws
from reasoner.doctor.findings import Finding
from reasoner.economics.shape import count_parameters
from reasoner.engine.check import check_sampler
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, Sampling, place_key
from reasoner.planning.models import model_named
from reasoner.policy.adapters import load_merged
from reasoner.policy.models import load_tokenizer
from reasoner.registry import UserError
from reasoner.stages.references import Names, named
from reasoner.trainers.gates import check_packed
from verifiers import verify_many

PROBLEMS, SAMPLES, AT_ONCE = 16, 4, 2  # problems that are tried, answers to each, problems drawn together
SECONDS = 45.0  # no further problems are tried that would take longer than this in all
ON_CPU = 1_000_000_000  # parameters from which a CPU takes too long
ENOUGH = 8  # problems from which their outcome is worth a warning
UNIFORM = 0.95  # share of problems that may be solved always


def tokenizers(case: Case) -> Iterator[Finding]:
    """Models that read the policy's tokens have its tokenizer."""
    for key, stage in case.stages():
        policy = case.origins[stage.name]
        if not isinstance(policy, str) or not Path(policy).is_dir():
            continue
        for field, marker, name in named(stage, Names):
            if marker.what != "reward model" or not Path(name).is_dir():
                continue
            if load_tokenizer(name).get_vocab() != load_tokenizer(policy).get_vocab():
                yield Finding(
                    "tokenizers", "error", f"{key}.{field}", f"{name} has another tokenizer than the policy {policy}",
                    "take a reward model that was trained from the policy or from a model of its family",
                )  # fmt: skip


def _loaded(case: Case, path: str) -> Any | None:
    """The model, where two minutes are enough for it here."""
    config = case.architecture(next(s for _, s in case.stages() if case.origins[s.name] == path))
    if not case.machine.on_gpu and count_parameters(config).total > ON_CPU:
        return None
    lm = load_merged(path)
    return lm.to("cuda" if case.machine.on_gpu else "cpu")


def runs(case: Case) -> Iterator[Finding]:
    """Sampling, scoring and training on trees give the log-probabilities of a plain forward pass; some answers are right."""
    key, path = case.model
    prompting = case.prompting
    if not path or prompting is None:
        return
    try:
        lm = _loaded(case, path)
    except (UserError, RuntimeError, ValueError, KeyError) as problem:
        reason = " ".join(str(problem).split())[:200]
        yield Finding(
            "runs", "error", key, f"{path} cannot be loaded: {reason}", "check the files in its folder"
        )
        return
    if lm is None:
        yield Finding(
            "runs", "note", key, f"{path} is too large to be tried on this CPU in two minutes", "try it where it will run"
        )  # fmt: skip
        return
    bad = [name for name, p in lm.named_parameters() if not bool(torch.isfinite(p).all())]
    if bad:
        yield Finding(
            "runs",
            "error",
            key,
            f"{path} has weights that are no numbers, as {bad[0]}",
            "take another checkpoint",
        )
        return
    context = _context(case)
    engine = LocalEngine(lm, prompting.eos_ids, PROBLEMS, context, tokenizer=prompting.tokenizer)
    try:
        check_sampler(engine)
        if any(hasattr(stage, "tokens_per_batch") for _, stage in case.stages()):
            check_packed(lm)
    except UserError as problem:
        yield Finding("runs", "error", key, str(problem), "see the end of the line above")
        return
    yield from _reach(case, engine)


def _context(case: Case) -> int:
    prompting = case.prompting
    assert prompting is not None
    prompts = [
        len(prompting.prompt_ids(i.problem.prompt)) for items in case.items.values() for i in items[:600]
    ]
    most = max((getattr(s, "max_tokens", 0) for _, s in case.stages()), default=0)
    return max(prompts, default=64) + max(most, 64)


def _reach(case: Case, engine: LocalEngine) -> Iterator[Finding]:
    """How many problems of what is learned from draws are solved always, or never."""
    # what an earlier stage will have trained is another model by then
    key, stage = next(
        ((k, s) for k, s in case.stages() if draws(s) and model_named(s) == case.model[1]), ("", None)
    )
    prompting = case.prompting
    if stage is None or prompting is None:
        return
    items = [i for n in stage.problems for i in judgeable(case.items.get(n, ()))[0]]
    items = sorted(items[:: max(1, len(items) // PROBLEMS)][:PROBLEMS], key=lambda i: len(i.problem.prompt))
    right: list[int] = []
    began, longest = time.monotonic(), 0.0
    for start in range(0, len(items), AT_ONCE):
        begins = time.monotonic()
        if start and begins - began + longest > SECONDS:
            break
        group = items[start : start + AT_ONCE]
        asked = [
            Request((n, k), prompting.prompt_ids(i.problem.prompt), stage.max_tokens,
                    place_key(case.config.seed, 0, i.problem.id, [(0, k)]), Sampling(stage.temperature))
            for n, i in enumerate(group) for k in range(SAMPLES)
        ]  # fmt: skip
        done = engine.sample(asked)
        requests = [
            (c.id, group[c.id[0]].problem.verifier, prompting.decode(c.token_ids), group[c.id[0]].problem.reference)  # type: ignore[index]
            for c in done
        ]  # fmt: skip
        verdicts = dict(verify_many(requests))
        right += [sum(verdicts[n, k].status == "correct" for k in range(SAMPLES)) for n in range(len(group))]
        longest = max(longest, time.monotonic() - begins)
    if not right:
        return
    always, never = (sum(r == n for r in right) for n in (SAMPLES, 0))
    told = f"of {len(right)} problems, {SAMPLES} answers each, {always} are solved always and {never} never"
    if len(right) < ENOUGH:
        yield Finding(
            "reach", "note", f"{key}.problems", f"{told}: too few to tell, for want of time", "ask again on a faster machine"
        )  # fmt: skip
    elif always >= UNIFORM * len(right):
        yield Finding(
            "reach", "warning", f"{key}.problems", f"{told}: nothing is left to learn", "take harder problems"
        )
    elif never == len(right):
        yield Finding(
            "reach", "warning", f"{key}.problems", f"{told}: no answer is ever rewarded",
            "imitate worked solutions first (an sft stage), take easier problems, or raise max_tokens",
        )  # fmt: skip
    else:
        yield Finding("reach", "note", f"{key}.problems", told, "none is needed")
