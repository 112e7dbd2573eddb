"""The solver's side of constraints, inside the sandbox: z3 reads the reference, and the response as smt_text has read it."""

import json
from collections.abc import Sequence
from functools import lru_cache

import z3

from verifiers.proof import smt_text

_NOTES = 200  # characters of a model in a message


def answer(payload: bytes) -> bytes:
    """A question {statement, ask, said} as JSON → [status, reason, detail] as JSON."""
    question = json.loads(payload)
    try:
        asserted, names = _read(statement := question["statement"])
    except z3.Z3Exception as problem:
        return _reply("error", "internal_error", f"the reference: {str(problem)[:200]}")
    functions = [name for name, term in names.items() if term is None]
    if functions or not asserted:
        return _reply(
            "error", "internal_error", f"the reference: expected constants and asserts, got {functions[:3]}"
        )
    check = {"model": _model, "formula": _formula}.get(question["ask"])
    if check is None:
        return _reply(
            "error", "internal_error", f"unknown question {question['ask']!r}, expected model or formula"
        )
    return check(statement, question["said"])


@lru_cache(maxsize=256)
def _read(statement: str) -> tuple[tuple, dict]:
    """What a statement asserts, and its constants; kept, since many answers to one statement come together."""
    asserted = tuple(z3.parse_smt2_string(statement))  # pyright: ignore[reportArgumentType]
    return asserted, _constants(asserted)


def _reply(status: str, reason: str, detail: str = "") -> bytes:
    return json.dumps([status, reason, detail]).encode()


def _constants(terms: Sequence) -> dict:
    """name → the constant; None for a function with arguments."""
    found, seen, stack = {}, set(), list(terms)
    while stack:
        term = stack.pop()
        if term.get_id() in seen:
            continue
        seen.add(term.get_id())
        if z3.is_app(term) and term.decl().kind() == z3.Z3_OP_UNINTERPRETED:
            found[term.decl().name()] = term if term.num_args() == 0 else None
        stack.extend(term.children() if not z3.is_quantifier(term) else [term.body()])
    return found


def _model(statement: str, said: str) -> bytes:
    if smt_text.says_unsat(said):
        return _unsat(statement)
    asserted, names = _read(statement)
    try:
        given = smt_text.values(said)
    except smt_text.Unreadable as problem:
        return _reply("no_answer", "unparseable", str(problem))
    missing = sorted(set(names) - set(given))
    if missing:
        return _reply("incorrect", "wrong", f"{missing[0]} has no value")
    pairs = []
    for name, constant in names.items():
        value = _value(given[name], constant.sort())
        if value is None:
            return _reply("incorrect", "wrong", f"{name} = {given[name][:40]} is no {constant.sort()}")
        pairs.append((constant, value))
    for number, term in enumerate(asserted, start=1):
        left = z3.simplify(z3.substitute(term, *pairs))
        if not z3.is_true(left) and (z3.is_false(left) or not _holds(left)):
            return _reply("incorrect", "wrong", f"constraint {number} of {len(asserted)} does not hold")
    return _reply("correct", "ok")


def _holds(term) -> bool:
    solver = z3.Solver()
    solver.add(z3.Not(term))
    return solver.check() == z3.unsat


@lru_cache(maxsize=256)
def _unsat(statement: str) -> bytes:
    solver = z3.Solver()
    solver.add(*_read(statement)[0])
    found = solver.check()
    if found == z3.unsat:
        return _reply("correct", "ok")
    if found == z3.sat:
        return _reply("incorrect", "wrong", f"there is a model: {_shown(solver.model())}")
    return _reply("error", "internal_error", f"the solver does not know: {solver.reason_unknown()}")


def _formula(statement: str, said: str) -> bytes:
    asserted, names = _read(statement)
    try:
        text = smt_text.formula(said, set(names))
        given = z3.parse_smt2_string(f"(assert {text}\n)", decls=names)[0]
    except (smt_text.Unreadable, z3.Z3Exception) as problem:
        return _reply("incorrect", "unparseable", str(problem)[:200])
    solver = z3.Solver()
    solver.add(z3.And(asserted) != given)
    found = solver.check()
    if found == z3.unsat:
        return _reply("correct", "ok")
    if found == z3.sat:
        return _reply("incorrect", "wrong", f"it differs at {_shown(solver.model())}")
    return _reply("incorrect", "refused", f"the solver cannot decide it: {solver.reason_unknown()}")


def _shown(model) -> str:
    return ", ".join(f"{d.name()} = {model[d]}" for d in sorted(model.decls(), key=str))[:_NOTES]


def _value(text: str, sort):
    """The number of a sort, None where it is none."""
    if sort.kind() == z3.Z3_BOOL_SORT:
        return z3.BoolVal(text == "true") if text in ("true", "false") else None
    if text in ("true", "false"):
        return None
    if sort.kind() == z3.Z3_BV_SORT:
        bits, whole = sort.size(), _whole(text)
        if text.startswith("#") and len(text[2:]) * (4 if text[1] == "x" else 1) != bits:
            return None
        return (
            z3.BitVecVal(whole, bits) if whole is not None and -(1 << bits - 1) <= whole < 1 << bits else None
        )
    if text.startswith("#"):
        return None
    if sort.kind() == z3.Z3_REAL_SORT:
        return None if text.endswith(("/", ".")) or _is_zero_division(text) else z3.RealVal(text)
    if sort.kind() == z3.Z3_INT_SORT:
        return z3.IntVal(text) if _whole(text) is not None else None
    return None


def _is_zero_division(text: str) -> bool:
    return "/" in text and not text.partition("/")[2].strip("0")


def _whole(text: str) -> int | None:
    try:
        return int(text[2:], 2 if text[1] == "b" else 16) if text.startswith("#") else int(text)
    except ValueError:
        return None
