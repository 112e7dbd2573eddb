"""reasoner solve: one question, answered by a test-time method before your eyes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console
from rich.text import Text

from reasoner.config import Config, Entry, check_entries, read_yaml, validate
from reasoner.data.prompting import PromptConfig, load_prompting
from reasoner.engine.asking import check_sampling
from reasoner.engine.connect import EngineConfig
from reasoner.evals.load import opened
from reasoner.evals.solve import Solved, drawing, printable, solve
from reasoner.evals.tools import Solver
from reasoner.folder import run_of
from reasoner.policy.models import load_tokenizer
from reasoner.registry import UserError, lookup
from reasoner.search.methods import METHODS, MethodConfig, judges_of


class SolveConfig(Config):
    """What `reasoner solve` needs to know."""

    model: str = Field(description="folder or hub name of the policy")
    question: str = Field(min_length=1, description="the question, as the model is to see it")
    method: MethodConfig = Field(description="test-time method with its options")
    prm: str | None = Field(None, description="folder of a process reward model")
    orm: str | None = Field(None, description="folder of an outcome reward model")
    prompt: dict[str, Any] = Field(
        default={},
        description="keys of how to prompt that win over the run's that the model is in; without a run it is a chat "
        "where the tokenizer has a template",
    )
    verifier: Annotated[str, Entry("verifier", "verifiers:VERIFIERS")] = Field(
        "math", description="verifier that tells which answers are the same"
    )
    max_tokens: int = Field(512, ge=1, description="longest completion")
    num_slots: int = Field(64, ge=1, description="sequences that the engine in this process decodes at once")
    engine: EngineConfig = EngineConfig()
    seed: int = Field(0, description="seed of everything random")


def config_of(raw: dict[str, Any]) -> SolveConfig:
    """The config of a command line; `method` holds name and options, budget included."""
    method = dict(raw["method"])
    lookup(METHODS, str(method.get("name")), "method")
    config = validate(SolveConfig, {**raw, "method": method}, "solve")
    check_entries(config)
    for judge in sorted(judges_of(config.method)):
        if not getattr(config, judge):
            raise UserError(
                f"the method {config.method.name} goes by the scores of a reward model, and there is none; expected "
                f"--{judge} FOLDER, or a method without one, as majority"
            )
    if config.engine.kind != "local":
        check_sampling(config.method.sampling, config.engine.logprobs == "processed")
    return config


def run_solve(config: SolveConfig, as_json: bool) -> None:
    """Answer, showing each continuation as it comes, then the tree, the votes and what it took."""
    console = Console(stderr=as_json)
    prompting = load_prompting(config.model, prompt_for(config.model, config.prompt))
    longest = len(prompting.prompt_ids(config.question)) + config.max_tokens
    with opened(
        config.engine, config.model, prompting, longest, config.num_slots, config.prm, config.orm
    ) as solver:
        solved = _solved(config, solver, console)
    if as_json:
        print(json.dumps(_plain(solved)))
        return
    console.print(drawing(solved.tree, solved.choice, solver.prompting.decode))
    _print_answer(solved, console)


def _solved(config: SolveConfig, solver: Solver, console: Console) -> Solved:
    prompt = len(solver.prompting.prompt_ids(config.question))
    if prompt + 1 >= solver.engine.max_context:
        raise UserError(
            f"the question has {prompt} tokens; expected room for an answer in {solver.engine.max_context}"
        )

    def show(text: str) -> None:
        console.print(Text("· " + printable(text).strip().replace("\n", "\n  "), style="dim"))

    return solve(
        config.question, config.verifier, solver, config.method, config.max_tokens, config.seed, show
    )


def prompt_for(model: str, given: Mapping[str, Any]) -> PromptConfig:
    """The command line's keys over those of the run that the model lies in (runs/demo/models/ppo/model)."""
    if run := run_of(model):
        near = read_yaml(run / "config.yaml").get("prompt") or {}
    else:
        near = {"chat": bool(load_tokenizer(model).chat_template)}
    if given.get("chat_template") or given.get("system"):
        near = {**near, "chat": True}
    return validate(PromptConfig, {**near, **given}, "prompt")


def _print_answer(solved: Solved, console: Console) -> None:
    choice = solved.choice
    votes = sorted(choice.votes.items(), key=lambda v: -v[1])
    shown = ", ".join(f"{printable(a)} ({w:.3g})" for a, w in votes[:6])
    counts = {
        key: sum(m.get(key, 0) for m in solved.counts.values())
        for key in ("prefilled", "reused", "decoded", "scored")
    }
    console.print(Text.assemble(("answer  ", "dim"), (printable(choice.answer or "none found"), "bold")))
    console.print(
        Text(f"votes   {shown or 'none'}   confidence {choice.confidence:.2f}   among: {choice.drawn}")
    )
    spent = ", ".join(f"{n:,} {key}" for key, n in counts.items() if n)
    console.print(Text(f"tokens  {spent}   {solved.seconds:.1f} s", style="dim"))


def _plain(solved: Solved) -> dict[str, Any]:
    choice = solved.choice
    return {
        "answer": choice.answer, "confidence": choice.confidence, "votes": choice.votes, "drawn": choice.drawn,
        "text": solved.text, "counts": solved.counts, "seconds": solved.seconds,
    }  # fmt: skip
