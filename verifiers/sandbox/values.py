"""A closed encoding for values that cross the sandbox: plain data of exact types, as JSON.

What comes out of a child is data of the types below and nothing else, so no object with methods of
its own (an `__eq__` that is always true) can reach a comparison. Decoding bounds size and depth.
"""

import collections
import json
from typing import Any

MAX_BYTES = 16 << 20
MAX_DEPTH = 150
MAX_NODES = 2_000_000
_SAFE_INT = 1 << 53
_TYPES: dict[str, type] = {
    t.__name__: t for t in (int, float, str, bool, list, tuple, dict, set, complex, bytes)
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_DICTS = (collections.OrderedDict, collections.defaultdict, collections.Counter)


class NotPlain(Exception):
    """The value is no plain data, or too large; the message says what it is."""


def encode(value, handle=None) -> bytes:
    """Plain data as bytes. Raises NotPlain.

    `handle(value)` gives a number for what is no plain data, where the receiver may refer to it.
    """
    budget = [MAX_NODES]
    try:
        text = json.dumps(_tagged(value, handle, 0, budget), separators=(",", ":"), allow_nan=False)
    except RecursionError as problem:
        raise NotPlain("a value nested too deeply") from problem
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_BYTES:
        raise NotPlain(f"a value of {len(encoded)} bytes")
    return encoded


def _tagged(value: Any, handle, depth: int, budget: list[int]) -> Any:
    budget[0] -= 1
    if depth > MAX_DEPTH or budget[0] < 0:
        raise NotPlain("a value nested too deeply" if depth > MAX_DEPTH else "a value of too many parts")
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        if -_SAFE_INT < value < _SAFE_INT:
            return value
        if value.bit_length() > 4 * MAX_BYTES:
            raise NotPlain(f"an integer of {value.bit_length()} bits")
        return {"i": hex(value)}
    if kind is float:
        return {"f": value.hex()}
    if kind is complex:
        return {"c": [value.real.hex(), value.imag.hex()]}
    if kind is bytes or kind is bytearray:
        return {"b": value.hex()}

    def inner(item):
        return _tagged(item, handle, depth + 1, budget)

    if kind is list or kind is collections.deque:
        return [inner(item) for item in value]
    if kind is tuple:
        return {"t": [inner(item) for item in value]}
    if kind is set or kind is frozenset:
        return {"s": [inner(item) for item in value]}
    if kind is dict or kind in _DICTS:
        return {"d": [[inner(key), inner(item)] for key, item in list(value.items())]}
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        return inner(value.tolist())
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return {"t": [inner(item) for item in tuple.__iter__(value)]}
    if kind is type and value in _NAMES:
        return {"y": _NAMES[value]}
    if handle is not None:
        return {"h": handle(value)}
    raise NotPlain(f"a value of type {kind.__module__}.{kind.__qualname__}"[:200])


def decode(encoded: bytes, handle=None) -> Any:
    """The value of an encoding. Raises NotPlain for anything that `encode` does not write."""
    try:
        return _plain(parse(encoded), handle, 0)
    except (ValueError, RecursionError, TypeError, KeyError, OverflowError) as problem:
        raise NotPlain(f"an encoding that cannot be read: {type(problem).__name__}") from problem


def parse(encoded: bytes) -> Any:
    """The tagged JSON of an encoding, before anything is built of it. Raises NotPlain, ValueError, RecursionError."""
    if len(encoded) > MAX_BYTES:
        raise NotPlain(f"an encoding of {len(encoded)} bytes, at most {MAX_BYTES}")
    return json.loads(encoded.decode("utf-8", "surrogatepass"), parse_constant=_refuse, parse_float=_refuse)


def _refuse(text):
    raise ValueError(text)


def _plain(tagged, handle, depth) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    if isinstance(tagged, list):
        return [_plain(item, handle, depth + 1) for item in tagged]
    if not isinstance(tagged, dict):
        if isinstance(tagged, float):
            raise ValueError("a bare float")
        return tagged
    if len(tagged) != 1:
        raise ValueError("not one tag")
    ((tag, body),) = tagged.items()
    if tag == "i":
        return int(body, 16)  # of a power of two: linear in the digits
    if tag == "f":
        return float.fromhex(body)
    if tag == "c":
        return complex(float.fromhex(body[0]), float.fromhex(body[1]))
    if tag == "b":
        return bytes.fromhex(body)
    if tag == "h" and handle is not None:
        return handle(int(body))
    if tag == "y":
        return _TYPES[body]
    if tag == "t":
        return tuple(_plain(item, handle, depth + 1) for item in body)
    if tag == "s":
        return {_plain(item, handle, depth + 1) for item in body}
    if tag == "d":
        return {_plain(k, handle, depth + 1): _plain(v, handle, depth + 1) for k, v in body}
    raise ValueError("unknown tag")
