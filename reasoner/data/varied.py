"""New word problems out of old ones, by the ways of the table below, kept only if two readings of their working agree.

`numbers`: numbers of the question that enter the calculations get other values, every result is worked out anew, and question
and solution are written with them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from reasoner.data.formula import CALCULATION, MAX_VALUE, Formula, agreed, answer_of, other
from reasoner.data.rows import Item, SourceConfig, need, read_rows
from reasoner.data.ways import Dropped, Old, Variant, Way, made_from
from reasoner.data.words_combined import combined
from reasoner.data.words_longer import longer
from reasoner.data.words_turned import turned
from reasoner.tree import Problem

_TRIES = 100


def varied(config: SourceConfig) -> Iterator[Item]:
    """Word problems made from those of a file of GSM8K's form, or of its training set.

    The i-th problem is made from row i modulo their number; what gives none is counted in a warning.
    """
    olds = old_word_problems(config)
    numbers = range(config.start, config.start + config.size if olds else 0)
    places = ((i, olds[i % len(olds)], f"{i // len(olds)} {olds[i % len(olds)].question}") for i in numbers)
    for made in made_from(places, olds, WAYS, config):
        yield Item(
            Problem(
                id=f"varied/{made.number}",
                prompt=made.variant.question,
                verifier="math",
                reference={"answer": made.variant.answer},
                domain=config.domain or made.domain,
                source=made.source("openai/gsm8k"),
                licence="MIT",
            ),
            CALCULATION.sub("", made.variant.solution),
        )


def old_word_problems(config: SourceConfig) -> list[Old]:
    """All rows, with their calculations in marks."""
    every = config.model_copy(update={"start": 0, "size": MAX_VALUE})
    olds = []
    for i, row in enumerate(read_rows(every, "openai/gsm8k", "main")):
        need(row, ("question", "answer"), config, i)
        olds.append(Old(row["question"], row["answer"], "varied"))
    return olds


def numbers(old: Old, olds: Sequence[Old], rng: random.Random) -> Variant:
    """The problem with other numbers; Dropped where the formula is not plain or no draw gives a sensible problem."""
    formula = Formula(old.question, old.solution)
    reason = "have no sensible other numbers"
    for _ in range(_TRIES):
        drawn = {value: other(value, rng) for value in formula.free}
        try:
            new = formula.worked_out(drawn)
            question, solution = formula.written(new)
        except Dropped as problem:
            reason = str(problem)
            continue
        if not agreed(solution, new[formula.results[-1]]):
            raise Dropped("are read otherwise by the verifiers")
        return Variant(question, solution, answer_of(solution), len(formula.results))
    raise Dropped(reason)


WAYS: dict[str, Way] = {
    "numbers": numbers,
    "longer": longer,
    "combined": combined,
    "turned": turned,
}
