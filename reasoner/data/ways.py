"""New problems out of old ones: by which way each is made, what is kept of them, and what is dropped and told.

A way is a function (old problem, all old problems, random numbers) → new problem, or Dropped with a reason. A source has a table
of them, from which `ways` of its config draws by weights.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from reasoner.data.rows import SourceConfig
from reasoner.registry import lookup

DEFAULT = {"numbers": 1.0}
MADE = "problems made from old ones"  # how a warning of what is dropped begins


class Dropped(Exception):
    """Why an old problem gives no new one; the argument is the reason, by which they are counted."""


class Old(NamedTuple):
    """A problem that others are made from; `family` is its kind, such as varied or chain_sum."""

    question: str
    solution: str
    family: str


class Variant(NamedTuple):
    """A new problem with its working and its answer; `calculations` says how many the working takes."""

    question: str
    solution: str
    answer: str
    calculations: int


Way = Callable[[Old, Sequence[Old], random.Random], Variant]

# what a way does, as a problem's source tells it
SAID = {
    "numbers": "other numbers",
    "longer": "one more step",
    "combined": "parts combined",
    "turned": "turned round",
}


class Made(NamedTuple):
    """A new problem, the number it was made under, and the way."""

    number: int
    old: Old
    way: str
    variant: Variant

    @property
    def domain(self) -> str:
        """How hard it is, as a curriculum reads it: family, way, number of calculations."""
        return f"{self.old.family}/{self.way}/{self.variant.calculations}"

    def source(self, of: str) -> str:
        return f"{of}, {SAID.get(self.way, self.way)}"


def made_from(
    places: Iterable[tuple[int, Old, str]], olds: Sequence[Old], table: Mapping[str, Way], config: SourceConfig
) -> Iterator[Made]:  # fmt: skip
    """The new problems of `places` (number, old problem, seed); a warning counts by reason those that there are none of.

    The number fixes the way, the seed what the way draws: a place gives the same problem whichever places are made with it.
    """
    weights = config.ways or DEFAULT
    ways = {name: lookup(table, name, "way to make problems") for name in weights}
    known = {old.question for old in olds}
    dropped: Counter[str] = Counter()
    for number, old, seed in places:
        (name,) = random.Random(f"way {number}").choices(list(weights), list(weights.values()))
        try:
            variant = ways[name](old, olds, random.Random(seed))
            if variant.question in known:
                raise Dropped("are an old problem again")
        except Dropped as reason:
            dropped[str(reason)] += 1
            continue
        yield Made(number, old, name, variant)
    if dropped:
        told = ", ".join(f"{num:,} {reason}" for reason, num in dropped.most_common())
        warnings.warn(
            f"of {config.size:,} {MADE} {dropped.total():,} are dropped: {told}",
            stacklevel=1,
        )
