"""Judged trees into records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reasoner.config import Config
from reasoner.signals.outcome_labels import outcome_labels
from reasoner.signals.pairs import PairConfig, sibling_pairs
from reasoner.signals.step_labels import KINDS, StepLabelConfig, step_labels
from reasoner.signals.step_pairs import StepPairConfig, step_pairs
from reasoner.signals.traces import TraceConfig, traces
from reasoner.stages.context import Context
from reasoner.store import write_records


class Label(Config):
    """Turn trees into step labels (hard and soft), outcome labels, preference pairs and demonstrations."""

    kind: Literal["label"]
    name: str = "label"
    trees: str = Field("verify", description="stage whose judged trees are labelled")
    model: str = Field(description="model whose tokenizer reads them")
    min_continuations: int = Field(1, ge=1, description="states with fewer judged continuations get no label")
    pairs: PairConfig = PairConfig()
    step_pairs: StepPairConfig = StepPairConfig()
    traces: TraceConfig = TraceConfig()


def run_label(config: Label, context: Context) -> None:
    trees, prompting = context.trees(config.trees), context.prompting(config.model)
    decode = prompting.decode
    folder = context.out / "records" / config.name
    made = {}
    for kind in KINDS:
        labels = StepLabelConfig(kind=kind, min_continuations=config.min_continuations)
        made[kind] = write_records(folder / kind, step_labels(trees, labels, decode))
    made["outcome"] = write_records(folder / "outcome", outcome_labels(trees, decode))
    for kind, records in {
        "pairs": list(sibling_pairs(trees, config.pairs, decode)),
        "step_pairs": step_pairs(trees, config.step_pairs, decode),
        "traces": list(traces(trees, config.traces, decode, prompting.encode)),
    }.items():
        made[kind] = write_records(folder / kind, records) if records else 0
    kept = sum(any(v.status == "correct" for v in t.verdicts.values()) for t in trees)
    context.session.log(
        {"label/problems_solved_sometimes": kept, **{f"label/{k}": n for k, n in made.items()}}, 0
    )
    context.session.ledger.add("policy", trajectories_kept=made["outcome"])
