"""reasoner list: what the tables hold that keys of the YAML name, each with the first sentence about it."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reasoner.config import Entry, configs_in, declared
from reasoner.registry import UserError, imported, nearest


def tables() -> dict[str, dict[str, Any]]:
    """What a key names ("advantage method") → the known names, with what stands behind each."""
    from reasoner.run_config import RunConfig
    from reasoner.search.methods import METHODS
    from verifiers import VERIFIERS

    stages = configs_in(RunConfig.model_fields["stages"].annotation)
    found: dict[str, dict[str, Any]] = {
        "stage": {get_args(stage.model_fields["kind"].annotation)[0]: stage for stage in stages},
        "verifier": dict(VERIFIERS),
        "test-time method": dict(METHODS),
    }
    for entry in declared(RunConfig, Entry):
        found.setdefault(entry.what, {}).update(entry.known())
    return found


def show_tables(what: str, width: int) -> None:
    """Print the tables in whose name the word stands, in singular or plural; all for "". UserError where none has it."""
    found = tables()
    wanted = what.lower().removesuffix("s")
    shown = {name: table for name, table in found.items() if wanted in name.lower()}
    if not shown:
        close = nearest(what, found)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"got {what!r}, {hint}expected a word of one of: {', '.join(sorted(found))}")
    console = Console(width=width)
    for name, table in shown.items():
        console.print(Text(name, style="bold"))
        rows = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
        for key, entry in table.items():
            rows.add_row(Text(key, no_wrap=True), Text(about(entry)))
        console.print(rows)


def about(entry: Any) -> str:
    """The first sentence of the docstring of our own function or class behind a name; "" where there is none."""
    if isinstance(entry, str) and ":" in entry:
        try:
            entry = imported(entry, "entry")
        except ImportError:  # of an extra that is not installed
            return ""
    if not (inspect.isfunction(entry) or inspect.isclass(entry)):
        return ""
    text = " ".join((inspect.getdoc(entry) or "").split("\n\n")[0].split())
    return re.split(r"(?<!al)\.\s+(?=[A-Z])|;\s", text)[0].rstrip(".")
