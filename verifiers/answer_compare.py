"""Typed comparison of two answers as trees: a set is no tuple, 10 cm is not 10 m, 7=5 is not 5.

Which expressions are equal is asked of `leaf(gold, answer) -> bool`; which kinds of things may be
equal at all is decided here.
"""

import itertools
from collections.abc import Callable
from fractions import Fraction

from verifiers import fields
from verifiers.answer_text import Quantity, same_quantity, same_units
from verifiers.fields import NoImage, TooLarge, Undefined
from verifiers.relations import FLIPPED, INFINITE, REALS, assignments, interval, names_something, real_set

Leaf = Callable[[tuple, tuple], bool]
_MAX_ITEMS = 100
_SETS_OF_REALS = frozenset(("union", "meet", "minus", "rel", "list"))
_DOTS = ("dots",)
_FUNCTIONS = tuple(("sym", letter) for letter in "fgh")
_EXPRESSIONS = frozenset(("num", "sym", "add", "neg", "mul", "div", "pow", "root", "fn"))


class Undecided(Exception):
    """Neither equality nor difference could be shown."""


class Malformed(Undecided):
    """A unit, a relation or an infinity where only an expression has a meaning: "3% 9", "1(x<2)"."""


def field_leaf(gold: tuple, answer: tuple) -> bool:
    """Equality where the fields of verifiers.fields decide it. Raises Undecided; TooLarge."""
    if gold[0] in ("text", "inf") or answer[0] in ("text", "inf"):
        return gold == answer
    try:
        return fields.equal(gold, answer)
    except NoImage as problem:
        if gold == answer:
            return True
        raise Undecided(str(problem)) from problem


def same(gold: tuple, answer: tuple, leaf: Leaf) -> bool:
    """Is the answer the gold? Raises Undecided, TooLarge, Undefined (0/0 and the like, on any side)."""
    said, replied = _conclusion(gold), _conclusion(answer)
    if said is None or replied is None:
        return False
    gold, answer = said, replied
    if gold == answer and gold[0] not in _EXPRESSIONS:
        return True
    if (named := _same_assignments(gold, answer, leaf)) is not None:
        return named
    if gold[0] == answer[0] == "rel" and (gold[2] == ("in",)) == (answer[2] == ("in",)):
        return _same_relations(gold, answer, leaf)
    gold, answer = _value(gold, leaf), _value(answer, leaf)
    kinds = {gold[0], answer[0]}
    if kinds & _SETS_OF_REALS or REALS in (gold, answer):
        reals = real_set(gold), real_set(answer)
        if None not in reals:
            return reals[0] == reals[1]
    if "rel" in kinds:
        return False
    if kinds & {"list", "set", "pm"}:
        return _same_collections(gold, answer, leaf)
    if "tuple" in kinds:
        return gold[0] == answer[0] and _same_tuples(gold, answer, leaf)
    if "matrix" in kinds:
        return gold[0] == answer[0] and _same_matrices(gold, answer, leaf)
    if kinds & {"union", "meet", "minus"}:
        return gold[0] == answer[0] and _same_unions(gold, answer, leaf)
    if "ratio" in kinds:
        return _same_ratios(gold, answer, leaf)
    if "unit" in kinds:
        return _same_units(gold, answer, leaf)
    if "based" in kinds:
        return _same_based(gold, answer)
    if "text" in kinds:
        return gold[0] == answer[0] and same_words(gold[1], answer[1])
    if gold in INFINITE or answer in INFINITE:
        return gold == answer
    return leaf(gold, answer)


def _conclusion(tree: tuple) -> tuple | None:
    """What a chain states: "x = 1+1 = 2" → x = 2. None for a chain that contradicts itself (y=3=5)."""
    if tree[0] != "rel":
        return tree
    sides, signs = tree[1], tree[2]
    while signs and signs[-1] == "~" and not (len(signs) == 1 and names_something(sides[0])):
        # "9.5/3.14 ≈ 3.01": the exact side is the answer; "y ≈ 2.4" has no other.
        sides, signs = sides[:-1], signs[:-1]
    if not signs:
        return sides[0]
    signs = ("=",) if signs == ("~",) else signs
    if "~" in signs or set(signs) != {"="} or len(signs) == 1:
        return ("rel", sides, signs)
    for left, right in itertools.pairwise(sides[1:]):
        try:
            if not fields.equal(left, right):
                return None
        except (NoImage, Undefined):
            return None
    return ("rel", (sides[0], sides[-1]), ("=",))


def _same_assignments(gold: tuple, answer: tuple, leaf: Leaf) -> bool | None:
    """x=1, y=2 against (x,y)=(1,2), y=2, x=1, (1,2) or 1,2, either way round; None where neither assigns."""
    named, others = assignments(gold), assignments(answer)
    if named is not None and others is not None:
        values = dict(others)
        return dict(named).keys() == values.keys() and all(same(a, values[name], leaf) for name, a in named)
    if named is None and others is None:
        return None
    plain = answer if named is not None else gold
    items = plain[1] if plain[0] == "list" else plain[2] if plain[0] == "tuple" and plain[1] == "(" else ()
    if len(items) != len(named or others or ()) or any(item[0] in ("rel", "tuple") for item in items):
        return None
    if named is not None:
        return _pairwise(tuple(value for _, value in named), items, leaf)
    return _pairwise(items, tuple(value for _, value in others or ()), leaf)


def _same_ratios(gold: tuple, answer: tuple, leaf: Leaf) -> bool:
    """3:4 is 6:8 and 3/4; 12:30 is a time of day."""
    parts = [tree[1] if tree[0] == "ratio" else (tree, ("num", Fraction(1))) for tree in (gold, answer)]
    if any(map(_is_time, (gold, answer))) or any(item[0] == "unit" for part in parts for item in part):
        return gold[0] == answer[0] and _pairwise(parts[0], parts[1], leaf)
    if len(parts[0]) != len(parts[1]) or any(item[0] not in _EXPRESSIONS for part in parts for item in part):
        return False
    (first, *rest), (other, *others) = parts
    return all(leaf(("mul", a, other), ("mul", b, first)) for a, b in zip(rest, others, strict=True))


def _is_time(tree: tuple) -> bool:
    if tree[0] != "ratio" or not all(part[0] == "num" and part[1].denominator == 1 for part in tree[1]):
        return False
    hour, *minutes = (part[1] for part in tree[1])
    return 0 <= hour <= 24 and all(10 <= minute < 60 for minute in minutes)


def same_words(gold: str, answer: str) -> bool:
    """Are two texts the same but for case, a leading article, plurals and hyphens?"""
    words = []
    for text in (gold, answer):
        said = text.casefold().replace("-", " ").split()
        said = said[1:] if len(said) > 1 and said[0] in ("a", "an", "the") else said
        words.append([word.strip(".,'").removesuffix("s") for word in said])
    return words[0] == words[1]


def _is_expression(tree: tuple) -> bool:
    if tree[0] not in _EXPRESSIONS:
        return False
    return tree[0] == "fn" or all(_is_expression(p) for p in tree[1:] if isinstance(p, tuple))


def _value(tree: tuple, leaf: Leaf) -> tuple:
    """The value that a relation with a name states, to be compared with what is no relation."""
    if tree[0] in ("mul", "neg", "div"):
        return _scaled(tree) or tree
    if tree[0] != "rel":
        return tree
    sides, signs = tree[1], tree[2]
    if signs in (("=",), ("in",)) and names_something(sides[0]):
        return sides[1]
    if signs == ("=",) and names_something(sides[1]):
        return sides[0]
    named = [side for side in sides if side[0] == "unit" and side[2] not in ("%", "degree")]
    bare = [side[1] if side in named else side for side in sides]
    if signs == ("=",) and len(named) < 2 and all(map(_is_expression, bare)):
        # "sqrt(4) = 2" is true and says 2, "6 + 9 = 15 balls" 15 balls; "7 = 5" is not, and says nothing.
        try:
            if leaf(*bare):
                return named[0] if named else sides[1]
        except Malformed:
            return tree
    between = interval(tree)
    return between if between is not None else tree


def _scaled(tree: tuple) -> tuple | None:
    """The matrix that a number times a matrix is; None for other products."""
    if tree[0] == "neg":
        factor, matrix = ("num", Fraction(-1)), tree[1]
    elif tree[0] == "div":
        factor, matrix = ("div", ("num", Fraction(1)), tree[2]), tree[1]
    else:
        factor, matrix = (tree[2], tree[1]) if tree[1][0] == "matrix" else (tree[1], tree[2])
    if matrix[0] != "matrix" or not _is_expression(factor):
        return None
    return ("matrix", tuple(tuple(("mul", factor, item) for item in row) for row in matrix[1]))


def _same_relations(gold: tuple, answer: tuple, leaf: Leaf) -> bool:
    if gold == answer:
        return True
    signs = {gold[2], answer[2]}
    if signs == {("=",)}:
        (a, b), (c, d) = gold[1], answer[1]
        if names_something(a) and names_something(c) and (a == c or _is_graph(a, c)):
            return same(b, d, leaf)
        try:
            return fields.proportional(("add", a, ("neg", b)), ("add", c, ("neg", d)))
        except (NoImage, Undefined) as problem:
            if not all(map(_is_expression, answer[1])):
                return False
            if a == c or b == d:
                return leaf(b, d) if a == c else leaf(a, c)
            raise Undecided(f"two equations: {problem}") from problem
    if signs == {("in",)}:
        return gold[1][0] == answer[1][0] and same(gold[1][1], answer[1][1], leaf)
    left, right = interval(gold), interval(answer)
    if left is not None and right is not None:
        return _same_tuples(left, right, leaf)
    if len(gold[2]) == 1 and len(answer[2]) == 1:
        return _same_inequalities(gold, answer)
    if gold[2] == answer[2] and len(gold[1]) == len(answer[1]):
        return _pairwise(gold[1], answer[1], leaf)
    return False


def _is_graph(left: tuple, right: tuple) -> bool:
    """y and f(x): two names of a function's value."""
    names = [tree for tree in (left, right) if tree != ("sym", "y")]
    return len(names) == 1 and names[0][0] == "mul" and names[0][1] in _FUNCTIONS and names[0][2][0] == "sym"


def _same_inequalities(gold: tuple, answer: tuple) -> bool:
    """l < r against l' < r': the differences are positive multiples of each other."""
    differences, strict = [], []
    for (left, right), (sign,) in ((gold[1], gold[2]), (answer[1], answer[2])):
        if sign in (">", ">="):
            left, right, sign = right, left, FLIPPED[sign]
        differences.append(("add", left, ("neg", right)))
        strict.append(sign)
    if strict[0] != strict[1]:
        return False
    try:
        if not fields.proportional(*differences):
            return False
        point = {
            name: Fraction(3 + 2 * n, 7) for n, name in enumerate(sorted(fields.symbols(differences[0])))
        }
        first, second = (fields.rational(_at(tree, point)) for tree in differences)
    except NoImage as problem:
        raise Undecided(f"two inequalities: {problem}") from problem
    if first == 0 or second == 0:
        raise Undecided("two inequalities that meet at the point tried")
    return (first > 0) == (second > 0)


def _at(tree: tuple, point: dict[str, Fraction]) -> tuple:
    if tree[0] == "sym":
        return ("num", point[tree[1]]) if tree[1] in point else tree
    return tuple(_at(p, point) if isinstance(p, tuple) and p and isinstance(p[0], str) else p for p in tree)


def _items(tree: tuple) -> list[tuple] | None:
    """The members of a list, set or ± expression, in order; None where there is no such thing."""
    if tree[0] in ("list", "set"):
        found: list[tuple] = []
        for item in tree[1]:
            found += _items(item) or [item]
        return found
    if (
        tree[0] == "rel"
        and tree[2] == ("=",)
        and names_something(tree[1][0])
        and tree[1][1][0] in ("list", "pm")
    ):
        return _items(tree[1][1])
    expanded = _plus_minus(tree)
    return expanded if len(expanded) > 1 else None


def _plus_minus(tree: tuple) -> list[tuple]:
    """Both readings of the first ±: all ± of an expression go the same way."""
    plus, minus = _signed(tree, False), _signed(tree, True)
    return [plus] if plus == minus else [plus, minus]


def _signed(tree: tuple, minus: bool) -> tuple:
    if tree[0] == "pm":
        right = _signed(tree[2], minus)
        return ("add", _signed(tree[1], minus), ("neg", right) if minus else right)
    return tuple(
        _signed(part, minus) if isinstance(part, tuple) and part and isinstance(part[0], str) else part
        for part in tree
    )


def _same_collections(gold: tuple, answer: tuple, leaf: Leaf) -> bool:
    if (gold[0] == "set" and answer[0] == "tuple") or (gold[0] == "tuple" and answer[0] == "set"):
        return False
    if (gold[0], answer[0]) in (("tuple", "list"), ("list", "tuple")):
        # "1, 2" without its brackets, or with them, in the same order.
        pair = gold if gold[0] == "tuple" else answer
        items = [tree[2] if tree[0] == "tuple" else tree[1] for tree in (gold, answer)]
        if pair[1] == "(" and pair[3] == ")" and len(items[0]) == len(items[1]):
            return _pairwise(items[0], items[1], leaf)
    left, right = _items(gold), _items(answer)
    if left is None:
        left = [gold]
    if right is None:
        right = [answer]
    if len(left) != len(right):
        left, right = _grouped(left), _grouped(right)
    if max(len(left), len(right)) > _MAX_ITEMS:
        raise TooLarge("collection")
    if _DOTS in left or _DOTS in right:
        return _pairwise(tuple(left), tuple(right), leaf)
    # As sets: a member named twice counts once, a member too many or too few is wrong.
    missing = list(range(len(right)))
    for item in left:
        found = [position for position, other in enumerate(right) if same(item, other, leaf)]
        if not found:
            return False
        missing = [position for position in missing if position not in found]
    return not missing


def _grouped(items: list[tuple]) -> list[tuple]:
    """p=5, q=2, p=7, q=2 as (5, 2), (7, 2): assignments that begin again with the first name."""
    if not items or not all(i[0] == "rel" and i[2] == ("=",) and i[1][0][0] == "sym" for i in items):
        return items
    first = items[0][1][0]
    width = next((n for n, item in enumerate(items) if n and item[1][0] == first), 0)
    if width < 2 or len(items) % width:
        return items
    rows = [items[n : n + width] for n in range(0, len(items), width)]
    if any([i[1][0] for i in row] != [i[1][0] for i in rows[0]] for row in rows):
        return items
    return [("tuple", "(", tuple(i[1][1] for i in row), ")") for row in rows]


def _pairwise(gold: tuple, answer: tuple, leaf: Leaf) -> bool:
    return len(gold) == len(answer) and all(same(a, b, leaf) for a, b in zip(gold, answer, strict=True))


def _same_tuples(gold: tuple, answer: tuple, leaf: Leaf) -> bool:
    return gold[1] == answer[1] and gold[3] == answer[3] and _pairwise(gold[2], answer[2], leaf)


def _same_matrices(gold: tuple, answer: tuple, leaf: Leaf) -> bool:
    return len(gold[1]) == len(answer[1]) and all(
        _pairwise(row, other, leaf) for row, other in zip(gold[1], answer[1], strict=True)
    )


def _same_unions(gold: tuple, answer: tuple, leaf: Leaf) -> bool:
    if gold[0] != "union":
        return same(gold[1], answer[1], leaf) and same(gold[2], answer[2], leaf)
    parts = [[], []]
    for tree, found in ((gold, parts[0]), (answer, parts[1])):
        stack = [tree]
        while stack:
            top = stack.pop()
            if top[0] == "union":
                stack += [top[1], top[2]]
            else:
                found.append(top)
    return len(parts[0]) == len(parts[1]) and all(any(same(a, b, leaf) for b in parts[1]) for a in parts[0])


def _same_units(gold: tuple, answer: tuple, leaf: Leaf) -> bool:
    """As same_quantity, for values that are no plain numbers; the question may imply the unit."""
    gold, gold_unit = (gold[1], gold[2]) if gold[0] == "unit" else (gold, "")
    answer, answer_unit = (answer[1], answer[2]) if answer[0] == "unit" else (answer, "")
    if "text" in (gold[0], answer[0]):
        return False
    try:
        values = fields.rational(gold), fields.rational(answer)
        if gold_unit == answer_unit and gold_unit.startswith("mod ") and gold_unit[4:].isdigit():
            return (values[0] - values[1]) % max(1, int(gold_unit[4:])) == 0
        return same_quantity(Quantity(values[0], gold_unit), Quantity(values[1], answer_unit))
    except NoImage:
        pass
    if {gold_unit, answer_unit} == {"degree", ""} or {gold_unit, answer_unit} == {"degree", "radian"}:
        # 120 degrees and 2 pi / 3 are one angle
        turned = [("mul", tree, ("div", ("sym", "pi"), ("num", Fraction(180)))) if unit == "degree" else tree
                  for tree, unit in ((gold, gold_unit), (answer, answer_unit))]  # fmt: skip
        if all(map(_is_expression, turned)) and leaf(turned[0], turned[1]):
            return True
    if not same_units(gold_unit, answer_unit):
        return False
    return same(gold, answer, leaf)


def _same_based(gold: tuple, answer: tuple) -> bool:
    """Digits in a base; the base may be left out, as the question names it."""
    if gold[0] == answer[0]:
        return gold == answer
    other = answer if gold[0] == "based" else gold
    based = gold if gold[0] == "based" else answer
    return gold[0] == "based" and other == ("num", based[1])
