"""Theorems of Coq made here, with a proof of each and a false neighbour: arithmetic, lists, propositional logic.

A theorem is a function of (family, number, difficulty): the same one is made again anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from reasoner.data.rows import Item, SourceConfig, family_sizes
from reasoner.tree import Problem

HEADER = "From Coq Require Import Arith Lia List ZArith Bool.\nImport ListNotations."


class Theorem(NamedTuple):
    """A statement, a proof of it, and a statement of the same shape that is false."""

    statement: str
    proof: str
    false_statement: str


def linear_sum(rng: random.Random, difficulty: int) -> Theorem:
    """Like terms gathered: over natural numbers, by lia."""
    names = "abcdef"[: 1 + difficulty]
    terms = [(rng.randint(1, 9), rng.choice(names)) for _ in range(2 + difficulty)]
    total = {v: sum(c for c, w in terms if w == v) for v in names}
    left = " + ".join(f"{c} * {v}" for c, v in terms)
    right = [f"{c} * {v}" for v, c in total.items() if c]
    return _closed(names, left, " + ".join(right), f"{' + '.join(right)} + {rng.randint(1, 9)}", "lia.")


def square(rng: random.Random, difficulty: int) -> Theorem:
    """A product of sums, multiplied out: over integers, by ring."""
    a, b, c = (rng.randint(1, 3 + 3 * difficulty) for _ in range(3))
    left, right = f"({a} * x + {b}) * (x + {c})", f"{a} * x * x + {a * c + b} * x + {b * c}"
    wrong = f"{a} * x * x + {a * c + b + 1} * x + {b * c}"
    made = [f"forall x : Z, ({left} = {r})%Z" for r in (right, wrong)]
    return Theorem(made[0], "intros x.\nring.", made[1])


def order(rng: random.Random, difficulty: int) -> Theorem:
    """An inequality that follows from a chain of them, by lia."""
    names = "abcdef"[: 1 + difficulty]
    gaps = [rng.randint(0, 9) for _ in names[1:]]
    chain = " -> ".join(f"{a} + {g} <= {b}" for a, b, g in zip(names, names[1:], gaps, strict=False))
    slack = rng.randint(0, sum(gaps))
    goal, wrong = (f"{chain} -> {names[0]} + {n} <= {names[-1]}" for n in (slack, sum(gaps) + 1))
    head = f"forall {' '.join(names)} : nat, "
    return Theorem(head + goal, "intros.\nlia.", head + wrong)


def double_sum(rng: random.Random, difficulty: int) -> Theorem:
    """An equation by induction, as lia does not unfold it by itself."""
    k = rng.randint(2, 2 + 3 * difficulty)
    left = f"Nat.iter n (fun m => {k} + m) 0"
    head = "forall n : nat, "
    proof = "induction n as [|n IH].\n- reflexivity.\n- simpl in *.\nlia."
    return Theorem(f"{head}{left} = {k} * n", proof, f"{head}{left} = {k + 1} * n")


def _closed(names: str, left: str, right: str, wrong: str, how: str) -> Theorem:
    head = f"forall {' '.join(names)} : nat, "
    return Theorem(f"{head}{left} = {right}", f"intros.\n{how}", f"{head}{left} = {wrong}")


def list_length(rng: random.Random, difficulty: int) -> Theorem:
    """The length of lists put together, by rewriting and lia."""
    more = [[rng.randint(0, 9) for _ in range(rng.randint(1, 3))] for _ in range(difficulty)]
    shown = " ++ ".join(["l", *(f"[{'; '.join(map(str, part))}]" for part in more)])
    count = sum(map(len, more))
    head = "forall l : list nat, "
    proof = "intros l.\n" + "rewrite app_length.\n" * difficulty + "simpl.\nlia."
    left = f"length ({shown})" if difficulty == 1 else f"length ({_left_nested(shown)})"
    return Theorem(f"{head}{left} = length l + {count}", proof, f"{head}{left} = length l + {count + 1}")


def _left_nested(shown: str) -> str:
    first, *rest = shown.split(" ++ ")
    for part in rest:
        first = f"({first} ++ {part})"
    return first[1:-1]


def list_computed(rng: random.Random, difficulty: int) -> Theorem:
    """A function of a given list, by computation."""
    given = [rng.randint(0, 9) for _ in range(1 + 2 * difficulty)]
    k = rng.randint(1, 5)
    name, wanted = rng.choice(
        [("rev {}", given[::-1]), (f"map (fun x => x + {k}) {{}}", [x + k for x in given]),
         (f"skipn {k} {{}}", given[k:]), ("{} ++ {}", given + given)]
    )  # fmt: skip
    left = name.format(_coq_list(given), _coq_list(given))
    wrong = [*wanted, 0]
    return Theorem(f"{left} = {_coq_list(wanted)}", "reflexivity.", f"{left} = {_coq_list(wrong)}")


def list_induction(rng: random.Random, difficulty: int) -> Theorem:
    """A fact on all lists, by induction."""
    k = rng.randint(1, 4 + 5 * difficulty)
    head, left = "forall l : list nat, ", f"length (map (fun x => x + {k}) l)"
    proof = "induction l as [|x l IH].\n- reflexivity.\n- simpl.\nrewrite IH.\nreflexivity."
    return Theorem(f"{head}{left} = length l", proof, f"{head}{left} = length l + {k}")


def _coq_list(values: list[int]) -> str:
    return f"[{'; '.join(map(str, values))}]"


_LETTERS, _AND, _OR = "PQRSTUVW", " /\\ ", " \\/ "


def chain(rng: random.Random, difficulty: int) -> Theorem:
    """Implications in any order, from the first proposition to the last."""
    names = rng.sample(_LETTERS, 2 + difficulty)
    links = list(enumerate(pairwise(names), start=1))
    shown = rng.sample(links, len(links))
    given = " -> ".join(f"({a} -> {b})" for _, (a, b) in shown)
    head = f"forall {' '.join(sorted(names))} : Prop, {given} -> "
    hypotheses = " ".join(f"h{i}" for i, _ in shown)
    proof = [f"intros {' '.join(sorted(names))} {hypotheses} h."]
    proof += [f"apply h{i}." for i, _ in reversed(links)] + ["exact h."]
    return Theorem(f"{head}{names[0]} -> {names[-1]}", "\n".join(proof), f"{head}{names[-1]} -> {names[0]}")


def conjunction(rng: random.Random, difficulty: int) -> Theorem:
    """Some of the parts of a conjunction, in another order."""
    names = rng.sample(_LETTERS, 2 + difficulty)
    some = rng.sample(names, 2)
    hypotheses = {n: f"h{n}" for n in names}
    pattern = hypotheses[names[-1]]
    for name in reversed(names[:-1]):
        pattern = f"[{hypotheses[name]} {pattern}]"
    head = f"forall {' '.join(sorted(names))} X : Prop, {_AND.join(names)} -> "
    proof = [f"intros {' '.join(sorted(names))} X h.", f"destruct h as {pattern}.", "split."]
    proof += [f"- exact {hypotheses[n]}." for n in some]
    return Theorem(f"{head}{_AND.join(some)}", "\n".join(proof), f"{head}{some[0]} /\\ X")


def disjunction(rng: random.Random, difficulty: int) -> Theorem:
    """One of the parts of a disjunction, chosen by left and right."""
    names = rng.sample(_LETTERS, 2 + difficulty)
    at = rng.randrange(len(names))
    steps = ["right."] * at + (["left."] if at < len(names) - 1 else []) + ["exact h."]
    head, goal = f"forall {' '.join(sorted(names))} X : Prop, ", _OR.join(names)
    proof = "\n".join([f"intros {' '.join(sorted(names))} X h.", *steps])
    return Theorem(f"{head}{names[at]} -> {goal}", proof, f"{head}X -> {goal}")


FAMILIES: dict[str, tuple[Callable[[random.Random, int], Theorem], ...]] = {
    "arithmetic": (linear_sum, square, order, double_sum),
    "lists": (list_length, list_computed, list_induction),
    "propositional": (chain, conjunction, disjunction),
}
MAX_DIFFICULTY = 5


def theorem(family: str, number: int, difficulty: int = 1) -> Theorem:
    """The theorem of a place. Raises KeyError for an unknown family."""
    rng = random.Random(f"coq {family} {difficulty} {number}")
    return rng.choice(FAMILIES[family])(rng, difficulty)


def coq(config: SourceConfig) -> Iterator[Item]:
    """Theorems of Coq made here, each with its proof. families: arithmetic, lists, propositional, each with `difficulty`
    (1 to 5) and `share`."""
    for family, difficulty, number in family_sizes(config, tuple(FAMILIES), MAX_DIFFICULTY):
        made = theorem(family, number, difficulty)
        yield Item(
            Problem(
                id=f"coq_{family}_{difficulty}/{number}",
                prompt=made.statement,
                verifier="proof",
                reference={"system": "coq", "statement": made.statement, "header": HEADER},
                domain=config.domain or f"coq {family}",
                source="made here",
                licence="Apache-2.0",
            ),
            made.proof,
        )
