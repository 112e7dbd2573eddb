"""Judge trees that came without verdicts, or only in part."""

from __future__ import annotations

from itertools import count
from typing import Literal

from pydantic import Field

from reasoner.config import Config
from reasoner.folder import StageName
from reasoner.scoring.judging import Judging, Settled
from reasoner.stages.context import Context
from reasoner.stages.references import ModelName, TreesOf
from reasoner.stages.share import Own, Share, trees_of_parts, verdict_costs, verdict_counts
from reasoner.store import num_shards, put_trees, read_trees
from reasoner.tree import Tree


class Verify(Config):
    """Judge every trajectory that has no verdict yet by its problem's verifier."""

    kind: Literal["verify"]
    name: StageName = "verify"
    trees: TreesOf = Field("rollout", description="stage whose trees are judged")
    model: ModelName = Field(description="model whose tokenizer reads them")


def run_verify(config: Verify, context: Context) -> None:
    share = Share(context.session, config.name, num_shards(context.out / "trees" / config.trees))
    share.work(judge_parts, config, context)
    context.session.log(share.conclude(), 0)


def judge_parts(config: Verify, context: Context, own: Own) -> None:
    """Judge the trees of one process's own parts."""
    session, folder = context.session, context.out / "trees" / config.trees
    parts = ((number, list(read_trees(folder, number))) for number in own.numbers)
    done = count(1)

    def finish(number: int, trees: list[Tree], settled: list[Settled]) -> None:
        counts, notes = verdict_counts(settled, "verify")
        session.ledger.add("verifier", **verdict_costs(settled))
        put_trees(context.out / "trees" / config.name, number, trees)
        own.done(number, counts, notes)
        session.progress(next(done), own.num, "")

    trees, on_done = trees_of_parts(parts, finish)
    with Judging(context.prompting(config.model).decode) as judging:
        for t, tree in enumerate(trees):
            judging.begin(t, tree)
            for settled in judging.end(t):
                on_done(settled)
        for settled in judging.rest():
            on_done(settled)
