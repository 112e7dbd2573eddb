"""Problems of several sets in the shares that are asked for: one order, in which each set comes as often as it should."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Annotated, TypeVar

from pydantic import Field

from reasoner.config import Config

T = TypeVar("T")


class Mixture(Config):
    """How often the problems of each set are drawn."""

    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {},
        description="what each problem set counts, e.g. {gsm8k: 3, arithmetic: 1}; empty: as many as its problems",
    )
    temperature: float = Field(
        1.0, gt=0, description="shares go with weights ** (1 / temperature): above 1 it evens them out"
    )
    at_end: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="weights in the last round; the shares move there in equal steps, round by round"
    )
    max_repeats: int | None = Field(
        None,
        ge=1,
        description="most times that a problem is drawn; where a set runs dry the others take its place",
    )


def shares(weights: Mapping[str, float], temperature: float) -> dict[str, float]:
    """weight ** (1 / temperature), so scaled that they add up to 1; of weights that are all 0 all are 0."""
    powers = {name: w ** (1 / temperature) if w > 0 else 0.0 for name, w in weights.items()}
    total = sum(powers.values())
    return {name: p / total if total else 0.0 for name, p in powers.items()}


def check_names(mixture: Mixture, problems: Sequence[str]) -> None:
    """ValueError for a set that is named and not among the `problems` of the stage."""
    for name in (*mixture.weights, *mixture.at_end):
        if name not in problems:
            raise ValueError(
                f"mixture names {name!r}, which is not among problems; expected one of: {', '.join(problems)}"
            )


def mixed(
    sets: Mapping[str, Sequence[T]], rounds: int, per_round: int, config: Mixture, place: str
) -> list[tuple[str, T]]:
    """(set, item) of `rounds` times `per_round` draws; fewer where all sets of any share have run dry.

    At each draw the set comes that is furthest behind its share, so that counts are exact to one from the first draw on.
    Each set's items come in a random order that `place` fixes, all of them before any comes again.
    """
    return [draw for drawn in by_rounds(sets, rounds, per_round, config, place) for draw in drawn]


def by_rounds(
    sets: Mapping[str, Sequence[T]], rounds: int, per_round: int, config: Mixture, place: str, once: bool = False
) -> list[list[tuple[str, T]]]:  # fmt: skip
    """`mixed` by its rounds; with `once` no item comes twice in one, and a set's items come in one order again and again."""
    weights = config.weights or {name: float(len(items)) for name, items in sets.items()}
    begin = shares(weights, config.temperature)
    end = shares(config.at_end, config.temperature) if config.at_end else begin
    streams = {
        name: _passes(items, config.max_repeats, f"{place} {name}", once) for name, items in sets.items()
    }
    left = {n: len(items) * (config.max_repeats or 1) for n, items in sets.items()}
    due = dict.fromkeys(sets, 0.0)
    found: list[list[tuple[str, T]]] = []
    for number in range(rounds):
        done = number / max(1, rounds - 1)
        share = {n: (1 - done) * begin.get(n, 0.0) + done * end.get(n, 0.0) for n in sets}
        room = {n: min(left[n], len(items)) if once else left[n] for n, items in sets.items()}
        drawn: list[tuple[str, T]] = []
        for _ in range(per_round):
            part = {n: share[n] for n in sets if room[n]}
            total = sum(part.values())
            if not total:
                break
            for name, of_set in part.items():
                due[name] += of_set / total
            name = max(part, key=lambda n: due[n])
            due[name] -= 1
            drawn.append((name, next(streams[name])))
            left[name] -= config.max_repeats is not None
            room[name] -= once or config.max_repeats is not None
        found.append(drawn)
    return found


def _passes(items: Sequence[T], most: int | None, place: str, alike: bool) -> Iterator[T]:
    """All items in a random order, again and again, or `most` times: each time another order, or all times one."""
    for number in range(most) if most is not None else count():
        yield from random.Random(f"{place} {0 if alike else number}").sample(items, len(items))
