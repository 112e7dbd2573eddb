"""reasoner plan: what a model or a config needs, how fast it can be and what it costs, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT = "H100,4090,laptop"
YAML = (".yaml", ".yml")


def plan(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG|MODEL", help="YAML of a run; or folder, config.json or hub name")
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="changes to the YAML: key.sub=value")] = None,
    hardware: Annotated[str, typer.Option(help="machines by commas, several of a kind as 8xH100")] = DEFAULT,
    hardware_file: Annotated[Path | None, typer.Option(help="YAML with machines of your own")] = None,
    against: Annotated[
        Path | None, typer.Option(help="folder of a run of it: set what happened beside")
    ] = None,
    completion: Annotated[
        float | None, typer.Option(min=1, help="mean tokens of an answer, if you know them")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="also write it as a picture into this .svg: memory and time by stage")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print plain values instead of tables")] = False,
) -> None:
    """What fits, how fast it can be at best, and what a run will cost, on each machine.

    Example: reasoner plan Qwen/Qwen2.5-7B --hardware H100,4090; or reasoner plan configs/demo.yaml --against runs/demo
    """
    from reasoner.economics.hardware import hardware as machine
    from reasoner.economics.hardware import hardware_table
    from reasoner.planning import picture as pictures
    from reasoner.planning import text
    from reasoner.registry import UserError
    from reasoner.store import write_text

    names = [name.strip() for name in hardware.split(",") if name.strip()]
    if not names:
        raise UserError("--hardware names no machine; expected some, as H100,4090")
    if picture is not None and picture.suffix != ".svg":
        raise UserError(f"got --picture {picture}; expected a file that ends with .svg")
    machines = {name: machine(name, hardware_file) for name in names}
    table = hardware_table(hardware_file)
    if config.endswith(YAML):
        from reasoner.commands.resolve import resolved
        from reasoner.planning.of_run import plan_run

        found: dict[str, Any] = plan_run(
            resolved(Path(config), overrides or []), machines, table, completion, against
        )
        show, draw = text.of_run, pictures.of_run
    else:
        if overrides or against or completion:
            raise UserError(
                f"{config} is a model; expected a YAML with overrides, --against and --completion"
            )
        found = _of_model(config, machines, table)
        show, draw = text.of_model, pictures.of_model
    if picture is not None:
        write_text(picture, draw(found))
    print(json.dumps(found, indent=2) if as_json else show(found))


def _of_model(name: str, machines: dict, table: dict) -> dict[str, Any]:
    from reasoner.planning.models import config_at
    from reasoner.planning.of_model import answering, check_answers, facts_of, reading, training

    config = config_at(name)
    check_answers(name, config, machines, table)
    rows = answering(config, machines)
    return {
        "model": facts_of(name, config),
        "hardware": {k: m.model_dump() for k, m in machines.items()},
        "answering": rows,
        "reading": reading(rows),
        "training": training(config, machines),
    }
