"""Continue judged chains from inside, so that their steps can be labelled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from reasoner.config import Config, MayChange
from reasoner.engine.connect import EngineConfig
from reasoner.engine.protocol import Sampling
from reasoner.folder import StageName
from reasoner.registry import UserError
from reasoner.scoring.judging import Settled
from reasoner.scoring.outcome import core_seconds, judge
from reasoner.search.grow import Growth, grow
from reasoner.search.probe import ProbeConfig, probe
from reasoner.signals.step_labels import chains_only, is_stale
from reasoner.stages.context import Context, make_engine
from reasoner.stages.references import ModelName, TreesOf
from reasoner.stages.share import AHEAD, Own, Share, trees_of_parts
from reasoner.store import num_shards, put_trees, read_trees
from reasoner.trainers.ranks import from_everyone
from reasoner.tree import ROOT, Tree


class Complete(Config):
    """Draw continuations inside chains by a completer, which may be another model than the one that wrote them."""

    kind: Literal["complete"]
    name: StageName = "complete"
    trees: TreesOf = Field(default="verify", description="stage whose judged trees are continued")
    model: ModelName = Field(
        description="stage, folder or hub name of the completer; its tokenizer is the policy's"
    )
    policy: ModelName = Field(
        default="", description="model that wrote the chains, where it is not the completer"
    )
    probe: ProbeConfig = Field(default=ProbeConfig(), description="which steps are continued, and how often")
    version: int = Field(
        default=0,
        ge=0,
        description="number of the completer's weights, kept with what it draws; continuations of an older number are "
        "dropped and drawn anew",
    )
    max_tokens: int = Field(default=256, ge=1, description="longest completion")
    temperature: float = Field(default=1.0, gt=0, description="sampling temperature")
    num_slots: Annotated[int, MayChange()] = Field(default=256, ge=1, description="sequences decoded at once")
    engine: Annotated[EngineConfig, MayChange()] = EngineConfig()


def run_complete(config: Complete, context: Context) -> None:
    prompting = context.prompting(config.model)
    if config.policy:
        writer = context.prompting(config.policy).tokenizer
        if writer.get_vocab() != prompting.tokenizer.get_vocab():
            raise UserError(
                f"the completer {config.model} has another vocabulary than {config.policy}, whose token ids it would "
                "read; expected a completer with the same tokenizer"
            )
    session, folder = context.session, context.out / "trees" / config.trees
    share = Share(session, config.name, num_shards(folder))
    prompts = (len(t.nodes[ROOT].token_ids) for n in share.numbers for t in read_trees(folder, n))
    longest = max(from_everyone(max(prompts, default=1))) + config.max_tokens
    share.work(complete_parts, config, context, longest)
    session.log(share.conclude(), 0)


def complete_parts(config: Complete, context: Context, own: Own, longest: int) -> None:
    """Continue the trees of one process's own parts."""
    prompting, session = context.prompting(config.model), context.session
    folder = context.out / "trees" / config.trees
    # of the parts under way: stale trees, and the tokens and core seconds that were there
    counted: dict[int, tuple[int, int, float]] = {}

    def stored() -> Iterator[tuple[int, list[Tree]]]:
        for number in own.numbers:
            found = list(read_trees(folder, number))
            stale = [is_stale(tree, config.version) for tree in found]
            trees = [chains_only(t) if is_old else t for t, is_old in zip(found, stale, strict=True)]
            counted[number] = sum(stale), sum(t.num_sampled for t in trees), core_seconds(trees)
            yield number, trees

    engine = make_engine(config.model, context, longest, config.num_slots, config.engine)
    engine.load_weights(config.version)
    growth = Growth(
        prompting.mark_steps, config.max_tokens, Sampling(config.temperature), session.seed, config.version
    )

    def observe(grown: Sequence[Tree]) -> None:
        session.ledger.add("verifier", verifications=judge(grown, prompting.decode).total())

    def finish(number: int, trees: list[Tree], settled: list[Settled]) -> None:
        redone, before, spent = counted.pop(number)
        session.ledger.add("verifier", verifier_seconds=max(0.0, core_seconds(trees) - spent))
        put_trees(context.out / "trees" / config.name, number, trees)
        tokens = sum(t.num_sampled for t in trees) - before
        own.done(number, {"complete/tokens": tokens, "complete/redone": redone, "complete/trees": len(trees)})

    trees, on_done = trees_of_parts(stored(), finish)
    grow(
        trees, engine, probe(config.probe), growth, lambda done: session.progress(done, 0, "trees"), observe,
        on_done=lambda t, tree: on_done(Settled(t, tree, [])), ahead=AHEAD * config.num_slots,
    )  # fmt: skip
