"""reasoner serve and reasoner chat: a model that answers by a test-time method, for programs and for people."""

from __future__ import annotations

import io
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from reasoner.registry import UserError

Model = Annotated[str, typer.Argument(help="folder or hub name of the policy")]
Options = Annotated[list[str] | None, typer.Argument(help="the method's options: key=value")]
MethodName = Annotated[str, typer.Option(help="test-time method; reasoner list method names them")]
BudgetOption = Annotated[int, typer.Option(help="samples that the method may draw; 0: its own default")]
Prm = Annotated[str | None, typer.Option(help="folder or name of a process reward model")]
Orm = Annotated[str | None, typer.Option(help="folder of an outcome reward model")]
System = Annotated[str | None, typer.Option(help="system message where a conversation brings none")]
MaxTokens = Annotated[int, typer.Option(help="longest completion, thinking included")]
MaxContext = Annotated[int, typer.Option(help="tokens of conversation and answer together")]
EndThink = Annotated[
    str | None,
    typer.Option(help="text that ends thinking in a completion; else </think>", show_default=False),
]
ThinkingBudget = Annotated[
    int | None,
    typer.Option(min=0, help="tokens of a chain after which its thinking is closed, and the answer follows"),
]


def serve(
    model: Model,
    options: Options = None,
    method: MethodName = "majority",
    budget: BudgetOption = 8,
    prm: Prm = None,
    orm: Orm = None,
    system: System = None,
    max_tokens: MaxTokens = 512,
    max_context: MaxContext = 4096,
    end_think: EndThink = None,
    thinking_budget: ThinkingBudget = None,
    host: Annotated[
        str, typer.Option(help="address to listen at; anything but this machine's own is open to others")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port; 0 takes a free one")] = 8000,
) -> None:
    """Answer OpenAI's protocol by a test-time method: the answer is what the method chose, and all it drew is counted.

    Example: reasoner serve runs/demo/models/ppo/model --method best_of --budget 8 --prm runs/demo/models/prm/model
    """
    try:
        import uvicorn

        from reasoner.serving.app import application
    except ImportError as problem:
        raise UserError(f"serve needs {problem.name}; install it: pip install 'reasoner[serve]'") from problem
    name = Path(model).name if Path(model).is_dir() else model
    listening = listen(host, port)
    answerer = _answerer(
        model, method, budget, options, prm, orm, system, max_tokens, max_context, end_think, thinking_budget
    )
    typer.echo(f"http://{host}:{listening.getsockname()[1]}/v1 answers as {name} by {method}", err=True)
    config = uvicorn.Config(application(answerer, name, [host]), log_level="warning")
    uvicorn.Server(config).run([listening])


def chat(
    model: Model,
    options: Options = None,
    method: MethodName = "majority",
    budget: BudgetOption = 4,
    prm: Prm = None,
    orm: Orm = None,
    system: System = None,
    max_tokens: MaxTokens = 512,
    max_context: MaxContext = 4096,
    end_think: EndThink = None,
    thinking_budget: ThinkingBudget = None,
    thinking: Annotated[bool, typer.Option(help="show what was thought before the answer")] = False,
    seed: Annotated[int, typer.Option(help="seed of everything random")] = 0,
) -> None:
    """Talk with a model in the terminal; an empty line or Ctrl-D ends it.

    Example: reasoner chat HuggingFaceTB/SmolLM2-135M-Instruct --method majority --budget 8
    """
    from reasoner.evals.solve import printable

    answerer = _answerer(
        model, method, budget, options, prm, orm, system, max_tokens, max_context, end_think, thinking_budget
    )
    console = Console()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text are no reason to end
    messages: list[dict[str, str]] = []
    while question := _line(console):
        if not answerer.solver.prompting.config.chat:
            messages = []  # each question stands alone where there is no template for conversations
        messages.append({"role": "user", "content": question})
        try:
            ids = answerer.prompt_ids(messages)
        except UserError as problem:
            console.print(Text(f"reasoner: {problem}; starting anew", style="dim"))
            messages = []
            continue
        with console.status("thinking"):
            answer = answerer.answer(ids, question, seed=seed)
        if thinking and answer.thinking:
            console.print(Text(printable(answer.thinking, None), style="dim"))
        console.print(Text(printable(answer.text, None)))
        votes = (
            f"   {len(answer.solved.choice.votes)} different answers" if answer.solved.choice.votes else ""
        )
        console.print(
            Text(f"{answer.drawn:,} tokens drawn{votes}   {answer.solved.seconds:.1f} s", style="dim")
        )
        messages.append({"role": "assistant", "content": answer.text})


def _line(console: Console) -> str:
    try:
        return console.input("[bold]> [/bold]").strip()
    except EOFError:
        return ""


def listen(host: str, port: int) -> socket.socket:
    """A socket that is taken before the model is loaded, so that a port in use is told at once."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as problem:
        raise UserError(
            f"cannot listen at {host}:{port} ({problem}); expected a free port: set --port"
        ) from problem


def _answerer(
    model, method, budget, options, prm, orm, system, max_tokens, max_context, end_think, thinking_budget
):
    from reasoner.commands.quiet import quiet
    from reasoner.commands.solve import config_of, prompt_for
    from reasoner.config import apply_overrides
    from reasoner.data.prompting import load_prompting
    from reasoner.evals.load import load
    from reasoner.search.methods import check_thinking
    from reasoner.serving.answerer import Answerer, check_end

    quiet()
    raw = apply_overrides({"name": method, **({"num_samples": budget} if budget else {})}, options or [])
    asked = config_of({"model": model, "question": "-", "method": raw, "prm": prm, "orm": orm})
    if thinking_budget is not None:
        check_thinking(asked.method)
    prompt = prompt_for(model, {"system": system} if system else {})
    if thinking_budget is not None:
        check_end(end_think, load_prompting(model, prompt), model)
    solver = load(model, prm, orm, prompt=prompt, max_context=max_context)
    return Answerer(solver, asked.method, max_tokens, end_think, thinking_budget=thinking_budget)
