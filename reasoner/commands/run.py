"""reasoner run and reasoner train: the stages of one YAML, once or until they are done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from reasoner.commands.execute import execute, resolved_config, run_config
from reasoner.registry import UserError

Overrides = Annotated[
    list[str] | None, typer.Argument(help="changes to the YAML: key.sub=value, list items by number")
]
AsJson = Annotated[bool, typer.Option("--json", help="print the metric rows as JSON instead of tables")]

Supervise = Annotated[
    bool, typer.Option("--supervise", help="start it again after a crash or a stall, with growing pauses")
]
Restarts = Annotated[
    int, typer.Option(min=1, help="with --supervise: new starts in a row, each of under ten minutes")
]

Ray = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="have data stages, servers and ranks of trainers on the machines of a Ray cluster: HOST:PORT, auto, or local",
    ),
]

Sweep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=[A, B]",
        help="run it for each of these values, and of several such keys for each combination, in folders of their own",
    ),
]


def run(config: Annotated[Path, typer.Argument(help="YAML with problems and stages")], overrides: Overrides = None,
        as_json: AsJson = False, supervise: Supervise = False, restarts: Restarts = 5, ray: Ray = "",
        sweep: Sweep = None) -> None:  # fmt: skip
    """Run all stages of CONFIG; what is done already is not done again.

    Example: reasoner run configs/demo.yaml seed=1 out=runs/demo-1
    """
    if supervise:
        _supervise(restarts)
    if sweep:
        from reasoner.commands.sweep import run_sweep

        return run_sweep(config, overrides or [], sweep, as_json, ray)
    run_config(config, overrides or [], as_json, ray)


def train(
    config: Annotated[Path, typer.Argument(help="YAML with one training stage")],
    overrides: Overrides = None,
    supervise: Supervise = False,
    restarts: Restarts = 5,
    ray: Ray = "",
) -> None:
    """Run one trainer, also on several processes.

    Example: torchrun --nproc_per_node 2 -m reasoner train configs/smoke/ppo.yaml
    """
    if supervise:
        _supervise(restarts)
    from reasoner.stages import TRAINERS

    resolved = resolved_config(config, overrides or [])
    trainers = [s.name for s in resolved.stages if s.kind in TRAINERS]
    if len(trainers) != 1:
        raise UserError(
            f"{config} has {len(trainers)} training stages ({', '.join(trainers)}); expected one, or use reasoner run"
        )
    execute(resolved, False, ray)


def _supervise(restarts: int) -> None:
    from reasoner.commands.supervise import supervise, without_supervision

    raise typer.Exit(supervise(without_supervision(sys.argv[1:]), restarts))
