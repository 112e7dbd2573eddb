"""Constraints made here, each with a solution or with none: linear systems, colourings, schedules, bit-vectors.

What is asked is written in a few words and, for the verifier, as SMT-LIB. `holds` is the same problem as a function of
Python, over domains small enough to be gone through: the truth that the generator and the tests rest on.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from reasoner.data.rows import Item, SourceConfig, family_sizes
from reasoner.tree import Problem

_NAMES = "abcdefgh"


class Constraints(NamedTuple):
    """A problem. text: for a reader; smtlib: for the verifier; domains: the values of each constant."""

    text: str
    smtlib: str
    domains: dict[str, range]
    holds: Callable[..., bool]


def solutions(problem: Constraints) -> Iterator[dict[str, int]]:
    """All assignments that the constraints allow, by going through the domains."""
    for values in itertools.product(*problem.domains.values()):
        if problem.holds(*values):
            yield dict(zip(problem.domains, values, strict=True))


def linear(rng: random.Random, difficulty: int) -> Constraints:
    """Equations over integers from -9 to 9; as many as unknowns, and now and then one that contradicts them."""
    names = "xyz"[: min(1 + difficulty, 3)]
    wanted = [rng.randint(-9, 9) for _ in names]
    rows = [
        [rng.choice([c for c in range(-2 - difficulty, 3 + difficulty) if c]) for _ in names] for _ in names
    ]
    sums = [sum(c * v for c, v in zip(row, wanted, strict=True)) for row in rows]
    if rng.random() < 0.2:
        rows.append(rows[0])
        sums.append(sums[0] + rng.randint(1, 9))

    def holds(*values: int) -> bool:
        return all(
            sum(c * v for c, v in zip(row, values, strict=True)) == s
            for row, s in zip(rows, sums, strict=True)
        )

    text = ", ".join(f"{_linear_text(row, names)} = {s}" for row, s in zip(rows, sums, strict=True))
    terms = [" ".join(f"(* {_smt(c)} {n})" for c, n in zip(row, names, strict=True)) for row in rows]
    asserts = [f"(= (+ {t} 0) {_smt(s)})" for t, s in zip(terms, sums, strict=True)]
    domains = {n: range(-9, 10) for n in names}
    return Constraints(f"{text} in -9..9", _smtlib(domains, asserts), domains, holds)


def _linear_text(row: list[int], names: str) -> str:
    parts = [
        f"{'+' if c > 0 else '-'}{abs(c) if abs(c) > 1 else ''}{n}" for c, n in zip(row, names, strict=True)
    ]
    return "".join(parts).removeprefix("+")


def colouring(rng: random.Random, difficulty: int) -> Constraints:
    """A graph whose neighbours have different colours; too few colours are no rare thing."""
    names, colours = _NAMES[: 2 + difficulty], rng.randint(2, 3)
    pairs = list(itertools.combinations(names, 2))
    edges = sorted(rng.sample(pairs, min(len(pairs), rng.randint(len(names) - 1, 2 * len(names) - 2))))
    at = {n: i for i, n in enumerate(names)}

    def holds(*values: int) -> bool:
        return all(values[at[a]] != values[at[b]] for a, b in edges)

    domains = {n: range(1, colours + 1) for n in names}
    text = f"colours 1..{colours}, edges {' '.join(a + b for a, b in edges)}"
    return Constraints(text, _smtlib(domains, [f"(distinct {a} {b})" for a, b in edges]), domains, holds)


def scheduling(rng: random.Random, difficulty: int) -> Constraints:
    """Starts of tasks on one machine, which takes one at a time, with a deadline and an order of some."""
    names = _NAMES[: 2 + (difficulty > 1) + (difficulty > 3)]
    lasts = [rng.randint(1, 2 + difficulty // 2) for _ in names]
    deadline = sum(lasts) + rng.randint(-1, 1)
    pairs = list(itertools.combinations(range(len(names)), 2))
    first = [pair[:: rng.choice((1, -1))] for pair in pairs if rng.random() < 0.4]

    def holds(*starts: int) -> bool:
        ends = [s + d for s, d in zip(starts, lasts, strict=True)]
        apart = all(ends[i] <= starts[j] or ends[j] <= starts[i] for i, j in pairs)
        return apart and all(e <= deadline for e in ends) and all(ends[i] <= starts[j] for i, j in first)

    tasks = " ".join(f"{n}:{d}" for n, d in zip(names, lasts, strict=True))
    before = ", ".join(f"{names[i]} before {names[j]}" for i, j in first)
    asserts = [f"(<= (+ {n} {d}) {deadline})" for n, d in zip(names, lasts, strict=True)]
    asserts += [
        f"(or (<= (+ {names[i]} {lasts[i]}) {names[j]}) (<= (+ {names[j]} {lasts[j]}) {names[i]}))"
        for i, j in pairs
    ]
    asserts += [f"(<= (+ {names[i]} {lasts[i]}) {names[j]})" for i, j in first]
    domains = {n: range(deadline + 1) for n in names}
    text = f"tasks {tasks} until {deadline}" + (f", {before}" if before else "")
    return Constraints(text, _smtlib(domains, asserts), domains, holds)


_BIT_OPERATIONS: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "+": ("bvadd", lambda a, b: a + b), "*": ("bvmul", lambda a, b: a * b), "&": ("bvand", lambda a, b: a & b),
    "|": ("bvor", lambda a, b: a | b), "^": ("bvxor", lambda a, b: a ^ b),
}  # fmt: skip


def bit_vectors(rng: random.Random, difficulty: int) -> Constraints:
    """One number of a few bits that a row of operations takes to another."""
    bits = 3 + difficulty
    steps = [(rng.choice("+*&|^"), rng.randrange(1, 1 << bits)) for _ in range(1 + difficulty)]

    def value(x: int) -> int:
        for sign, operand in steps:
            x = _BIT_OPERATIONS[sign][1](x, operand) % (1 << bits)
        return x

    goal = value(rng.randrange(1 << bits)) if rng.random() < 0.8 else rng.randrange(1 << bits)
    text, term = "x", "x"
    for sign, operand in steps:
        text = f"({text}{sign}{operand})"
        term = f"({_BIT_OPERATIONS[sign][0]} {term} (_ bv{operand} {bits}))"
    smtlib = f"(declare-const x (_ BitVec {bits}))\n(assert (= {term} (_ bv{goal} {bits})))"
    return Constraints(
        f"{text[1:-1]} = {goal} in {bits} bits", smtlib, {"x": range(1 << bits)}, lambda x: value(x) == goal
    )


def _smtlib(domains: dict[str, range], asserts: list[str]) -> str:
    declared = [f"(declare-const {n} Int)" for n in domains]
    bounds = [f"(and (<= {_smt(d[0])} {n}) (<= {n} {_smt(d[-1])}))" for n, d in domains.items()]
    return "\n".join([*declared, *(f"(assert {a})" for a in [*bounds, *asserts])])


def _smt(number: int) -> str:
    return str(number) if number >= 0 else f"(- {-number})"


FAMILIES: dict[str, Callable[[random.Random, int], Constraints]] = {
    "linear": linear, "colouring": colouring, "scheduling": scheduling, "bit_vectors": bit_vectors,
}  # fmt: skip
MAX_DIFFICULTY = 5


def constraints(family: str, number: int, difficulty: int = 1) -> Constraints:
    """The problem of a place. Raises KeyError for an unknown family."""
    return FAMILIES[family](random.Random(f"smt {family} {difficulty} {number}"), difficulty)


def smt(config: SourceConfig) -> Iterator[Item]:
    """Constraints made here, each with a model, or "unsat". families: linear, colouring, scheduling, bit_vectors, each with
    `difficulty` (1 to 5) and `share`."""
    for family, difficulty, number in family_sizes(config, tuple(FAMILIES), MAX_DIFFICULTY):
        made = constraints(family, number, difficulty)
        model = next(solutions(made), None)
        yield Item(
            Problem(
                id=f"smt_{family}_{difficulty}/{number}",
                prompt=made.text,
                verifier="proof",
                reference={"system": "smt", "statement": made.smtlib},
                domain=config.domain or f"smt {family}",
                source="made here",
                licence="Apache-2.0",
            ),
            "unsat" if model is None else ", ".join(f"{n} = {v}" for n, v in model.items()),
        )
