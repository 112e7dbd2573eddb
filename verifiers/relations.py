"""What relations state: the value of a name, an interval, a set of reals, several assignments."""

import itertools
from fractions import Fraction

from verifiers import fields

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
INFINITE = (("inf",), ("neg", ("inf",)))
REALS = ("sym", "mathbb(R)")
_MAX_PARTS = 50

# An interval of rationals and infinities: ((low, 0 closed | 1 open), (high, 0 closed | -1 open)). So ends sort.
Ends = tuple[tuple[float | Fraction, int], tuple[float | Fraction, int]]
_ALL: Ends = ((-float("inf"), 1), (float("inf"), -1))


def names_something(tree: tuple) -> bool:
    """x, x_1, f(x), f^{-1}(x), (p, q), NO/BO, |AB|: a left side that says what the value is of."""
    if tree[0] == "tuple":
        return all(names_something(item) for item in tree[2])
    if tree[0] in ("mul", "div"):
        return names_something(tree[1]) and names_something(tree[2])
    if tree[0] == "pow":
        return tree[1][0] == "sym" and tree[2] == ("neg", ("num", Fraction(1)))
    if tree[0] == "ratio":
        return all(names_something(item) for item in tree[1])
    if tree[0] == "fn":
        return tree[1] in ("abs", "det", "max", "min") and all(map(names_something, tree[2:]))
    if tree[0] == "text":
        return True
    return tree[0] == "sym" and tree[1] not in ("pi", "e", "i")


def interval(tree: tuple) -> tuple | None:
    """1 < x <= 3 as the tree of (1, 3], x > 5 as that of (5, oo); None for other relations."""
    sides, signs = tree[1], tree[2]
    if not all(sign in FLIPPED for sign in signs):
        return None
    if signs[0] in (">", ">="):
        sides, signs = sides[::-1], tuple(FLIPPED[sign] for sign in signs[::-1])
    if not all(sign in ("<", "<=") for sign in signs):
        return None
    if len(sides) == 2 and _is_distance(sides[1]):
        return None  # |x| > 1 is no interval
    if len(sides) == 2 and _is_distance(sides[0]):
        sides, signs = (("neg", sides[1]), sides[0][2], sides[1]), signs * 2  # |x| < 2
    if len(sides) == 2:
        if names_something(sides[0]):
            sides, signs = (("neg", ("inf",)), *sides), ("<", *signs)
        elif names_something(sides[1]):
            sides, signs = (*sides, ("inf",)), (*signs, "<")
        else:
            return None
    if len(sides) != 3 or not names_something(sides[1]):
        return None
    return ("tuple", "(" if signs[0] == "<" else "[", (sides[0], sides[2]), ")" if signs[1] == "<" else "]")


def _is_distance(tree: tuple) -> bool:
    return tree[0] == "fn" and tree[1] == "abs" and tree[2][0] == "sym"


def assignments(tree: tuple) -> list[tuple[tuple, tuple]] | None:
    """(name, value) of x=1,y=2 and of (x,y)=(1,2), whose names are distinct; None for anything else."""
    if tree[0] == "rel" and tree[2] == ("=",) and tree[1][0][0] == tree[1][1][0] == "tuple":
        names, values = tree[1][0][2], tree[1][1][2]
        if len(names) != len(values):
            return None
    elif tree[0] in ("list", "tuple"):
        items = tree[1] if tree[0] == "list" else tree[2]
        if not all(item[0] == "rel" and item[2] == ("=",) for item in items):
            return None
        names, values = zip(*(item[1] for item in items), strict=True) if items else ((), ())
    else:
        return None
    if len(names) < 2 or len(set(names)) < len(names) or not all(map(names_something, names)):
        return None
    return list(zip(names, values, strict=True))


def real_set(tree: tuple) -> list[Ends] | None:
    """The disjoint intervals, in order, of a set of reals with rational ends; None where it is no such set."""
    try:
        parts = _parts(tree)
    except (fields.NoImage, fields.Undefined, fields.TooLarge):
        return None
    return None if parts is None or len(parts) > _MAX_PARTS else _merged(parts)


def _parts(tree: tuple) -> list[Ends] | None:
    kind = tree[0]
    if tree == REALS:
        return [_ALL]
    if kind == "tuple" and len(tree[2]) == 2:
        low, high = map(_end, tree[2])
        ends = (low, 1 if tree[1] == "(" else 0), (high, -1 if tree[3] == ")" else 0)
        return [ends] if low < high else None
    if kind == "set":
        return [((value, 0), (value, 0)) for value in map(fields.rational, tree[1])]
    if kind in ("union", "meet", "minus"):
        left, right = real_set(tree[1]), real_set(tree[2])
        if left is None or right is None:
            return None
        return left + right if kind == "union" else _meet(left, right if kind == "meet" else _rest(right))
    if kind == "rel" and tree[2] == ("!=",) and names_something(tree[1][0]):
        value = fields.rational(tree[1][1])
        return _rest([((value, 0), (value, 0))])
    if kind == "rel" and tree[2] == ("in",) and names_something(tree[1][0]):
        return real_set(tree[1][1])
    if kind == "rel":
        if tree[2] in ((">",), (">=",)) and _is_distance(tree[1][0]):
            inside = _parts(("rel", tree[1], ("<=",) if tree[2] == (">",) else ("<",)))
            return _rest(inside) if inside else None
        between = interval(tree)
        return None if between is None else _parts(between)
    if kind == "list" and all(item[0] == "rel" and set(item[2]) <= {*FLIPPED, "!="} for item in tree[1]):
        return _conditions(tree[1])
    return None


def _conditions(items: tuple) -> list[Ends] | None:
    """x < 1 or x > 2 is a union; x > 1, x < 2 and x > 1, x != 2, which overlap, hold at once."""
    found = [real_set(item) for item in items]
    if any(part is None for part in found):
        return None
    both = found[0] or []
    for part in found[1:]:
        both = _meet(both, part or [])
    return both or [ends for part in found for ends in part or []]


def _end(tree: tuple) -> float | Fraction:
    if tree in INFINITE:
        return float("inf") if tree == INFINITE[0] else -float("inf")
    return fields.rational(tree)


def _merged(parts: list[Ends]) -> list[Ends]:
    merged: list[Ends] = []
    for low, high in sorted(parts):
        # [1, 2) and [2, 3] touch: 2 is in one of them.
        if merged and (
            low <= merged[-1][1] or (low[0] == merged[-1][1][0] and low[1] - merged[-1][1][1] < 2)
        ):
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return merged


def _meet(left: list[Ends], right: list[Ends]) -> list[Ends]:
    both = ((max(a[0], b[0]), min(a[1], b[1])) for a, b in itertools.product(left, right))
    return [ends for ends in both if ends[0] <= ends[1]]


def _rest(parts: list[Ends]) -> list[Ends]:
    """The reals outside."""
    found, low = [], _ALL[0]
    for start, end in _merged(parts):
        found.append((low, (start[0], start[1] - 1)))
        low = (end[0], end[1] + 1)
    found.append((low, _ALL[1]))
    return [
        ends
        for ends in found
        if ends[0] <= ends[1] and not (ends[0][0] == ends[1][0] and ends[0][1] != ends[1][1])
    ]
