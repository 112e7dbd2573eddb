"""reasoner doctor: what will spoil a run, found before it starts."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Annotated

import typer

YAML = (".yaml", ".yml")
WIDTH = 80


def doctor(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG|MODEL", help="YAML of a run; or a model's folder or hub name")
    ],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OVERRIDES|DATA]", help="changes to the YAML; or the file of problems"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
) -> None:
    """Examine template, tokens, problems, model and machine in under two minutes.

    Exit code: 0 nothing that matters, 1 warnings, 2 errors.

    Example: reasoner doctor configs/gsm8k/sft.yaml; or reasoner doctor MODEL problems.jsonl
    """
    from reasoner.commands.quiet import quiet
    from reasoner.doctor.case import Case
    from reasoner.doctor.checks import examine
    from reasoner.doctor.findings import exit_code, line_of

    quiet()
    case: Case = _case(config, more or [])
    done = examine(case)
    places = [line_of(case.path, f.key, case.overrides) for f in done.findings]
    if as_json:
        rows = [{**f._asdict(), "line": place} for f, place in zip(done.findings, places, strict=True)]
        print(json.dumps({"findings": rows, "seconds": done.seconds}, indent=2))
    else:
        for f, place in zip(done.findings, places, strict=True):
            print(told(f, place))
        counts = ", ".join(
            f"{sum(f.severity == s for f in done.findings)} {s}s" for s in ("error", "warning", "note")
        )
        print(f"{len(done.seconds)} checks in {sum(done.seconds.values()):.0f} s: {counts}")
    raise typer.Exit(exit_code(done.findings))


def told(finding, place: str) -> str:
    """A finding as lines of at most 80 columns."""
    where = f"{finding.key} ({place})" if place else finding.key
    text = f"{finding.severity}: {where + ': ' if where else ''}{finding.text}"
    lines = textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    remedy = f"  do: {finding.remedy}"
    return "\n".join(
        [*lines, *textwrap.wrap(remedy, WIDTH, subsequent_indent="      ", break_on_hyphens=False)]
    )


def _case(config: str, more: list[str]):
    from reasoner.commands.resolve import resolved
    from reasoner.commands.shipped import found
    from reasoner.config import validate
    from reasoner.doctor.case import Case
    from reasoner.planning.models import config_at
    from reasoner.planning.of_model import positions
    from reasoner.policy.models import load_tokenizer
    from reasoner.registry import UserError
    from reasoner.run_config import RunConfig

    if config.endswith(YAML):
        return Case(resolved(Path(config), more), path=found(Path(config)), overrides=more)
    if len(more) != 1 or "=" in more[0]:
        raise UserError(
            f"got the model {config} and {more or 'no data'}; expected one file of problems beside it"
        )
    chat = bool(load_tokenizer(config).chat_template)
    most = min(512, positions(config_at(config)) // 2)
    raw = {
        "out": "runs/doctor",
        "prompt": {"chat": chat},
        "problems": {"train": [{"name": "jsonl", "path": more[0]}]},
        "stages": [{"kind": "rollout", "model": config, "max_tokens": most}],
    }
    return Case(validate(RunConfig, raw, "doctor"))


def tell_quickly(config) -> list[str]:
    """What costs nothing to find, in lines, at the start of a run; nothing where the checks themselves fail."""
    from reasoner.doctor.case import Case
    from reasoner.doctor.checks import examine

    try:
        return [told(f, "") for f in examine(Case(config, quickly=True)).findings]
    except Exception:  # an examination never stops a run: what is really wrong will
        return []
