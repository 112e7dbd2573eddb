"""`reasoner run CONFIG --sweep KEY=[…]`: a run for each setting, one after the other, and one table of them all."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from reasoner.commands.execute import is_first, resolved_config, run_once, width
from reasoner.config import ConfigError, override_value
from reasoner.registry import UserError
from reasoner.store import write_text

LONGEST_NAME = 80  # characters of a run's folder


class Setting(NamedTuple):
    """Values by key, and the folder of their run within the sweep's."""

    values: dict[str, Any]
    folder: str

    @property
    def overrides(self) -> list[str]:
        return [f"{key}={json.dumps(value)}" for key, value in self.values.items()]


def settings(swept: Sequence[str]) -> list[Setting]:
    """Every combination of the values, the last key's changing fastest; a value that is no list is a ConfigError."""
    lists: dict[str, list[Any]] = {}
    for one in swept:
        key, _, text = one.partition("=")
        values = override_value(text.strip(), one)
        if not key.strip() or not isinstance(values, list) or not values or key.strip() in lists:
            raise ConfigError(
                f"got --sweep {one!r}, expected a list of values of a key that is swept once; write e.g. "
                "--sweep 'stages.1.optimizer.lr=[1e-5, 1e-4]'"
            )
        lists[key.strip()] = values
    found: list[Setting] = []
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        name = _name(chosen)
        same = sum(s.folder == name or s.folder.startswith(f"{name}-") for s in found)
        found.append(Setting(chosen, f"{name}-{same + 1}" if same else name))
    return found


def _name(values: dict[str, Any]) -> str:
    told = ",".join(f"{key.rpartition('.')[2]}={json.dumps(value)}" for key, value in values.items())
    return re.sub(r"[^A-Za-z0-9.=,+-]+", "_", told.replace('"', "")).strip("_")[:LONGEST_NAME]


def run_sweep(path: Path, overrides: list[str], swept: list[str], as_json: bool, ray: str) -> None:
    """Run every setting in a folder of its own; one that ends with a fault of its own is told, and the others go on.

    All are read and checked before the first begins; what a folder has done already is not done again.
    """
    from reasoner.pipeline import check

    plain = resolved_config(path, overrides)
    found = settings(swept)
    configs = [
        resolved_config(path, [*overrides, *s.overrides, f"out={plain.out}/{s.folder}", _title(plain, s)])
        for s in found
    ]
    for config in configs:
        check(config)
    results: list[dict[str, Any]] = []
    for number, (setting, config) in enumerate(zip(found, configs, strict=True), 1):
        _say(f"setting {number} of {len(found)}: {'  '.join(setting.overrides)}")
        results.append(_run(setting, config, ray))
        if is_first():
            write_text(Path(plain.out) / "sweep.json", json.dumps(results, indent=1))
    if is_first():
        print(json.dumps(results, indent=1)) if as_json else Console(width=width()).print(table(results))
    _say(f"all numbers: {plain.out}/sweep.json")
    if failed := sum("error" in r for r in results):
        raise UserError(
            f"{failed} of {len(results)} settings ended with an error, told above; expected none: the same command goes on "
            "with them, once they are mended"
        )


def _run(setting: Setting, config: Any, ray: str) -> dict[str, Any]:
    """What a setting's run came to: its rows, or its error, and its seconds."""
    found: dict[str, Any] = {"values": setting.values, "out": config.out}
    try:
        found["rows"] = [asdict(row) for row in run_once(config, ray)]
    except UserError as error:
        found["error"] = str(error)
        _say(f"reasoner: {'  '.join(setting.overrides)}: {error}")
    path = Path(config.out) / "ledger.json"
    seconds = json.loads(path.read_text())["seconds"] if path.is_file() else {}
    return found | {"seconds": sum(seconds.values())}


def _say(line: str) -> None:
    if is_first():
        print(line, file=sys.stderr)


def _title(config: Any, setting: Setting) -> str:
    title = f"{config.title}: {setting.folder}" if config.title else setting.folder
    return f"title={json.dumps(title)}"


def table(results: Sequence[dict[str, Any]]) -> Table:
    """A line for each setting: the seconds it took, and its accuracies on all problems, with 95 % intervals."""
    cells = [_accuracies(r.get("rows", ())) for r in results]
    columns = list(dict.fromkeys(column for line in cells for column in line))
    made = Table(
        title="Right, in % with 95 % interval", box=SIMPLE_HEAD, title_justify="left", pad_edge=False
    )
    keys = list(results[0]["values"])
    for name in (*(key.rpartition(".")[2] for key in keys), "seconds", *columns):
        made.add_column(name, overflow="fold")
    for result, line in zip(results, cells, strict=True):
        shown = [line.get(column, "") for column in columns]
        if "error" in result:
            shown = ["failed", *shown[1:]]
        values = [json.dumps(result["values"][key]) for key in keys]
        made.add_row(*values, f"{result['seconds']:,.0f}", *shown)
    return made


def _accuracies(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Greedy pass@1 on all problems of each evaluation and policy; of what was never answered greedily any pass@1."""
    single = [r for r in rows if r["metric"] == "pass@1" and r["subset"] == "all"]
    greedy = [r for r in single if r["method"] == "greedy"] or single
    found = {}
    for r in greedy:
        interval = "" if math.isnan(r["low"]) else f" {100 * r['low']:.1f}–{100 * r['high']:.1f}"
        found[f"{r['stage']} {r['when']} {r['method']}"] = f"{100 * r['value']:.1f}{interval}"
    return found
