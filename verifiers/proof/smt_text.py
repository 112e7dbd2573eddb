"""What a response says about constraints: values of constants, that there are none, or a formula. Read by rules of our
own, so that no word of it is a command to the solver."""

# ruff: noqa: SIM905 - long word lists read better as words

import json
import re

MAX_DIGITS = 300
_MAX_TOKENS = 4000
_MAX_DEPTH = 150
_TOKEN = re.compile(r"\(|\)|\|[^|\\]{1,100}\||[^\s()|;\"]+")
_NUMBER = rf"-?\d{{1,{MAX_DIGITS}}}(?:(?:/|\.)\d{{1,{MAX_DIGITS}}})?|true|false|#b[01]{{1,1024}}|#x[0-9a-fA-F]{{1,256}}"
_ASSIGNMENT = re.compile(
    rf"(?<![\w.])([A-Za-z_][\w.!]*)\s*(?:=|:=|:|->|↦)\s*\(?\s*({_NUMBER})\s*\)?(?![\w./])"
)
_DEFINED = re.compile(
    rf"\(\s*define-fun\s+([^\s()]+)\s*\(\s*\)\s*(?:Int|Real|Bool|\(\s*_\s+BitVec\s+\d+\s*\))\s*"
    rf"(?:({_NUMBER})|\(\s*-\s*(\d{{1,{MAX_DIGITS}}}(?:\.\d{{1,{MAX_DIGITS}}})?)\s*\))\s*\)"
)
_UNSAT = re.compile(r"\s*(?:unsat(?:isfiable)?|no (?:solution|model))\s*\.?\s*", re.I)
OPERATORS = frozenset(
    """
    and or not => xor = distinct ite < <= > >= + - * div mod abs / true false to_real to_int _ concat extract
    bvnot bvneg bvand bvor bvxor bvadd bvsub bvmul bvudiv bvurem bvsdiv bvsrem bvshl bvlshr bvashr bvult
    bvule bvugt bvuge bvslt bvsle bvsgt bvsge zero_extend sign_extend rotate_left rotate_right
    """.split()
)


class Unreadable(ValueError):
    """The response is nothing of what was asked."""


def says_unsat(text: str) -> bool:
    """Is the whole answer that there is no model?"""
    return _UNSAT.fullmatch(text) is not None


def values(text: str) -> dict[str, str]:
    """name → number of a model written as "x = 3, y = -1/2", as JSON, or as define-fun. Raises Unreadable where a name
    has two values, or none has any."""
    found: dict[str, str] = {}
    for name, value in _pairs(text):
        name = name.strip("|")
        if found.setdefault(name, value) != value:
            raise Unreadable(f"{name} has the values {found[name][:40]} and {value[:40]}")
    if not found:
        raise Unreadable("no values, expected lines like x = 3")
    return found


def _pairs(text: str) -> list[tuple[str, str]]:
    if text.lstrip().startswith("{"):
        try:
            row = json.loads(text, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            return [(str(k), str(v).lower() if isinstance(v, bool) else str(v)) for k, v in row.items()]
    defined = [(m[1], m[2] or f"-{m[3]}") for m in _DEFINED.finditer(text)]
    return defined or [(m[1], m[2]) for m in _ASSIGNMENT.finditer(text)]


def formula(text: str, names: set[str]) -> str:
    """One term over the operators above and these names, written anew. Raises Unreadable."""
    tokens = _TOKEN.findall(text)
    if _TOKEN.sub("", text).strip():
        raise Unreadable("a character that no term has")
    if not tokens or len(tokens) > _MAX_TOKENS:
        raise Unreadable(f"a term of {len(tokens)} tokens")
    depth = 0
    for at, token in enumerate(tokens):
        depth += (token == "(") - (token == ")")
        if depth < 0 or depth > _MAX_DEPTH or (depth == 0 and at < len(tokens) - 1):
            raise Unreadable("not one term with its brackets closed")
        if token not in "()" and not _is_allowed(token, names):
            raise Unreadable(f"{token[:40]} is no constant of the problem and no operator")
    if depth:
        raise Unreadable("a bracket stays open")
    return " ".join(tokens)


def _is_allowed(token: str, names: set[str]) -> bool:
    is_number = re.fullmatch(_NUMBER.removeprefix("-?"), token) is not None
    return is_number or token in OPERATORS or token.strip("|") in names
