"""The command line: parse, read the config, make one call."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reasoner import __version__, interrupt
from reasoner.commands.doctor import doctor
from reasoner.commands.execute import (
    resolved_config,
    run_config,
    show_rows,
    tell_of_no_answers,
    width,
)
from reasoner.commands.export import export
from reasoner.commands.init import init
from reasoner.commands.plan import plan
from reasoner.commands.quiet import quiet
from reasoner.commands.run import AsJson, Overrides, run, train
from reasoner.commands.serve import chat, serve
from reasoner.commands.view import view
from reasoner.config import apply_overrides
from reasoner.registry import MachineFault, UserError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
config_app = typer.Typer(no_args_is_help=True, help="About configuration files.")
app.add_typer(config_app, name="config")

app.command()(run)
app.command()(train)
app.command()(init)
app.command()(plan)
app.command()(doctor)
app.command()(chat)
app.command()(serve)
app.command()(export)
app.command()(view)


def _version(is_asked: bool) -> None:
    if is_asked:
        print(f"reasoner {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version, and end")
    ] = False,
) -> None:
    """Train language models to reason: trees, verifiers, process rewards, step-level PPO."""


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="a run's folder, or a folder of trees")],
    id: Annotated[
        str | None, typer.Argument(help="problem whose tree is drawn; without one all are listed")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="stage whose trees are shown; by default the last written")
    ] = None,
    limit: Annotated[int, typer.Option(help="most trees in the list")] = 50,
    as_json: AsJson = False,
) -> None:
    """Draw a tree with values, scores, verdicts and tokens, or list the trees of a run.

    Example: reasoner show runs/demo; then reasoner show runs/demo ID, with an id of the list
    """
    from reasoner.commands.show import show

    show(run, id, stage, limit, as_json)


@app.command()
def demo(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Train a model from nothing by the whole method, in minutes on a CPU, and show what each part gave."""
    from reasoner.commands.shipped import CONFIGS

    run_config(CONFIGS / "demo.yaml", overrides or [], as_json)


@app.command()
def evaluate(
    config: Annotated[Path | None, typer.Argument(help="YAML with problems and evaluate stages")] = None,
    overrides: Overrides = None,
    replay: Annotated[Path | None, typer.Option(help="file or folder of samples made elsewhere")] = None,
    k: Annotated[str, typer.Option(help="with --replay: numbers of samples, as 1,4,16")] = "",
    as_json: AsJson = False,
) -> None:
    """Problem sets × policies × test-time methods, each charged all that it costs; or samples made elsewhere.

    Example: reasoner evaluate configs/evaluate_demo.yaml
    Step benchmarks of reward models: reasoner evaluate configs/evaluate/processbench.yaml
    """
    if replay is None:
        if config is None:
            raise UserError("evaluate got neither CONFIG nor --replay; expected one of them")
        return run_config(config, overrides or [], as_json)
    from reasoner.commands.evaluate import run_replay

    rows = run_replay(replay, k, resolved_config(config, overrides or []) if config else None)
    show_rows(rows, as_json)
    tell_of_no_answers(rows)


@app.command()
def solve(
    model: Annotated[str, typer.Argument(help="folder or hub name of the policy")],
    question: Annotated[str, typer.Argument(help="the question")],
    options: Annotated[list[str] | None, typer.Argument(help="the method's options: key=value")] = None,
    method: Annotated[
        str, typer.Option(help="test-time method, as majority, best_of, beam, mcts")
    ] = "majority",
    budget: Annotated[int, typer.Option(help="samples that the method may draw; 0: its own default")] = 0,
    prm: Annotated[str | None, typer.Option(help="folder of a process reward model")] = None,
    orm: Annotated[str | None, typer.Option(help="folder of an outcome reward model")] = None,
    template: Annotated[str | None, typer.Option(help="text around the question, with {prompt}")] = None,
    system: Annotated[str | None, typer.Option(help="system message; the question is then a chat's")] = None,
    chat: Annotated[
        bool | None,
        typer.Option(help="ask by the chat template, or without; else as the run, or where there is one"),
    ] = None,
    chat_template: Annotated[
        str | None, typer.Option(help="Jinja, or its file, for the tokenizer's own")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="a token that ends the answer; may be repeated")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="longest completion")] = 512,
    engine: Annotated[
        str, typer.Option(help="what draws, as in the YAML: '{kind: vllm, urls: [http://127.0.0.1:8000]}'")
    ] = "{}",
    seed: Annotated[int, typer.Option(help="seed of everything random")] = 0,
    as_json: AsJson = False,
) -> None:
    """Answer one question by a test-time method, and show the tree, the votes and what it took.

    Example: reasoner solve runs/demo/models/ppo/model 3+4-2 --method beam --budget 8 --prm runs/demo/models/prm/model
    """
    from reasoner.commands.solve import config_of, run_solve

    chosen = apply_overrides({"name": method, **({"num_samples": budget} if budget else {})}, options or [])
    raw = {
        "model": model,
        "question": question,
        "method": chosen,
        "prm": prm,
        "orm": orm,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    quiet()
    prompt = {
        "template": template,
        "system": system,
        "chat": chat,
        "chat_template": chat_template,
        "stop": stop,
    }
    given = {key: value for key, value in prompt.items() if value is not None and value != []}
    run_solve(config_of(apply_overrides({**raw, "prompt": given}, [f"engine={engine}"])), as_json)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="math | steps | code | logic, or module:function")],
    response: Annotated[str, typer.Option(help="the response to judge; @FILE reads it from a file")],
    reference: Annotated[
        str, typer.Option(help='the verifier\'s keyword arguments as JSON, e.g. \'{"answer": "5"}\'')
    ],
    min_isolation: Annotated[
        str, typer.Option(help="least tier of isolation for programs: A, B, B-landlock or C")
    ] = "B",
) -> None:
    """Judge one response and print the verdict as JSON.

    Exit code: 0 correct, 1 incorrect or no answer, 2 a call that cannot be, 3 an error of ours.

    Example: reasoner verify math --response 'so \\boxed{5}' --reference '{"answer": "5"}'
    """
    from reasoner.commands.verify import verify as judge

    raise typer.Exit(judge(name, response, reference, min_isolation))


@app.command()
def replay(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="folder of a finished run with judged trees")
    ],
    variants: Annotated[
        list[str] | None,
        typer.Argument(help="advantage options joined by commas: method=grpo,reward.prm_weight=0.5"),
    ] = None,
    stage: Annotated[str, typer.Option(help="stage with the judged trees; by default the last verify")] = "",
    trees: Annotated[int, typer.Option(help="most trees that are read")] = 128,
    as_json: AsJson = False,
) -> None:
    """Recompute advantages of stored trees under other rewards and methods, and compare them with the run's own.

    Example: reasoner replay runs/demo method=grpo method=vineppo reward.prm_weight=0,gamma=0.9
    """
    from reasoner.evals.advantage_replay import compare_variants, comparison_json, comparison_table

    quiet()
    rows = compare_variants(run_folder, variants or [], stage, trees)
    print(comparison_json(rows)) if as_json else Console(width=width()).print(comparison_table(rows))


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    as_json: Annotated[bool, typer.Option("--json", help="print what was found as JSON")] = False,
) -> None:
    """Check that a run's files are those that its stages wrote, and show what was made from what.

    Exit code 1 where a file is damaged, gone, foreign or holds numbers that are none, or the data changed since.

    Example: reasoner audit runs/demo
    """
    from reasoner.commands.audit import show_audit

    raise typer.Exit(show_audit(run, as_json, width()))


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="file, or folder of files, of labelled steps")],
    to: Annotated[Path, typer.Option(help="folder to write, for the path of an import stage")],
    licence: Annotated[str, typer.Option(help="licence of rows that state none")] = "",
    questions: Annotated[
        Path | None, typer.Option(help="file of known questions, for chats in which no 'Step 1:' ends them")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read labelled steps of any known format, say what was recognised, and name each row that was left out.

    Example: reasoner import prm800k/phase2_train.jsonl --to data/prm800k
    """
    from reasoner.commands.import_labels import import_labels

    import_labels(path, to, licence, questions, as_json)


@app.command()
def annotate(
    run: Annotated[Path, typer.Argument(help="folder of a run with judged trees")],
    stage: Annotated[str, typer.Option(help="verify stage whose trees are shown; by default the last")] = "",
    prm: Annotated[str, typer.Option(help="stage or folder of the PRM that tells what is convincing")] = "",
    to: Annotated[
        Path | None, typer.Option(help="file to append to; by default RUN/annotations.jsonl")
    ] = None,
    labeler: Annotated[str, typer.Option(help="who rates, as the records shall name it")] = "",
) -> None:
    """Rate steps of a run's solutions by keyboard, convincing wrong answers first; the same command goes on.

    Example: reasoner annotate runs/demo --prm prm
    """
    import click

    from reasoner.commands.annotate import annotate as rate

    quiet()
    rate(run, stage, prm, to, labeler, click.getchar, print)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="a word of the table's name; without one all are shown")] = "",
) -> None:
    """Name what keys of the YAML may hold: stages, methods, verifiers, problem sources, branch rules and all the rest.

    Example: reasoner list advantage
    """
    from reasoner.commands.tables import show_tables

    show_tables(what, width())


@config_app.command("list")
def configs() -> None:
    """Name the configurations that come with reasoner, and what each does; commands take them in any folder.

    Example: reasoner run configs/smoke/run.yaml
    """
    from reasoner.commands.shipped import CONFIGS, about, names

    table = Table(box=None, show_header=False, pad_edge=False)
    for name in names():
        table.add_row(Text(name, no_wrap=True), Text(about(name)))
    Console(width=width()).print(table)
    print(f"the files are in {CONFIGS}")


@config_app.command("schema")
def schema() -> None:
    """Print the JSON Schema of a run's YAML: every key with its type, default and meaning."""
    from reasoner.run_config import RunConfig

    print(json.dumps(RunConfig.model_json_schema(), indent=2))


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, a fault of ours a traceback and 3."""
    interrupt.listen()
    sys.path.append(
        os.getcwd()
    )  # verifiers and other functions of the user's own; last, so that they hide nothing
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except UserError as problem:
        print(f"reasoner: {problem}", file=sys.stderr)
        sys.exit(2)
    except MachineFault as problem:
        print(f"reasoner: {problem}", file=sys.stderr)
        sys.exit(3)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except interrupt.Stopped as stop:
        print(f"reasoner: {stop.words}", file=sys.stderr)
        sys.exit(interrupt.EXIT_CODES[signal.Signals(stop.number)])
    except (typer.Abort, KeyboardInterrupt):
        print("reasoner: stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as problem:
        shown = getattr(problem, "format_message", None)
        if shown and type(problem).__module__.startswith(("click", "typer")):
            context = getattr(problem, "ctx", None)
            command = context.command_path if context else "reasoner"
            if context and not shown():  # a command that was given nothing
                print(context.get_help())
            else:
                print(f"reasoner: {shown().rstrip('.')}; see {command} --help", file=sys.stderr)
            sys.exit(2)
        traceback.print_exc()
        sys.exit(3)
