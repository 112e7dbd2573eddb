"""Proofs and constraints: what a response proved, checked by Coq, Lean or an SMT solver behind the sandbox's walls.

import verifiers
verifiers.verify("proof", "intros. lia.", {"system": "coq", "statement": "forall n : nat, n + 0 = n",
                                           "header": "From Coq Require Import Lia."}).status   # "correct"
"""

import functools
import importlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from verifiers.fences import blocks
from verifiers.proof.task import Checked, Step, Task, failed, refused
from verifiers.sandbox.pool import SlotFailed
from verifiers.verdict import Verdict, failure

__all__ = ["SYSTEMS", "Checked", "Step", "Task", "dead_end", "proof", "report", "systems_here"]

MAX_CHARS = 100_000
_MAX_KEPT = 20_000


class System(NamedTuple):
    """A checker: where its check(task, proof, is_prefix) is, the languages of its fenced blocks, and what it proves
    itself on before its first verdict: a task, a right proof and a wrong one. install: how it is had."""

    module: str
    languages: tuple[str, ...]
    task: Task
    right: str
    wrong: str
    install: str


SYSTEMS = {
    "coq": System(
        "verifiers.proof.coq", ("coq", "rocq", "gallina"), Task("coq", "forall n : nat, n = n"),
        "intros n. reflexivity.", "intros n.", "bash launch/coq.sh",
    ),
    "lean": System(
        "verifiers.proof.lean", ("lean", "lean4"), Task("lean", "∀ n : Nat, n = n"),
        "intro n\nrfl", "intro n", "bash launch/lean.sh",
    ),
    "smt": System(
        "verifiers.proof.smt", ("smt", "smt2", "smtlib", "smt-lib", "json"),
        Task("smt", "(declare-const x Int)(assert (= (+ x 1) 3))"), "x = 2", "x = 1", "pip install 'reasoner[proof]'",
    ),
}  # fmt: skip


def proof(
    response: str,
    system: str,
    statement: str,
    header: str = "",
    name: str = "goal",
    axioms: list[str] | tuple[str, ...] = (),
    ask: str = "model",
    cpu_s: float = 5.0,
    memory_mb: int = 2048,
) -> Verdict:
    """Check a proof, or a model of constraints.

    Reference keys: system ("coq", "lean" or "smt"), statement (a proposition, or "Theorem name binders : type."; for smt
    the problem as SMT-LIB), header (imports and definitions that stand before it), name (what a whole file has to call the
    theorem), axioms (what a proof may rest on beside the system's own rules), ask (smt: "model", values of all constants or
    "unsat"; or "formula", a term that says what the statement says). The response is a tactic body, a fenced
    block or a whole file; only the statement of the reference counts. A system that is not there: error/unavailable.
    """
    task = Task(system, statement, header, name, tuple(axioms), ask, cpu_s, memory_mb)
    found = report(response, task)
    if found.status == "error":
        return failure(found.detail, found.reason)
    score = {"correct": 1.0, "incorrect": 0.0}.get(found.status)
    return Verdict(
        found.status, found.reason, score, answer=body_of(response, system)[:500] or None, detail=found.detail[:500],
        isolation=found.isolation, cpu_ms=found.cpu_ms,
    )  # fmt: skip


def _unreadable(system: str, **reference) -> str:
    """Why no response can be judged here, "" where it can."""
    if system not in SYSTEMS:
        return f"system is {system!r}, expected one of {', '.join(SYSTEMS)}"
    if importlib.import_module(SYSTEMS[system].module).find() is None:
        return f"{system} is not installed here ({SYSTEMS[system].install})"
    return ""


proof.unreadable = _unreadable  # pyright: ignore[reportFunctionMemberAccess]


def report(response: str, task: Task) -> Checked:
    """All that is known of a proof: the verdict, its steps, which line failed, goals that are left, the checker's words."""
    return _checked(task, body_of(response, task.system), is_prefix=False)


def dead_end(prefix: str, **reference) -> bool:
    """Does the proof under way already fail? True where one of its whole steps does; the step being written is left out.

    What is not decided, for want of a checker as well, is no dead end; nor is text outside a fenced block whose first step
    fails, since it may be prose before the proof.
    """
    task = Task(**{**reference, "axioms": tuple(reference.get("axioms", ()))})
    text = prefix.rpartition("</think>")[2].replace("\r\n", "\n")
    if task.system not in SYSTEMS or "<think>" in text:
        return False
    opening = list(_opening(SYSTEMS[task.system].languages).finditer(text))
    body = text[opening[-1].end() :].partition(opening[-1][1])[0] if opening else text
    found = _checked(task, body, is_prefix=True)
    begun = bool(opening) or any(step.right for step in found.steps)
    return found.status == "incorrect" and begun


@functools.cache
def _opening(languages: tuple[str, ...]) -> re.Pattern:
    return re.compile(
        rf"^[ \t]*(`{{3,}}|~{{3,}})[ \t]*(?:{'|'.join(map(re.escape, languages))})[ \t]*\n", re.M
    )


def body_of(response: str, system: str) -> str:
    """The proof in a response: the last fenced block of the system's language, else the last without one, else all that
    follows the thinking."""
    text = response.rpartition("</think>")[2]
    languages = SYSTEMS[system].languages if system in SYSTEMS else ()
    found = blocks(text)
    chosen = [b.text for b in found if b.language in languages] or [b.text for b in found if not b.language]
    return (chosen[-1] if chosen else text).replace("\r\n", "\n").strip("\n")


def systems_here() -> dict[str, str]:
    """system → its version here, "" where it is not to be had."""
    found = {}
    for name, system in SYSTEMS.items():
        program = importlib.import_module(system.module).find()
        found[name] = program.version if program is not None else ""
    return found


_kept: OrderedDict[tuple, Checked] = OrderedDict()
_kept_lock = threading.Lock()


def _checked(task: Task, body: str, is_prefix: bool) -> Checked:
    """The system's word, kept by (version, task, proof): what was decided once is not asked again."""
    if task.system not in SYSTEMS:
        return failed(f"unknown proof system {task.system!r}, expected one of {', '.join(SYSTEMS)}")
    if not body.strip():
        return Checked("no_answer", "unparseable", "no proof in the response")
    if len(body) > MAX_CHARS:
        return refused(f"a proof of {len(body)} characters")
    system = SYSTEMS[task.system]
    module = importlib.import_module(system.module)
    program = module.find()
    if program is None:
        return failed(f"{task.system} is not installed here ({system.install})", "unavailable")
    key = (program.version, task, body, is_prefix)
    with _kept_lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    try:
        _prove(task.system, module.check)
        found: Checked = module.check(task, body, is_prefix)
    except SlotFailed as problem:
        return failed(f"sandbox: {problem}"[:300], "unavailable")
    if found.status != "error":
        with _kept_lock:
            _kept[key] = found
            while len(_kept) > _MAX_KEPT:
                _kept.popitem(last=False)
    return found


_proven: set[tuple[str, str]] = set()
_proving = threading.Lock()


def _prove(name: str, check: Callable[[Task, str, bool], Checked]) -> None:
    """A right and a wrong proof, once per system and process: what cannot tell them apart has no opinion.
    Raises SlotFailed."""
    system = SYSTEMS[name]
    version = importlib.import_module(system.module).find().version
    if (name, version) in _proven:
        return
    with _proving:
        if (name, version) in _proven:
            return
        for text, expected in ((system.right, "correct"), (system.wrong, "incorrect")):
            found = check(system.task, text, False)
            if found.status != expected:
                raise SlotFailed(
                    f"{name} cannot tell right from wrong here: {text!r} was found {found.status} ({found.detail})"
                )
        _proven.add((name, version))
