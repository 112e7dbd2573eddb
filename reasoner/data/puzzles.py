"""Problems made here or by reasoning-gym: its arithmetic, any of its families, and sums that one pair of brackets makes true."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from fractions import Fraction

from reasoner.data.demonstrator import work_out
from reasoner.data.rows import Item, SourceConfig, gym_rows
from reasoner.tree import Problem

# The puzzle of the QwQ-32B-Preview announcement (Qwen team, 2024): one pair of brackets makes it 479.
QWQ_EXPRESSION, QWQ_TARGET = "1 + 2 * 3 + 4 * 5 + 6 * 7 + 8 * 9", 479


def arithmetic(config: SourceConfig) -> Iterator[Item]:
    """reasoning-gym's arithmetic, posed as bare expressions and worked out by our demonstrator.

    The answer is our own exact result, not the generator's, whose scorer gives credit for substrings.
    """
    for name, i, row in gym_rows(config):
        meta = row["metadata"]
        numbers = ",".join(map(str, meta.get("numbers", ())))
        prompt = meta["expression"].replace(" ", "") if "expression" in meta else f"{name}({numbers})"
        solution = work_out(prompt)
        if solution is None:
            continue  # a division that does not come out even has no working in decimals
        problem = Problem(
            id=f"{name}/{config.start + i}",
            prompt=prompt,
            verifier="math",
            reference={"answer": solution.rpartition("#### ")[2]},
            domain=config.domain or name,
            source=f"reasoning-gym {name}",
            licence="Apache-2.0",
        )
        shows = random.Random(prompt).random() < config.worked
        yield Item(problem, solution if shows else f"#### {problem.reference['answer']}")


def gym(config: SourceConfig) -> Iterator[Item]:
    """Any reasoning-gym families, judged by their own scorers in the sandbox."""
    for name, i, row in gym_rows(config):
        yield Item(
            Problem(
                id=f"{name}/{config.start + i}",
                prompt=row["question"],
                verifier="logic",
                reference={"puzzle": name, "entry": json.dumps(row, default=str)},
                domain=config.domain or name,
                source=f"reasoning-gym {name}",
                licence="Apache-2.0",
            ),
            None,
        )


def bracket_sums(config: SourceConfig) -> Iterator[Item]:
    """Put one pair of brackets into an expression so that it makes a target; item 0 of start 0 is the QwQ blog's.

    The others are drawn at random, with targets that the expression does not make as it stands.
    """
    for i in range(config.start, config.start + config.size):
        numbers, operators, target = _bracket_puzzle(i)
        text = " ".join(f"{n} {o}" for n, o in zip(numbers, [*operators, ""], strict=True)).strip()
        yield Item(
            Problem(
                id=f"bracket_sums/{i}",
                prompt=f"Add one pair of brackets to the expression {text} so that it equals {target}. "
                "End with: #### expression",
                verifier="logic",
                reference={"puzzle": "bracket_sum", "expression": text, "target": target},
                domain=config.domain or "bracket_sums",
                source="made here",
                licence="Apache-2.0",
            ),
            None,
        )


def _bracket_puzzle(i: int) -> tuple[list[int], list[str], int]:
    if i == 0:
        parts: list[str] = list(QWQ_EXPRESSION.split())
        return [int(p) for p in parts[::2]], parts[1::2], QWQ_TARGET
    rng = random.Random(f"bracket_sums {i}")
    while True:
        num = rng.randint(4, 8)
        numbers = [rng.randint(1, 9) for _ in range(num)]
        operators = [rng.choice("+*-") for _ in range(num - 1)]
        plain = _value(numbers, operators)
        made = {
            int(_bracketed(numbers, operators, a, b))
            for a in range(num)
            for b in range(a + 1, num)
            if (a, b) != (0, num - 1)
        } - {int(plain)}
        if made:
            return numbers, operators, rng.choice(sorted(made))


def _bracketed(numbers: list[int], operators: list[str], a: int, b: int) -> Fraction:
    """The value with brackets around numbers a to b."""
    inner = _value(numbers[a : b + 1], operators[a:b])
    return _value([*numbers[:a], inner, *numbers[b + 1 :]], [*operators[:a], *operators[b:]])


def _value(numbers: list, operators: list[str]) -> Fraction:
    """Products before sums, left to right."""
    terms, signs = [Fraction(numbers[0])], [1]
    for operator, number in zip(operators, numbers[1:], strict=True):
        if operator == "*":
            terms[-1] *= number
        else:
            terms.append(Fraction(number))
            signs.append(1 if operator == "+" else -1)
    return sum((s * t for s, t in zip(signs, terms, strict=True)), Fraction(0))
