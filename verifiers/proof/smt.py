"""Constraints by z3: a model is checked by substitution, "unsat" by the solver, a formula by equivalence."""

import functools
import importlib.metadata
import importlib.util
import json
from typing import NamedTuple

from verifiers.proof import smt_text
from verifiers.proof.task import Checked, Step, Task, failed
from verifiers.sandbox import pool
from verifiers.sandbox.limits import Limits


class Solver(NamedTuple):
    """The solver on this machine."""

    version: str


@functools.cache
def find() -> Solver | None:
    """z3 in this environment, None where it is not installed."""
    if importlib.util.find_spec("z3") is None:
        return None
    return Solver(f"z3 {importlib.metadata.version('z3-solver')}")


def check(task: Task, proof: str, is_prefix: bool = False) -> Checked:
    """Judge a model, "unsat" or a formula. Raises SlotFailed. Of an unfinished answer nothing is known."""
    solver = find()
    if solver is None:
        return failed("z3 is not installed (pip install 'reasoner[proof]')", "unavailable")
    if is_prefix:
        return Checked("no_answer", "unparseable", "unfinished")
    said = proof.rpartition("####")[2].strip()
    if not said:
        return Checked("no_answer", "unparseable", "no answer")
    question = json.dumps({"statement": f"{task.header}\n{task.statement}", "ask": task.ask, "said": said})
    limits = Limits(cpu_s=task.cpu_s, wall_s=3 * task.cpu_s, memory=task.memory_mb << 20)
    outcome = pool.run(
        "smt", {"kind": "ask", "entry": "verifiers.proof.smt_worker:answer"}, question.encode(), limits=limits
    )
    facts = {"isolation": outcome.isolation, "cpu_ms": outcome.cpu_ms, "version": solver.version}
    if outcome.ending != "done":
        if outcome.ending == "starved" or (task.ask == "model" and smt_text.says_unsat(said)):
            return failed(
                f"z3 did not decide the reference: {outcome.ending}"
            )  # nothing of the candidate's was computed
        reason = "runtime_error" if outcome.ending == "crashed" else outcome.ending
        return Checked("incorrect", reason, f"z3 ended over the answer: {outcome.detail}"[:300], **facts)
    status, reason, detail = json.loads(outcome.value)
    if status == "error":
        return failed(detail, reason)
    steps = (Step(said[:200], 1, status == "correct"),)
    errors = (detail,) if status == "incorrect" else ()
    return Checked(status, reason, detail, steps, (), errors, **facts)
