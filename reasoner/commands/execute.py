"""What the commands that run a config share: read it, run its stages with progress, show the rows."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from reasoner.commands.doctor import tell_quickly
from reasoner.commands.onward import next_commands
from reasoner.commands.quiet import quiet


def run_config(config: Path, overrides: list[str], as_json: bool, ray: str = "") -> None:
    """Run all stages of a file."""
    execute(resolved_config(config, overrides), as_json, ray)


def resolved_config(path: Path, overrides: list[str]):
    """The RunConfig of a file, or of a shipped one of that name, with the overrides."""
    from reasoner.commands.resolve import resolved

    return resolved(path, overrides)


def execute(config, as_json: bool, ray: str = "") -> None:
    """Run the stages of a RunConfig and show what they measured; of several processes the first alone speaks."""
    rows = run_once(config, ray)
    if not is_first():
        return
    if rows or as_json:
        show_rows(rows, as_json)
    console = Console(stderr=True)
    console.print(f"report: {config.out}/report.html   metrics: {config.out}/metrics.json")
    tell_of_no_answers(rows)
    console.print(f"next: {'   '.join(next_commands(config))}", markup=False, highlight=False, soft_wrap=True)


def run_once(config, ray: str = ""):
    """Run the stages of a RunConfig with progress; the metric rows. `ray`: the address of a cluster."""
    from reasoner.commands.progress import telling
    from reasoner.pipeline import run as run_stages
    from reasoner.policy.machine import told, use

    quiet()
    console = Console(stderr=True)
    use(config.precision)
    if is_first():
        console.print(told())
        for line in tell_quickly(config):
            console.print(line, markup=False)
    with _crew(ray) as crew, telling([s.name for s in config.stages], console, is_first()) as tell:
        return run_stages(config, tell, crew)


def is_first() -> bool:
    """Whether this is the first of several processes, which alone speaks."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _crew(address: str):
    """The workers of the cluster at an address, if there is one."""
    if not address:
        yield None
        return
    from reasoner.cluster.crew import crew

    with crew(address) as found:
        yield found


def show_rows(rows, as_json: bool) -> None:
    """Metric rows as JSON, or as tables as wide as the terminal."""
    from reasoner.report.rows import rich_table, to_json

    columns = width()
    print(to_json(rows)) if as_json else Console(width=columns).print(rich_table(rows, columns))


def tell_of_no_answers(rows) -> None:
    """Say it where most responses had no answer that the rule of extraction found."""
    from reasoner.evals.no_answers import last_line

    if told := last_line(rows):
        print(told, file=sys.stderr)


def width() -> int:
    """The terminal's columns; into a file or a pipe 120, whatever the terminal."""
    shown = Console()
    return shown.width if shown.is_terminal else 120
