"""How many problems a config has and how long they are, from the first of each source; hub data sets are not fetched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.data.prompting import PromptConfig, Prompting, load_prompting
from reasoner.data.rows import Item, SourceConfig
from reasoner.data.sources import load_items
from reasoner.policy.models import TinyModel, train_tokenizer
from reasoner.registry import UserError

READ = 2000  # problems of a source that are read
UNREAD_PROMPT = 150.0  # tokens of a prompt that could not be read
CHARACTERS = 4.0  # of a token, where there is no tokenizer
GENERATED = ("arithmetic", "gym", "bracket_sums")  # sources that need no file and no network


@dataclass(frozen=True)
class ProblemSet:
    """A problem set in tokens; `solution` is the mean of the worked solutions, 0 where there are none."""

    problems: float
    solved: float  # of these, how many have a solution
    prompt: float
    longest_prompt: float
    solution: float


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


def measure_sets(
    problems: Mapping[str, Sequence[SourceConfig]],
    items: Mapping[str, Sequence[Item]],
    prompt_tokens: Callable[[str], int],
    text_tokens: Callable[[str], int],
) -> dict[str, ProblemSet]:
    return {
        name: _measured(sources, items[name], prompt_tokens, text_tokens)
        for name, sources in problems.items()
    }


def _measured(
    sources: Sequence[SourceConfig],
    items: Sequence[Item],
    prompt_tokens: Callable[[str], int],
    text_tokens: Callable[[str], int],
) -> ProblemSet:
    asked = sum(min(s.size, READ) for s in sources if s.path or s.name in GENERATED)
    declared = sum(s.size for s in sources)
    unread = declared - sum(s.size for s in sources if s.path or s.name in GENERATED)
    # of a source that was read to its end the count is known; of a longer one its size is the most
    count = len(items) + max(0, declared - unread - asked) + unread
    if not items:
        return ProblemSet(count, count, UNREAD_PROMPT, UNREAD_PROMPT, 0.0)
    prompts = [prompt_tokens(i.problem.prompt) for i in items]
    solutions = [text_tokens(i.solution) + 1 for i in items if i.solution]
    return ProblemSet(
        problems=count,
        solved=count * len(solutions) / len(items),
        prompt=sum(prompts) / len(prompts),
        longest_prompt=max(prompts),
        solution=sum(solutions) / len(solutions) if solutions else 0.0,
    )


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


def counters(prompting: Prompting | None) -> tuple[Callable[[str], int], Callable[[str], int]]:
    """(tokens of a problem's whole prompt, tokens of a text): by the tokenizer, or by letters."""
    if prompting is None:
        return (lambda text: round(len(text) / CHARACTERS)), (lambda text: round(len(text) / CHARACTERS))
    known: Any = prompting
    return (lambda text: len(known.prompt_ids(text))), (lambda text: len(known.encode(text)))


def longest_of(sets: Sequence[ProblemSet]) -> float:
    if not sets:
        raise UserError("a plan of a stage without problems; expected a problem set in its keys")
    return max(s.longest_prompt for s in sets)
