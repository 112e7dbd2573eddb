"""Equality of encoded values with an expected one, in time linear in the size of the expected one.

What a candidate returned is never built: a set of integers that all hash alike would cost its square. Members of
sets and keys of dicts are compared as texts instead, whose hashes are seeded.
"""

import itertools
import json
import math

from verifiers.sandbox import values

_MOST_PER_BYTE = 40  # 1 may be returned as 1.0, [1] as (1,): the longest spelling of an equal value
_SPARE = 1000
_nans = itertools.count()  # none equals another


class Expected:
    """A value that was expected, prepared once. Raises values.NotPlain."""

    def __init__(self, value):
        encoded = values.encode(value)
        self._tagged = json.loads(encoded)
        self._longest = _MOST_PER_BYTE * len(encoded) + _SPARE

    def equals(self, encoded: bytes, tolerance: float = 0.0) -> bool:
        """Is the encoded value the expected one, as `values.same` would have it? Raises values.NotPlain."""
        if len(encoded) > self._longest:
            return False
        try:
            return _same(self._tagged, values.parse(encoded), tolerance)
        except (
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            RecursionError,
            OverflowError,
        ) as problem:
            raise values.NotPlain(f"an encoding that cannot be read: {type(problem).__name__}") from problem


def _same(a, b, tolerance: float) -> bool:
    if a is None or b is None or isinstance(a, bool | str) or isinstance(b, bool | str):
        return type(a) is type(b) and a == b
    x, y = _number(a), _number(b)
    if x is not None and y is not None:
        return _close(x, y, tolerance)
    (kind, left), (other, right) = _parts(a), _parts(b)
    if kind != other:
        return False
    if kind == "t":
        return len(left) == len(right) and all(
            _same(p, q, tolerance) for p, q in zip(left, right, strict=True)
        )
    if kind == "d":
        first, second = ({_text(key): item for key, item in pairs} for pairs in (left, right))
        return first.keys() == second.keys() and all(_same(v, second[k], tolerance) for k, v in first.items())
    return _text(a) == _text(b)


def _close(x: int | float, y: int | float, tolerance: float) -> bool:
    if x == y:
        return True
    if not tolerance or (isinstance(x, int) and isinstance(y, int)):
        return False
    try:
        return abs(x - y) <= tolerance * max(1.0, abs(x))
    except OverflowError:
        return False


def _number(tagged) -> int | float | None:
    if isinstance(tagged, int):
        return tagged
    if isinstance(tagged, dict) and len(tagged) == 1:
        if "i" in tagged:
            return int(tagged["i"], 16)
        if "f" in tagged:
            return float.fromhex(tagged["f"])
    return None


def _parts(tagged) -> tuple[str, list]:
    """(tag, body) of what is no number; lists and tuples are one kind."""
    if isinstance(tagged, list):
        return "t", tagged
    if isinstance(tagged, int):
        return "i", []
    ((tag, body),) = tagged.items()
    if tag not in ("t", "s", "d", "c", "b", "y", "i", "f"):
        raise ValueError("unknown tag")
    return tag, body


def _text(tagged) -> str:
    """Equal for values that Python finds equal as members of a set: 1, 1.0 and True are one."""
    if tagged is None or isinstance(tagged, str):
        return json.dumps(tagged)
    number = int(tagged) if isinstance(tagged, bool) else _number(tagged)
    if number is not None:
        return _number_text(number)
    tag, body = ("l", tagged) if isinstance(tagged, list) else _parts(tagged)
    if tag == "c":
        real, imaginary = map(float.fromhex, body)
        return _number_text(real) if imaginary == 0 else f"c({_number_text(real)},{_number_text(imaginary)})"
    if tag == "s":
        return f"s({','.join(sorted({_text(item) for item in body}))})"
    if tag == "t":
        return f"t({','.join(map(_text, body))})"
    if tag in ("b", "y"):
        return f"{tag}({json.dumps(body)})"
    raise TypeError("a member of a set that cannot be one")


def _number_text(number: int | float) -> str:
    if isinstance(number, float) and not number.is_integer():
        return f"n({f'nan {next(_nans)}' if math.isnan(number) else number.hex()})"
    return f"n({int(number):x})"
