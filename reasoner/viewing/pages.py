"""The pages: runs over each other and cost are made here, from the report's parts; trees and chains fill themselves."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence

from reasoner.report.charts import COLOURS, Curve, curves_chart, safe
from reasoner.report.history import curves_by_stage
from reasoner.report.page import sections, tiles
from reasoner.viewing.runs import Run

AGAIN_S = 20  # between looks at a run under way
OF_ONE_RUN = ("results", "sampled", "methods", "gains", "rewards")
TABS = (("./", "Curves"), ("trees", "Trees"), ("chains", "Chains"), ("cost", "Cost"))


def page(
    here: str, runs: Sequence[Run], body: str, script: str = "", again: bool = False, data: str = ""
) -> str:
    """A whole page with the tabs; a script is named by its file and nothing stands inline."""
    links = "".join(
        f'<a href="{at}"{" aria-current=page" if name == here else ""}>{name}</a>' for at, name in TABS
    )
    names = " · ".join(run.name for run in runs)
    refresh = f'<meta http-equiv="refresh" content="{AGAIN_S}">' if again else ""
    loaded = f'<script type="module" src="static/{script}"></script>' if script else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{refresh}'
        f'<title>{safe(here)}: {safe(names)}</title><link rel="icon" href="static/icon.svg">'
        f'<link rel="stylesheet" href="static/view.css">{loaded}</head><body><main class="view"{data}>'
        f'<nav class="tabs">{links}<span>{safe(names)}</span></nav>{body}</main></body></html>\n'
    )


def curves_page(runs: Sequence[Run]) -> str:
    """Every run's state and results, then the curves of each stage with all runs in one picture."""
    body = "".join(f'<section class="run">{_about(i, run)}</section>' for i, run in enumerate(runs))
    pictures = ""
    for stage, charts in _charts(runs).items():
        pictures += f'<h3>{safe(stage)}</h3><div class="multiples">{"".join(charts)}</div>'
    if pictures:
        body += f'<section id="training"><h2>Training</h2>{_legend(runs)}{pictures}</section>'
    for run in runs:
        parts = [p for p in sections(run.rows, {}, "", run.history, []) if p[0] in OF_ONE_RUN]
        title = f" · {safe(run.name)}" if len(runs) > 1 else ""
        body += "".join(
            f"<section><h2>{safe(name)}{title}</h2>{content}</section>" for _, name, content in parts
        )
    return page("Curves", runs, body, again=any(run.is_under_way for run in runs))


def cost_page(runs: Sequence[Run]) -> str:
    """What each run took, by stage and model."""
    body = ""
    for i, run in enumerate(runs):
        (content,) = [c for at, _, c in sections([], run.costs, "", [], []) if at == "cost"] or [
            '<p class="note">Nothing is booked yet.</p>'
        ]
        body += f"<section>{_about(i, run)}{content}</section>"
    return page("Cost", runs, body, again=any(run.is_under_way for run in runs))


def shell(here: str, runs: Sequence[Run], script: str) -> str:
    """A page that its script fills; what it has to know of the runs is an attribute."""
    known = [{"name": run.name, "stages": run.trees} for run in runs]
    notes = "".join(_notes(run) for run in runs)
    empty = "" if any(run.trees for run in runs) else '<p class="note">No stage has written trees yet.</p>'
    body = f'{notes}{empty}<noscript>This page needs its own script.</noscript><div id="room"></div>'
    return page(here, runs, body, script, data=f' data-runs="{html.escape(json.dumps(known))}"')


def _charts(runs: Sequence[Run]) -> Mapping[str, list[str]]:
    by_stage: dict[str, dict[str, dict[int, Curve]]] = {}
    for i, run in enumerate(runs):
        for stage, curves in curves_by_stage(run.history).items():
            for curve in curves:
                by_stage.setdefault(stage, {}).setdefault(curve.name, {})[i] = curve
    return {
        stage: [curves_chart(name, of_runs) for name, of_runs in by_name.items()]
        for stage, by_name in by_stage.items()
    }


def _about(i: int, run: Run) -> str:
    states = "".join(
        f'<li class="state {state.replace(" ", "-")}">{safe(stage)} <i>{safe(state)}</i></li>'
        for stage, state in run.stages.items()
    )
    title = "" if run.title == run.name else f"<p>{safe(run.title)}</p>"
    mark = f'<b class="key run{i % COLOURS}"></b>'
    return f"<h1>{mark}{safe(run.name)}</h1>{title}<ol class=states>{states}</ol>{_notes(run)}" + tiles(
        run.rows, run.costs
    )


def _notes(run: Run) -> str:
    return "".join(f'<p class="fault" role="status">{safe(run.name)}: {safe(note)}</p>' for note in run.notes)


def _legend(runs: Sequence[Run]) -> str:
    if len(runs) < 2:
        return ""
    keys = "".join(
        f'<li><b class="key run{i % COLOURS}"></b>{safe(run.name)}</li>' for i, run in enumerate(runs)
    )
    return f'<ul class="legend">{keys}</ul>'
