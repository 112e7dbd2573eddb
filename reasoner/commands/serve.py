"""reasoner serve and reasoner chat: a model that answers by a test-time method, for programs and for people."""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from reasoner.registry import UserError

if TYPE_CHECKING:
    from reasoner.serving.answerer import Answer, Answerer

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
Engine = Annotated[
    str, typer.Option(help="what draws, as in the YAML: '{kind: vllm, urls: [http://127.0.0.1:8000]}'")
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
    engine: Engine = "{}",
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
    with _answering(
        model, method, budget, options, prm, orm, system, max_tokens, max_context, end_think, thinking_budget,
        engine,
    ) as answerer:  # fmt: skip
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
    engine: Engine = "{}",
    thinking: Annotated[bool, typer.Option(help="show what was thought before the answer")] = False,
    seed: Annotated[int, typer.Option(help="seed of everything random")] = 0,
) -> None:
    """Talk with a model in the terminal; an empty line or Ctrl-D ends it.

    Example: reasoner chat HuggingFaceTB/SmolLM2-135M-Instruct --method majority --budget 8
    """
    console = Console()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text are no reason to end
    with _answering(
        model, method, budget, options, prm, orm, system, max_tokens, max_context, end_think, thinking_budget,
        engine,
    ) as answerer:  # fmt: skip
        _talk(answerer, console, thinking, seed)


def _talk(answerer: Answerer, console: Console, thinking: bool, seed: int) -> None:
    """Question after question; one that cannot be asked, or that no server draws for, is told and left out."""
    from reasoner.engine.asking import ServerGone
    from reasoner.evals.solve import printable

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
        try:
            answer = _answer(answerer, console, ids, question, seed)
        except ServerGone as problem:
            console.print(Text(f"reasoner: {problem}, or ask again here", style="dim"))
            messages.pop()
            continue
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


def _answer(answerer: Answerer, console: Console, ids: list[int], question: str, seed: int) -> Answer:
    """The answer; while it is drawn, how many continuations are there."""
    num = 0
    with console.status("thinking") as status:

        def show(text: str) -> None:
            nonlocal num
            num += 1
            status.update(f"thinking, {num} drawn")

        return answerer.answer(ids, question, seed=seed, show=show)


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


@contextmanager
def _answering(
    model, method, budget, options, prm, orm, system, max_tokens, max_context, end_think, thinking_budget,
    engine,
) -> Iterator[Answerer]:  # fmt: skip
    """What answers, all that is asked for checked before the model is loaded; servers that it started end with it."""
    from reasoner.commands.quiet import quiet
    from reasoner.commands.solve import config_of, prompt_for
    from reasoner.config import apply_overrides
    from reasoner.data.prompting import load_prompting
    from reasoner.evals.load import opened
    from reasoner.search.methods import check_thinking
    from reasoner.serving.answerer import Answerer, check_end

    quiet()
    raw = apply_overrides({"name": method, **({"num_samples": budget} if budget else {})}, options or [])
    given = {"model": model, "question": "-", "method": raw, "prm": prm, "orm": orm}
    asked = config_of(apply_overrides(given, [f"engine={engine}"]))
    if thinking_budget is not None:
        check_thinking(asked.method)
    prompting = load_prompting(model, prompt_for(model, {"system": system} if system else {}))
    if thinking_budget is not None:
        check_end(end_think, prompting, model)
    with ExitStack() as ending:
        with Console(stderr=True).status("loading") as status:
            solver = ending.enter_context(
                opened(asked.engine, model, prompting, max_context, prm=prm, orm=orm, progress=status.update)
            )
        yield Answerer(solver, asked.method, max_tokens, end_think, thinking_budget=thinking_budget)
