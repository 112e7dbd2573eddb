"""All test-time methods in one table: a name, its config, and one function (trees, tools, config) -> choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import Field

from reasoner.registry import UserError
from reasoner.search.allocate import Adaptive, adaptive
from reasoner.search.beam import Beam, beam
from reasoner.search.budget import Budget, budget
from reasoner.search.critique import SelfCritique, self_critique
from reasoner.search.early_stop import DeepConfOnline, EarlyStop, deepconf_online, early_stop
from reasoner.search.method import Choice, Tools
from reasoner.search.retry import CotDecoding, Retry, cot_decoding, retry
from reasoner.search.samples import Greedy, OfSamples, greedy, of_samples, scorer_of
from reasoner.search.switch import Switch, switch
from reasoner.search.tree_search import TreeSearch, tree_search
from reasoner.tree import Tree

Method = Callable[[Sequence[Tree], Tools, Any], list[Choice]]

METHODS: dict[str, Method] = {
    "greedy": greedy,
    "majority": of_samples,
    "weighted_majority": of_samples,
    "best_of": of_samples,
    "borda": of_samples,
    "deepconf": of_samples,
    "early_stop": early_stop,
    "deepconf_online": deepconf_online,
    "beam": beam,
    "dvts": beam,
    "mcts": tree_search,
    "switch": switch,
    "cot_decoding": cot_decoding,
    "retry": retry,
    "budget": budget,
    "self_critique": self_critique,
    "adaptive": adaptive,
}

MethodConfig = Annotated[
    Greedy
    | OfSamples
    | EarlyStop
    | DeepConfOnline
    | Beam
    | TreeSearch
    | Switch
    | CotDecoding
    | Retry
    | Budget
    | SelfCritique
    | Adaptive,
    Field(discriminator="name"),
]


# methods in which a budget of thinking cannot be kept, and why
OWN_THOUGHTS = {
    "mcts": "draws in a search of its own",
    "budget": "has max_thinking of its own",
}


def check_thinking(config) -> None:
    """A UserError for a method that no budget of thinking goes with."""
    if why := OWN_THOUGHTS.get(config.name):
        raise UserError(
            f"{config.name} {why}; expected no budget of thinking, or a method of chains, as greedy or majority"
        )


def answer(trees: Sequence[Tree], tools: Tools, config) -> list[Choice]:
    """Run the configured method: grow the trees (each holding its prompt) and choose one answer per problem."""
    if tools.thinking is not None:
        check_thinking(config)
    return METHODS[config.name](trees, tools, config)


def judges_of(config) -> set[str]:
    """Which reward models a method goes by: prm, orm, both or none."""
    found = {getattr(config, "judge", "")}
    if isinstance(config, OfSamples):
        found.add(scorer_of(config))
    if isinstance(config, Beam) or getattr(config, "revise", "") == "step":
        found.add("prm")
    return found & {"prm", "orm"}


def goes_by_step(config) -> bool:
    """Whether a method draws single steps, and so has to be told where they end."""
    return isinstance(config, Beam) or (isinstance(config, TreeSearch) and config.search.evaluate == "score")


def label_of(config) -> str:
    """What a method is called in reports."""
    if config.label:
        return config.label
    details = [getattr(config, key, "") for key in ("scorer", "judge")]
    return " ".join([config.name, *(d for d in details if d)])
