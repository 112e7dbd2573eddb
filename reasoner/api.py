"""The Python face: what a notebook needs, each name one call into the parts that the command line uses.

import reasoner
solver = reasoner.load("HuggingFaceTB/SmolLM2-135M-Instruct")
trees = reasoner.grow(solver, [{"prompt": "What is 3 + 4?", "answer": "7"}], num_roots=8)
reasoner.pass_at_k(trees, 8)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console

from reasoner.commands.progress import telling
from reasoner.config import Config, apply_overrides, validate
from reasoner.data.rows import SourceConfig
from reasoner.data.sources import load_items
from reasoner.engine.protocol import Sampling
from reasoner.evals.solve import Solved
from reasoner.evals.solve import solve as solve_question
from reasoner.evals.tools import Solver
from reasoner.metrics import at_k
from reasoner.pipeline import run as run_stages
from reasoner.records import StepLabels
from reasoner.registry import UserError, lookup
from reasoner.report.rows import MetricRow
from reasoner.run_config import RunConfig
from reasoner.scoring.outcome import judge_while
from reasoner.scoring.prm import score_steps
from reasoner.search.grow import Growth, StepStop
from reasoner.search.grow import grow as grow_trees
from reasoner.search.mcts import outcome_or_score
from reasoner.search.methods import METHODS, MethodConfig
from reasoner.search.policies import TreeConfig, policy_of
from reasoner.signals.step_labels import StepLabelConfig, step_labels
from reasoner.store import write_text
from reasoner.tree import Problem, Tree


class _Shape(Config):
    tree: TreeConfig = Field(description="how trees branch")


class _Asked(Config):
    method: MethodConfig = Field(description="test-time method with its options")


Row = Mapping[
    str, Any
]  # of a problem: prompt and answer, or prompt, verifier and its reference; see `problems`


def problems(source: str | Iterable[Row | Problem], **options: Any) -> list[Problem]:
    """Problems of a named source ("gsm8k", "arithmetic", …; options as in the YAML), or of rows.

    A row has `prompt` and `answer`; or `prompt`, `verifier` and `reference`, the keyword arguments of that verifier. A
    verifier of your own is a function of a module, or its name as "module:function".
    """
    if isinstance(source, str):
        config = validate(SourceConfig, {"name": source, **options}, "problems")
        return [item.problem for item in load_items(config)]
    return [row if isinstance(row, Problem) else _problem(row, i) for i, row in enumerate(source)]


def _problem(row: Row, i: int) -> Problem:
    if not isinstance(row.get("prompt"), str) or ("answer" not in row and "reference" not in row):
        raise UserError(
            f"problem {i} has the keys {sorted(row)}; expected prompt and answer, or prompt and reference"
        )
    return Problem(
        str(row.get("id", i)),
        row["prompt"],
        _named(row.get("verifier", "math")),
        dict(row["reference"]) if "reference" in row else {"answer": str(row["answer"])},
        domain=row.get("domain", ""),
    )


def _named(verifier: str | Callable[..., Any]) -> str:
    """A verifier by the name under which other processes find it."""
    if isinstance(verifier, str):
        return verifier
    name = f"{verifier.__module__}:{verifier.__qualname__}"
    if verifier.__module__ == "__main__" or not verifier.__qualname__.isidentifier():
        raise UserError(
            f"got the verifier {name}; expected a function at the top of a module, since other processes import it: "
            "move it into a file"
        )
    return name


def grow(
    solver: Solver,
    problems: Iterable[Row | Problem],
    *,
    max_tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    **tree: Any,
) -> list[Tree]:
    """A judged tree of solutions for each problem.

    tree: keys of the YAML's `tree`, as num_roots=8 for eight chains from the prompt, or num_roots=4, num_points=3,
    num_children=4, where="entropy"; policy="mcts" and others by their own. Alone it is eight chains. The same seed
    draws the same trees.
    """
    found = _problems(problems)
    growth = Growth(
        solver.prompting.mark_steps,
        max_tokens,
        Sampling(temperature),
        seed,
        step_stop=StepStop(
            solver.prompting.step_stop_ids, solver.prompting.step_stop_tokens, solver.prompting.is_step_end
        ),
    )
    trees = [Tree.of_prompt(p, solver.prompting.prompt_ids(p.prompt)) for p in found]
    chains = {"num_roots": 8, "num_points": 0, **tree}
    shape = validate(_Shape, {"tree": chains if tree.keys() <= {"num_roots"} else tree}, "grow").tree
    policy = policy_of(shape, outcome_or_score("prm" if solver.prm else None), growth)
    with solver.ledger.stage("grow"):
        judge_while(
            lambda on_node: grow_trees(trees, solver.engine, policy, growth, on_node=on_node),
            trees,
            solver.prompting.decode,
        )
    return trees


def _problems(given: Iterable[Row | Problem]) -> list[Problem]:
    found = problems(given)
    if not found:
        raise UserError("got no problems; expected one at least")
    return found


def score(trees: Sequence[Tree], solver: Solver) -> None:
    """Write the PRM's score of each step into the trees: tree.scores["prm"][node], one number a step end."""
    if solver.prm is None:
        raise UserError("got a solver without a PRM; expected one: load(MODEL, prm=FOLDER)")
    score_steps(solver.prm, trees, "prm")


def labels(trees: Sequence[Tree], solver: Solver, kind: str = "soft", **options: Any) -> list[StepLabels]:
    """Labels of single steps from judged trees: how often continuations from there were right.

    kind: soft (the share, Wang et al. 2024), hard (whether any), posterior or spread; options as the YAML's label stage.
    """
    config = validate(StepLabelConfig, {"kind": kind, **options}, "labels")
    return list(step_labels(trees, config, solver.prompting.decode))


def pass_at_k(trees: Sequence[Tree], k: int) -> float:
    """The chance that one of k chains is right, mean over the trees (Chen et al. 2021, equation 1).

    Of independent chains from the prompt only; verdicts that we failed to reach count neither way. NaN where no tree
    has k of them.
    """
    found = []
    for tree in trees:
        verdicts = [t.verdict for t in tree.trajectories() if t.is_independent]
        told = [v.status == "correct" for v in verdicts if v is not None and v.status != "error"]
        if len(told) >= k:
            found.append(at_k.pass_at_k(len(told), sum(told), k))
    return sum(found) / len(found) if found else math.nan


def solve(
    solver: Solver,
    question: str,
    method: str = "majority",
    budget: int = 0,
    *,
    verifier: str = "math",
    max_tokens: int = 512,
    seed: int = 0,
    **options: Any,
) -> Solved:
    """Answer a question by a test-time method: `.choice.answer`, `.text`, the `.tree`, and what it took in `.counts`.

    method: greedy, majority, best_of, beam, mcts, …; `reasoner list method` names them all. budget: samples that it may
    draw, 0 for its own default; further options as in the YAML.
    """
    lookup(METHODS, method, "method")
    raw = {"name": method, **({"num_samples": budget} if budget else {}), **options}
    asked = validate(_Asked, {"method": raw}, "solve").method
    return solve_question(question, verifier, solver, asked, max_tokens, seed)


def run(config: str | Path | Mapping[str, Any], *overrides: str) -> list[MetricRow]:
    """Run the stages of a YAML file, or of a mapping like one; returns the metric rows.

    overrides: "key.sub=value". What is finished in the folder `out` is not done again.
    """
    if isinstance(config, Mapping):
        return _run(validate(RunConfig, apply_overrides(dict(config), list(overrides)), "config"))
    from reasoner.commands.resolve import resolved

    return _run(resolved(Path(config), list(overrides)))


def _run(config: RunConfig) -> list[MetricRow]:
    with telling([s.name for s in config.stages], Console(stderr=True), True) as tell:
        return run_stages(config, tell)


def train(
    kind: str,
    model: str | Path,
    out: str | Path,
    *,
    problems: Iterable[Row | Problem] = (),
    labels: Iterable[StepLabels | Row] = (),
    prompt: Mapping[str, Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> Path:
    """Train on Python data, and give the folder of the trained model; the same call goes on where it was.

    kind: ppo (any on-policy method), sft (rows with `solution`), or prm. problems: rows as in `problems`. labels: for a
    PRM, what `labels` gave, or rows of prompt, completions (the steps) and labels. options: keys of that stage in the
    YAML, as rounds=20, advantage={"method": "grpo"}, lora={"r": 16}. The data are written beside the run, to OUT-data.
    """
    out = Path(out)
    data = out.with_name(f"{out.name}-data")
    stages: list[dict[str, Any]] = [{"kind": kind, "model": str(model), **options}]
    sets: dict[str, Any] = {}
    if kind == "prm":
        path = _write(data / "labels.jsonl", [_labelled(row) for row in labels])
        stages = [{"kind": "import", "model": str(model), "path": path}, {**stages[0], "labels": "import"}]
    else:
        stages[0]["problems"] = ["train"]
        rows = [asdict(row) if isinstance(row, Problem) else dict(row) for row in problems]
        rows = [{**row, "verifier": _named(row.get("verifier", "math"))} for row in rows]
        sets["train"] = [{"name": "jsonl", "path": _write(data / "problems.jsonl", rows)}]
    run({"out": str(out), "seed": seed, "prompt": dict(prompt or {}), "problems": sets, "stages": stages})
    return out / "models" / stages[-1].get("name", kind) / "model"


def _labelled(row: StepLabels | Row) -> dict[str, Any]:
    found = {f.name: getattr(row, f.name) for f in fields(row)} if isinstance(row, StepLabels) else dict(row)
    known = [
        None if label is None or math.isnan(label) else float(label) for label in found.get("labels", ())
    ]
    return {"prompt": found.get("prompt"), "completions": found.get("completions"), "labels": known}


def _write(path: Path, rows: Sequence[Row]) -> str:
    """Rows of JSON; a file that holds others is left alone, and is a UserError."""
    if not rows:
        raise UserError(f"got no rows for {path.name}; expected one at least")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(f"{path} holds other rows; expected the same: take another folder for out")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return str(path)
