"""How many problems a config has and how long they are, from the first of each source; hub data sets are not fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.data.prompting import PromptConfig, Prompting, load_prompting
from reasoner.data.rows import Item, SourceConfig
from reasoner.data.sources import load_items
from reasoner.policy.models import TinyModel, train_tokenizer
from reasoner.registry import UserError
from reasoner.stages.references import MAKES

READ = 2000  # problems of a source that are read
UNREAD_PROMPT = 150.0  # tokens of a prompt that could not be read
CHARACTERS = 4.0  # of a token, where there is no tokenizer
MANY = 1 << 30  # steps where they are not known: a tree branches as often as it may
# sources that need no file and no network
GENERATED = ("arithmetic", "varied_arithmetic", "gym", "bracket_sums")


@dataclass(frozen=True)
class ProblemSet:
    """A problem set in tokens; `solution` is the mean of the worked solutions, 0 where there are none.

    `fresh` is the share of the prompts' tokens that no earlier prompt begins with, `shown` holds of each solution that was
    read its tokens, its end with them, and how many of its steps end inside it.
    """

    problems: float
    solved: float  # of these, how many have a solution
    prompt: float
    longest_prompt: float
    solution: float
    fresh: float = 1.0
    shown: tuple[tuple[int, int], ...] = ()


def read_sets(problems: Mapping[str, Sequence[SourceConfig]]) -> tuple[dict[str, list[Item]], list[str]]:
    """The first items of each set, and what could not be read, in words."""
    items: dict[str, list[Item]] = {}
    untold: list[str] = []
    for name, sources in problems.items():
        items[name] = []
        for source in sources:
            if not source.path and source.name not in GENERATED:
                untold.append(
                    f"{source.name} is on the hub and was not read: {source.size} problems of {UNREAD_PROMPT:g} tokens"
                )
                continue
            items[name] += load_items(source.model_copy(update={"size": min(source.size, READ)}))
    return items, untold


@dataclass(frozen=True)
class Counters:
    """How a problem's whole prompt and a text become tokens, by numbers, and how many steps end inside a text."""

    prompt: Callable[[str], Sequence[int]]
    text: Callable[[str], Sequence[int]]
    inside: Callable[[Sequence[int]], int]


def measure_sets(
    problems: Mapping[str, Sequence[SourceConfig]],
    items: Mapping[str, Sequence[Item]],
    counters: Counters,
    stages: Iterable[Any] = (),
) -> dict[str, ProblemSet]:
    """The sets, and those that stages make: as many problems as they try, which is the most, as long as those they are from."""
    sets = {name: _measured(sources, items[name], counters) for name, sources in problems.items()}
    for stage in stages:
        if MAKES[stage.kind] == "problems":
            old = [sets[name] for name in stage.problems]
            mean = sum(s.prompt * s.problems for s in old) / max(1.0, sum(s.problems for s in old))
            sets[stage.name] = ProblemSet(stage.num_problems, 0, mean, longest_of(old), 0.0)
    return sets


def _measured(sources: Sequence[SourceConfig], items: Sequence[Item], counters: Counters) -> ProblemSet:
    asked = sum(min(s.size, READ) for s in sources if s.path or s.name in GENERATED)
    declared = sum(s.size for s in sources)
    unread = declared - sum(s.size for s in sources if s.path or s.name in GENERATED)
    # of a source that was read to its end the count is known; of a longer one its size is the most
    count = len(items) + max(0, declared - unread - asked) + unread
    if not items:
        return ProblemSet(count, count, UNREAD_PROMPT, UNREAD_PROMPT, 0.0)
    prompts = [counters.prompt(i.problem.prompt) for i in items]
    tokens = sum(map(len, prompts))
    solutions = [counters.text(i.solution) for i in items if i.solution]
    shown = tuple((len(ids) + 1, counters.inside(ids)) for ids in solutions)
    return ProblemSet(
        problems=count,
        solved=count * len(solutions) / len(items),
        prompt=tokens / len(prompts),
        longest_prompt=max(map(len, prompts)),
        solution=sum(n for n, _ in shown) / len(shown) if shown else 0.0,
        fresh=_distinct_prefixes(prompts) / max(1, tokens),
        shown=shown,
    )


def _distinct_prefixes(texts: Sequence[Sequence[int]]) -> int:
    """Tokens that are computed where each beginning is computed once."""
    number: dict[tuple[int, int], int] = {}  # (number of a prefix, next token): number of the longer prefix
    for ids in texts:
        at = 0
        for token in ids:
            at = number.setdefault((at, token), len(number) + 1)
    return len(number)


def prompting_of(
    origin: TinyModel | str, prompt: PromptConfig, items: Mapping[str, Sequence[Item]]
) -> Prompting | None:
    """How the config's first model is prompted; None where its tokenizer is not on this machine."""
    if isinstance(origin, TinyModel):
        shown = [i for name in getattr(origin, "problems", items) for i in items.get(name, ())]
        texts = [prompt.template.replace("{prompt}", i.problem.prompt) + (i.solution or "") for i in shown]
        return Prompting(train_tokenizer(texts, origin.vocab_size), prompt) if texts else None
    if not Path(origin).is_dir():
        return None
    return load_prompting(origin, prompt)


def counters(prompting: Prompting | None) -> Counters:
    """By the tokenizer, or by letters: CHARACTERS of them are a token, and there are MANY steps."""
    if prompting is None:
        return Counters(_pieces, _pieces, lambda ids: MANY)
    known: Any = prompting
    return Counters(known.prompt_ids, known.encode, lambda ids: len(known.mark_steps(ids)) - 1)


def _pieces(text: str) -> list[int]:
    size = int(CHARACTERS)
    return [hash(text[n * size : (n + 1) * size]) for n in range(round(len(text) / CHARACTERS))]


def longest_of(sets: Sequence[ProblemSet]) -> float:
    if not sets:
        raise UserError("a plan of a stage without problems; expected a problem set in its keys")
    return max(s.longest_prompt for s in sets)
