"""Tests as text, from rows that bring inputs and a right program instead of asserts (EvalPlus's earlier files).

The text runs in the sandbox, in the tests' own process: the right program tells there what is expected.
"""

from __future__ import annotations

import ast
from typing import Any

_COMPARE = """
import copy
from math import inf, isnan, nan
def _same(found, wanted, atol):
    if isinstance(wanted, (list, tuple)) and isinstance(found, (list, tuple)):
        return len(found) == len(wanted) and all(_same(a, b, atol) for a, b in zip(found, wanted))
    if isinstance(wanted, float) and isinstance(found, (int, float)) and not isinstance(found, bool):
        return found == wanted or (isnan(found) and isnan(wanted)) or abs(found - wanted) <= max(atol, 1e-7 * abs(wanted))
    return type(found) == type(wanted) and found == wanted or found == wanted
"""


def against_solution(row: dict, solution: str, examples: str = "") -> str:
    """Test text that compares `entry_point` with the right program on base_input and plus_input; "" without inputs.

    examples: asserts whose literals show what JSON cannot tell, tuples and sets, and whether order counts.
    """
    inputs = [*(row.get("base_input") or []), *(row.get("plus_input") or [])]
    name = row.get("entry_point")
    if not inputs or not name:
        return ""
    shapes, is_set = _shown(examples, name)
    given = [
        [_like(shapes[i] if i < len(shapes) else None, a) for i, a in enumerate(arguments)]
        for arguments in inputs
    ]
    wrap = "set" if is_set else ""
    return (
        f"{_COMPARE}\n_known = {{}}\nexec({solution!r}, _known)\nfor _given in {given!r}:\n"
        f"    _wanted = _known[{name!r}](*copy.deepcopy(_given))\n"
        f"    assert _same({wrap}({name}(*copy.deepcopy(_given))), {wrap}(_wanted), {float(row.get('atol') or 0)!r})\n"
    )


def _shown(examples: str, name: str) -> tuple[list[Any], bool]:
    """(the arguments of the first call of the function, whether its results are compared as sets)."""
    try:
        calls = [node for node in ast.walk(ast.parse(examples)) if isinstance(node, ast.Call)]
    except SyntaxError:
        return [], False
    own = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == name]
    in_set = any(
        isinstance(c.func, ast.Name) and c.func.id == "set" and c.args and c.args[0] in own for c in calls
    )
    shapes = []
    for argument in own[0].args if own else []:
        try:
            shapes.append(ast.literal_eval(argument))
        except ValueError:
            shapes.append(None)
    return shapes, in_set


def _like(shape: Any, value: Any) -> Any:
    """The JSON value with the types of an example: lists that are tuples or sets there."""
    if isinstance(value, list) and isinstance(shape, list | tuple | set):
        parts = list(shape)
        same = len(parts) == len(value)
        inner = [
            _like(parts[i] if same else parts[0] if parts else None, item) for i, item in enumerate(value)
        ]
        return type(shape)(inner)
    if isinstance(value, dict) and isinstance(shape, dict) and shape:
        first = next(iter(shape.values()))
        return {key: _like(shape.get(key, first), item) for key, item in value.items()}
    if isinstance(value, str) and isinstance(shape, complex):
        return complex(value)
    return value


def function_under_test(solution: str, asserts: list[str]) -> str | None:
    """The one function or class of the right program that every assert calls; None where that is not one."""
    try:
        defined = {n.name for n in ast.parse(solution).body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        called = [
            {
                n.func.id
                for n in ast.walk(ast.parse(a))
                if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
            }
            for a in asserts
        ]
    except (SyntaxError, ValueError, RecursionError):
        return None
    common = defined.intersection(*called) if called else set()
    return common.pop() if len(common) == 1 else None
