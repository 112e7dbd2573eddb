"""New expressions out of old ones, by the ways of the table below, kept only if the verifiers' own parser agrees.

    5-4+3 → numbers: 8-2+7    longer: 5-4+3+6    combined: 5-4+3+9-1    turned: 5-x+3=4,x

`turned` asks for the number at x, which the tokenizers made here (policy/models) spell, as they do every byte. Its working undoes
one calculation a line. It is no expression, so `judge: working` takes each of its lines by itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

from reasoner.data.demonstrator import (
    Call,
    Expression,
    Group,
    Number,
    Operation,
    Uneven,
    next_line,
    parse_expression,
    work_out,
)
from reasoner.data.puzzles import arithmetic
from reasoner.data.rows import Item, SourceConfig
from reasoner.data.ways import Dropped, Old, Variant, Way, made_from
from reasoner.data.working import check_working
from reasoner.registry import UserError
from reasoner.tree import Problem
from verifiers import verify
from verifiers.arithmetic_steps import check_steps

UNKNOWN = "x"
_TRIES = 100
_WRITTEN = re.compile(r"\d+(?:\.\d+)?")


def varied_arithmetic(config: SourceConfig) -> Iterator[Item]:
    """Expressions made from the first `of` that the source `arithmetic` gives for the same start and families.

    The i-th new problem is made from old problem i modulo their number; what gives none is counted in a warning.
    """
    olds = old_expressions(config)
    places = (
        (config.start + i, olds[i % len(olds)], f"{config.start + i} {olds[i % len(olds)].question}")
        for i in range(config.size if olds else 0)
    )
    for made in made_from(places, olds, WAYS, config):
        prompt, answer = made.variant.question, made.variant.answer
        shows = random.Random(prompt).random() < config.worked
        yield Item(
            Problem(
                id=f"varied_arithmetic/{made.number}",
                prompt=prompt,
                verifier="math",
                reference={"answer": answer},
                domain=config.domain or made.domain,
                source=made.source(f"reasoning-gym {made.old.family}"),
                licence="Apache-2.0",
            ),
            made.variant.solution if shows else f"#### {answer}",
        )


def old_expressions(config: SourceConfig) -> list[Old]:
    """The distinct problems that new ones are made from, worked out."""
    if config.of is None:
        raise UserError(
            f"the source {config.name} has no `of`; expected how many old problems there are, e.g. of: 600"
        )
    every = config.model_copy(update={"name": "arithmetic", "size": config.of, "worked": 1.0})
    found: dict[str, Old] = {}
    for item in arithmetic(every):
        family = item.problem.id.partition("/")[0]
        found.setdefault(item.problem.prompt, Old(item.problem.prompt, item.solution or "", family))
    return list(found.values())


def numbers(old: Old, olds: Sequence[Old], rng: random.Random) -> Variant:
    """Other numbers of as many digits."""
    e = parse_expression(old.question)
    for _ in range(_TRIES):
        text = str(_with(e, lambda value: like(value, rng, 0 if _is_sum(e) else 1)))
        solution = work_out(text)
        is_even = solution is not None and ("." in old.solution or "." not in solution)
        if solution is not None and is_even and text != old.question:
            return checked(text, solution)
    raise Dropped("have no other numbers that come out even")


def longer(old: Old, olds: Sequence[Old], rng: random.Random) -> Variant:
    """One more term, factor or argument, of the last one's size."""
    e = parse_expression(old.question)
    number = Number(abs(like(_numbers(e)[-1], rng, 1)))
    if isinstance(e, Call):
        more: Expression = Call(e.name, (*e.arguments, number))
    else:
        more = Operation("*" if _is_product(e) else rng.choice("+-"), e, number)
    return _worked(str(more))


def combined(old: Old, olds: Sequence[Old], rng: random.Random) -> Variant:
    """The old expression and another of its family: one call of the numbers of both, or their sum."""
    for _ in range(_TRIES):
        other = rng.choice(olds)
        if other.family == old.family and other.question != old.question:
            break
    else:
        raise Dropped("have no other problem of their family to be joined with")
    a, b = parse_expression(old.question), parse_expression(other.question)
    if isinstance(a, Call) and isinstance(b, Call) and a.name == b.name:
        return _worked(str(Call(a.name, (*a.arguments, *b.arguments))))
    return _worked(f"{a}+{b}")


def turned(old: Old, olds: Sequence[Old], rng: random.Random) -> Variant:
    """One number asked for, and the value told; Dropped where several numbers, or none, give it."""
    e = parse_expression(old.question)
    answer = Decimal(_answer(old.solution))
    numbers = _numbers(e)
    reason = "ask for a number behind a minus"
    for place in rng.sample(range(len(numbers)), len(numbers)):
        if numbers[place].is_signed():
            continue
        try:
            lines, found = undone(e, place, answer)
        except Dropped as problem:
            reason = str(problem)
            continue
        masked = _masked(str(e), place, UNKNOWN)
        prompt, solution = f"{masked}={answer},{UNKNOWN}", "\n".join([*lines, f"#### {found}"])
        steps = check_steps(solution, prompt)
        back = [
            check_steps(f"{_masked(str(e), place, f'({value})')}={answer}")[0].right
            for value in (found, found + 1, found - 1)
        ]
        if found != numbers[place] or back != [True, False, False] or any(s.right is False for s in steps):
            raise Dropped("are read otherwise by the verifiers")
        return Variant(prompt, solution, str(found), len(lines))
    raise Dropped(reason)


WAYS: dict[str, Way] = {
    "numbers": numbers,
    "longer": longer,
    "combined": combined,
    "turned": turned,
}


def undone(e: Expression, place: int, value: Decimal) -> tuple[list[str], Decimal]:
    """The lines that lead from the expression's value to the number at `place` (counted from the left), and that number."""
    lines: list[str] = []

    def known(part: Expression) -> Decimal:
        while not isinstance(part, Number):
            line, part = next_line(part)
            lines.extend([line] if line else [])
        return part.value

    def calculated(left: Decimal, operator: str, right: Decimal) -> Decimal:
        return known(Operation(operator, Number(left), Number(right)))

    try:
        while not isinstance(e, Number):
            match e:
                case Operation(operator, left, right) if place < (num := len(_numbers(left))):
                    inverse = {"+": "-", "-": "+", "*": "/", "/": "*"}[operator]
                    value = calculated(value, inverse, known(right))
                    e = left
                case Operation("/", _, _):
                    raise Dropped("are not linear in the number")
                case Operation(operator, left, right):
                    other = known(left)
                    if operator == "-":
                        value = calculated(other, "-", value)
                    else:
                        value = calculated(value, {"+": "-", "*": "/"}[operator], other)
                    e, place = right, place - num
                case Group(inner, False):
                    e = inner
                case Group():
                    raise Dropped("ask for a number behind a minus")
                case Call():
                    raise Dropped("have a value that several numbers give")
    except Uneven:  # a factor of 0
        raise Dropped("have an answer that does not hang on the number") from None
    return lines, value


def like(value: Decimal, rng: random.Random, low: int) -> Decimal:
    """Another number with as many digits and decimals, at most twice as large where it has two or more before the point.

    `low` is the least that may stand before the point.
    """
    digits, places = len(str(int(abs(value)))), max(0, -int(value.as_tuple().exponent))
    bottom, top = 10 ** (digits - 1), 10**digits - 1
    if digits == 1:
        bottom = low if not value.is_signed() else 1
    else:
        top = min(top, 2 * int(abs(value)))
    whole = rng.randint(bottom, top)
    made = Decimal(whole * 10**places + rng.randrange(10**places)).scaleb(-places)
    return -made if value.is_signed() else made


def _worked(text: str) -> Variant:
    solution = work_out(text)
    if solution is None:
        raise Dropped("do not come out even")
    return checked(text, solution)


def checked(text: str, solution: str) -> Variant:
    """The expression, if the verifiers' parser finds its value to be what the working ends in; else Dropped."""
    answer = _answer(solution)
    steps = check_steps(f"{text}={answer}")
    follows = all(step.right for step in check_working(solution, text))
    is_read = verify("math", solution, {"answer": answer}).status == "correct"
    if [step.right for step in steps] != [True] or not (follows and is_read):
        raise Dropped("are read otherwise by the verifiers")
    return Variant(text, solution, answer, solution.count("="))


def _answer(solution: str) -> str:
    return solution.rpartition("#### ")[2]


def _masked(text: str, place: int, sign: str) -> str:
    """The text with a sign for its number at `place`."""
    found = list(_WRITTEN.finditer(text))[place]
    return f"{text[: found.start()]}{sign}{text[found.end() :]}"


def _with(e: Expression, change: Callable[[Decimal], Decimal]) -> Expression:
    """The expression with every number changed."""
    match e:
        case Number(value):
            return Number(change(value))
        case Group(inner, negative):
            return Group(_with(inner, change), negative)
        case Operation(operator, left, right):
            return Operation(operator, _with(left, change), _with(right, change))
        case Call(name, arguments):
            return Call(name, tuple(_with(a, change) for a in arguments))


def _numbers(e: Expression) -> list[Decimal]:
    """The numbers of the expression from left to right."""
    match e:
        case Number(value):
            return [value]
        case Group(inner, _):
            return _numbers(inner)
        case Operation(_, left, right):
            return _numbers(left) + _numbers(right)
        case Call(_, arguments):
            return [value for argument in arguments for value in _numbers(argument)]


def _is_product(e: Expression) -> bool:
    return isinstance(e, Operation) and e.operator == "*"


def _is_sum(e: Expression) -> bool:
    return isinstance(e, Operation) and e.operator in "+-"
