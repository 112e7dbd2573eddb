"""Judge trees that came without verdicts, or only in part."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reasoner.config import Config
from reasoner.folder import StageName
from reasoner.scoring.outcome import judge
from reasoner.stages.context import Context
from reasoner.stages.references import ModelName, TreesOf
from reasoner.store import write_trees


class Verify(Config):
    """Judge every trajectory that has no verdict yet by its problem's verifier."""

    kind: Literal["verify"]
    name: StageName = "verify"
    trees: TreesOf = Field("rollout", description="stage whose trees are judged")
    model: ModelName = Field(description="model whose tokenizer reads them")


def run_verify(config: Verify, context: Context) -> None:
    trees = context.trees(config.trees)
    total = sum(leaf not in t.verdicts for t in trees for leaf in t.leaves())
    statuses = judge(
        trees, context.prompting(config.model).decode, lambda done: context.session.progress(done, total, "")
    )
    context.session.ledger.add("verifier", verifications=total)
    context.session.log({f"verify/{status}": n for status, n in statuses.items()}, 0)
    write_trees(context.out / "trees" / config.name, trees)
