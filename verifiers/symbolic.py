"""Equality that needs computer algebra; runs only inside the sandbox's long-lived math children.

A question is JSON (gold, answer), both canonical texts; the reply is one of the words of
`decide`. Time and memory are bounded from outside, by killing.
"""

import json
from typing import Any

from verifiers import answer_compare, tex
from verifiers.answer_compare import Malformed, Undecided
from verifiers.fields import TooLarge, Undefined

_DIGITS = 60
_BEYOND_US = (r"\sum", r"\prod", r"\int", r"\lim", r"\iint", r"\frac{d", r"\frac{\partial", "sum_", "int_")
_FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc", "arcsin": "asin",
    "arccos": "acos", "arctan": "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "ln": "log",
    "exp": "exp", "abs": "Abs", "floor": "floor", "ceil": "ceiling", "factorial": "factorial",
    "binomial": "binomial", "gcd": "gcd", "lcm": "lcm", "max": "Max", "min": "Min", "mod": "Mod",
}  # fmt: skip


def decide(question: bytes) -> bytes:
    """b"equal", b"different", b"undefined", b"too large", b"unreadable", b"unreadable gold", b"undecided"."""
    gold_text, answer_text = json.loads(question)
    return _decide(gold_text, answer_text).encode()


def _decide(gold_text: str, answer_text: str) -> str:
    try:
        gold = tex.parse(gold_text)
    except tex.Unreadable:
        gold = None
    try:
        answer = tex.parse(answer_text)
    except tex.OverBudget:
        return "too large"
    except tex.Unreadable:
        answer = None
    if gold is None or answer is None:
        return _by_latex2sympy(gold_text, answer_text, gold, answer)
    try:
        return "equal" if answer_compare.same(gold, answer, leaf) else "different"
    except TooLarge:
        return "too large"
    except Undefined:
        return "undefined"
    except (Undecided, TypeError, ValueError, NotImplementedError, AttributeError):
        return "undecided"


def leaf(gold: tuple, answer: tuple) -> bool:
    """Equality of two expressions: fields, then a numeric refuter, then algebra. Raises Undecided."""
    try:
        return answer_compare.field_leaf(gold, answer)
    except Undecided:
        pass
    try:
        return same_expressions(to_sympy(gold), to_sympy(answer))
    except Malformed:
        return gold == answer


def to_sympy(tree: tuple):
    """A tree of verifiers.tex as an unevaluated-where-dangerous sympy expression. Raises Undecided."""
    import sympy

    kind = tree[0]
    if kind == "num":
        return sympy.Rational(tree[1].numerator, tree[1].denominator)
    if kind == "sym":
        constant = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}.get(tree[1])
        return constant if constant is not None else sympy.Symbol(tree[1], real=True)
    if kind == "fn":
        return _function_to_sympy(tree)
    if kind == "unit" and tree[2] == "degree":
        return to_sympy(tree[1]) * sympy.pi / 180
    if kind not in ("add", "mul", "div", "neg", "pow", "root"):
        raise Malformed(f"a {kind} inside an expression")
    first = to_sympy(tree[1])
    if kind == "neg":
        return -first
    if kind == "root":
        # The real root of a negative number, as school mathematics has it.
        if tree[2] % 2 and first.is_negative:
            return -sympy.root(-first, tree[2])
        return sympy.root(first, tree[2])
    second = to_sympy(tree[2])
    if kind == "add":
        return first + second
    if kind == "mul":
        return first * second
    if kind == "div":
        if second == 0:
            raise Undefined("division by zero")
        return first / second
    if second.is_number and first.is_number and abs(second.evalf(5)) > 5000:
        raise TooLarge("exponent")
    if first == 0 and second.is_nonpositive:
        raise Undefined("zero to no positive power")
    return first**second


def _function_to_sympy(tree: tuple):
    import sympy

    name = tree[1]
    if name == "det":
        if tree[2][0] != "matrix":
            raise Malformed("a determinant of a name")
        rows = [[to_sympy(item) for item in row] for row in tree[2][1]]
        if len(rows) > 8:
            raise TooLarge("determinant")
        return sympy.Matrix(rows).det()
    arguments: list[Any] = [to_sympy(item) for item in tree[2:]]
    if name in ("log", "lg"):
        base = arguments[1] if len(arguments) > 1 else 10 if name == "lg" else None
        return sympy.log(arguments[0]) / sympy.log(base) if base is not None else sympy.log(arguments[0])
    if name in ("factorial", "binomial") and any(
        sympy.Abs(a.evalf(5)) > 3000 for a in arguments if a.is_number
    ):
        raise TooLarge(name)
    return getattr(sympy, _FUNCTIONS[name])(*arguments)


def same_expressions(gold, answer) -> bool:
    """Numbers at random points refute; algebra proves. Raises Undecided, Undefined."""
    import sympy

    for side in (gold, answer):
        if side.has(sympy.nan, sympy.zoo):
            raise Undefined("no value")
    if gold == answer:
        return True
    difference = gold - answer
    if not _numerically_zero(difference, gold):
        return False
    for attempt in _proofs():
        try:
            if attempt(difference) == 0:
                return True
        except (NotImplementedError, TypeError, ValueError, AttributeError):
            continue
    if _algebraic_zero(difference):
        return True
    raise Undecided("equal in 60 digits, and not shown equal")


def _proofs() -> list:
    """Rewritings that may turn a difference into 0, cheapest first."""
    import sympy

    return [
        sympy.expand,
        sympy.simplify,
        lambda d: sympy.simplify(sympy.expand_trig(d)),
        sympy.radsimp,
        sympy.sqrtdenest,
        lambda d: sympy.simplify(d.rewrite(sympy.exp)),
        lambda d: sympy.simplify(sympy.expand_log(d, force=True)),
    ]


def _numerically_zero(difference, gold) -> bool:
    """False where some point shows a difference, relative to the size of the gold there."""
    import sympy

    names = sorted(difference.free_symbols | gold.free_symbols, key=str)
    refuted_nowhere = 0
    for attempt in range(6):
        # The last two points are negative; what isn't real there, a root or a logarithm, is defined on the others.
        sign = 1 if attempt < 4 else -1
        point = {
            name: sign * sympy.Rational(2 * position + 5 + 3 * attempt, 7 + attempt)
            for position, name in enumerate(names)
        }
        try:
            value = difference.subs(point).evalf(_DIGITS, maxn=300)
            size = abs(gold.subs(point).evalf(_DIGITS, maxn=300))
            if not value.is_number or value.has(sympy.nan, sympy.zoo, sympy.oo):
                continue
            if sign < 0 and not (value.is_real and gold.subs(point).evalf(_DIGITS, maxn=300).is_real):
                continue
            if abs(value) > size * sympy.Float(10) ** (-40):
                return False
        except (TypeError, ValueError, NotImplementedError):
            continue
        refuted_nowhere += 1
        if not names:
            break
    if not refuted_nowhere:
        raise Undecided("no value at any point tried")
    return True


def _algebraic_zero(difference) -> bool:
    """A number whose minimal polynomial is x is 0."""
    import sympy

    if difference.free_symbols or not difference.is_algebraic:
        return False
    x = sympy.Symbol("x")
    try:
        return sympy.minimal_polynomial(difference, x) == x
    except (NotImplementedError, TypeError, ValueError):
        return False


def _by_latex2sympy(gold_text: str, answer_text: str, gold, answer) -> str:
    """What our grammar lacks (sums, integrals, limits) is parsed by latex2sympy2, then compared.

    Nothing else is: that parser passes over what it does not know, a subscript or a sign.
    """
    from latex2sympy2_extended import latex2sympy

    sides = []
    for text, tree in ((gold_text, gold), (answer_text, answer)):
        try:
            known = tree is not None or any(command in text for command in _BEYOND_US)
            sides.append(latex2sympy(text) if known else None)
        except Exception:
            sides.append(None)
    if sides[0] is None and gold is None:
        return "unreadable gold"
    if sides[0] is None or sides[1] is None:
        return "unreadable"
    left, right = sides
    import sympy

    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return "equal" if type(left) is type(right) and left == right else "different"
    try:
        return "equal" if same_expressions(left.doit(), right.doit()) else "different"
    except Undefined:
        return "undefined"
    except (Undecided, NotImplementedError, TypeError, ValueError, AttributeError):
        return "undecided"


def warm_up() -> None:
    """Use once what a child would else pay for at its first question."""
    for gold, answer in (
        (r"\tan^2(y)+1", r"\sec^2(y)"),
        (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"),
        (r"\sqrt[3]{16}", r"2\sqrt[3]{2}"),
        (r"\ln 8", r"3\ln 2"),
        (r"\sum_{k=1}^{3} k", "6"),
        ("2^{1/4}", r"\sqrt{\sqrt{2}}"),
    ):
        _decide(gold, answer)
