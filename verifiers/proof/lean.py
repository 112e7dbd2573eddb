"""Proofs in Lean 4 through its REPL: the header imported once per session, each proof behind that environment.

Not tested on Lean: none was to be had where this was written. The protocol and the reading of its answers are tested
against recorded answers of a real REPL, through this client.

The statement is elaborated behind the header, before the response; its type is what the response's theorem has to have,
asked for under a name that the response cannot know; and `#print axioms` says what it rests on.
"""

import json
import os
import re
import secrets

from verifiers.proof import lean_text, programs
from verifiers.proof.task import Checked, Step, Task, failed, refused

FOLDER = os.path.expanduser("~/.cache/reasoner/lean")  # where launch/lean.sh puts it
AXIOMS = ("propext", "Quot.sound", "Classical.choice")
_HEADER_S = 300.0
_MAX_PROOFS = 200  # of one session: the REPL keeps every environment
_ADDRESS_SPACE = 64 << 30  # Lean maps its libraries; the control group bounds what it holds
_SORRY = re.compile(r"declaration uses 'sorry'|declaration uses `sorry`")
_UNFINISHED = re.compile(
    r"unsolved goals|unexpected end of input|unexpected token '?(?:end of input|EOF)", re.I
)


def find(folder: str | None = None) -> programs.Program | None:
    """The REPL that launch/lean.sh installed in a folder (FOLDER if not given), None where there is none."""
    path = os.path.join(folder or FOLDER, "program.json")
    try:
        with open(path, encoding="utf-8") as file:
            row = json.load(file)
    except (OSError, ValueError):
        return None
    return programs.Program(
        name="lean", version=row["version"], argv=tuple(row["argv"]), visible=tuple(row["visible"]),
        runs=tuple(row["runs"]), end="\n\n", address_space=_ADDRESS_SPACE, env=row["env"], threads=256,
    )  # fmt: skip


class NotAStatement(ValueError):
    """The reference's header or statement is nothing that Lean accepts: our failure."""


def check(task: Task, proof: str, is_prefix: bool = False) -> Checked:
    """Judge a proof: a tactic body, or a file that proves the theorem by its name. is_prefix: of an unfinished one, in
    which what is missing is no fault. Raises SlotFailed."""
    program = find()
    if program is None:
        return failed("Lean is not installed (bash launch/lean.sh)", "unavailable")
    if is_prefix:
        proof = proof[: proof.rfind("\n") + 1]  # of a line under way nothing is known
    modules, body, before = lean_text.split_imports(proof)
    allowed = lean_text.split_imports(task.header)[0]
    foreign = [m for m in modules if m not in allowed]
    if foreign:
        return refused(f"it imports {foreign[0]}, which the header does not")
    try:
        why = lean_text.why_refused(lean_text.blanked(body))
    except ValueError as problem:
        return Checked("no_answer" if is_prefix else "incorrect", "unparseable", str(problem))
    if why:
        return refused(why)
    with programs.session(program, task.header, task.memory_mb << 20) as session:
        try:
            found = _judge(session, task, body, before, is_prefix)
        except programs.Stopped as problem:
            if problem.ending in ("starved", "failed"):
                return failed(f"Lean: {problem}", "unavailable")
            reason = "runtime_error" if problem.ending == "crashed" else problem.ending
            return Checked(
                "incorrect", reason, f"Lean ended over the proof: {problem}", version=program.version
            )
        except NotAStatement as problem:
            session.forget()
            return failed(f"the reference: {problem}"[:300])
        if session.proofs >= _MAX_PROOFS or session.resident_kb << 10 > session.memory // 2:
            session.forget()
        return found


def _ask(session: programs.Session, command: str, env: int | None, until_ms: float) -> dict:
    """The REPL's answer. Raises Stopped, also where it is none."""
    left = (until_ms - session.cpu_ms) / 1000
    if left <= 0:
        session.forget()
        raise programs.Stopped("time_limit")
    question = {"cmd": command} | ({"env": env} if env is not None else {})
    said = session.ask(json.dumps(question, ensure_ascii=False).encode() + b"\n\n", left)
    try:
        answer = json.loads(said)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        session.forget()  # something else than the REPL wrote to its output
        raise programs.Stopped("security", "an answer that is none of the REPL's")
    return answer


def _errors(answer: dict) -> list[dict]:
    return [m for m in answer.get("messages", ()) if m.get("severity") == "error"]


def _base(session: programs.Session, header: str) -> int:
    """The environment behind the header, made where it is not yet. Raises NotAStatement."""
    if "base" not in session.state:
        try:
            answer = _ask(
                session,
                header.strip() or "example : True := trivial",
                None,
                session.cpu_ms + 1000 * _HEADER_S,
            )
        except programs.Stopped as problem:
            raise NotAStatement(f"the header could not be loaded: {problem}") from problem
        wrong = [m.get("data", "") for m in _errors(answer)] or (
            [answer["message"]] if "message" in answer else []
        )
        if wrong or not isinstance(answer.get("env"), int):
            raise NotAStatement(f"the header: {(wrong or ['no environment came back'])[0]}")
        session.state["base"] = answer["env"]
        session.cpu_ms = 0.0
    return session.state["base"]


def _judge(session: programs.Session, task: Task, body: str, before: int, is_prefix: bool) -> Checked:
    base = _base(session, task.header)
    session.proofs += 1
    until_ms = session.cpu_ms + 1000 * task.cpu_s
    name, binders, kind = lean_text.parts(task.statement) or (task.name, "", task.statement.strip())
    asked = f"asked_{secrets.token_hex(8)}"
    stated = _ask(
        session, f"theorem {asked} {binders} : {kind} := sorry", base, session.cpu_ms + 1000 * _HEADER_S
    )
    if _errors(stated) or not isinstance(stated.get("env"), int):
        wrong = [m.get("data", "") for m in _errors(stated)] or [
            stated.get("message", "no environment came back")
        ]
        raise NotAStatement(f"the statement: {wrong[0]}")
    if lean_text.is_file(lean_text.blanked(body)):
        text, shift = body, before
    else:
        tactics = "\n".join(f"  {line}" for line in body.removeprefix("by\n").split("\n"))
        text, shift = (
            f"theorem {name} {binders} : {kind} := by\n{tactics}\n",
            before - 1 + body.startswith("by\n"),
        )
    answer = _ask(session, text, stated["env"], until_ms)
    facts = {"isolation": session.isolation, "version": session.program.version}
    found = read(answer, body, before, shift, is_prefix)
    axioms: tuple[str, ...] = ()
    if found.status == "correct":
        problem, axioms = _close(session, task, name, asked, answer["env"], until_ms)
        if problem:
            found = Checked("incorrect", "wrong", problem, found.steps, (), (problem,))
    return Checked(
        found.status,
        found.reason,
        found.detail,
        found.steps,
        found.goals,
        found.errors,
        axioms,
        cpu_ms=session.cpu_ms,
        **facts,
    )


def read(answer: dict, body: str, before: int, shift: int, is_prefix: bool = False) -> Checked:
    """What a REPL's answer says of a proof. before: lines of the response before the body; shift: what is to be added to
    the REPL's lines to get the response's."""
    if not isinstance(answer.get("env"), int) or "message" in answer:
        return failed(f"Lean's REPL: {str(answer.get('message', 'no environment came back'))[:200]}")
    wrong = [m for m in _errors(answer) if not (is_prefix and _UNFINISHED.search(m.get("data", "")))]
    lines = [_line(m) + shift for m in wrong]
    steps = _steps(body, before + 1, min(lines) if lines else None)
    words = tuple(str(m.get("data", "")) for m in wrong)
    if wrong:
        first = lines.index(min(lines))
        goals = tuple(part.strip() for part in re.findall(r"(?:^|\n)[^\n]*⊢[^\n]*", words[first]))
        return Checked("incorrect", "wrong", f"line {min(lines)}: {words[first]}", steps, goals, words)
    if is_prefix:
        return Checked("no_answer", "unparseable", "unfinished", steps)
    uses = [m for m in answer.get("messages", ()) if _SORRY.search(m.get("data", ""))]
    if answer.get("sorries") or uses:
        return Checked("incorrect", "refused", "it uses sorry", steps)
    return Checked("correct", "ok", "", steps)


def _line(message: dict) -> int:
    line = (message.get("pos") or {}).get("line", 1)
    return line if isinstance(line, int) else 1


def _steps(body: str, first: int, failed_line: int | None) -> tuple[Step, ...]:
    """Each line that says something, right before the first that fails."""
    return tuple(
        Step(line.strip(), n, None if failed_line is not None and n > failed_line else n != failed_line)
        for n, line in enumerate(body.split("\n"), start=first)
        if line.strip()
    )


def _close(
    session: programs.Session, task: Task, name: str, asked: str, env: int, until_ms: float
) -> tuple[str, tuple[str, ...]]:
    """("", axioms) where the asked theorem is proved and rests on allowed axioms only, else what is wrong."""
    own = f"answer_{secrets.token_hex(8)}"
    answer = _ask(
        session, f"theorem {own} : type_of% @{asked} := @{name}\n#print axioms {own}", env, until_ms
    )
    wrong = [m.get("data", "") for m in _errors(answer)]
    if wrong:
        return f"{name} is not the theorem that was asked: {wrong[0]}", ()
    said = [m.get("data", "") for m in answer.get("messages", ()) if m.get("severity") == "info"]
    for text in said:
        if text == f"'{own}' does not depend on any axioms":
            return "", ()
        match = re.fullmatch(rf"'{own}' depends on axioms: \[([^\]]*)\]", text, re.S)
        if match:
            axioms = tuple(a.strip() for a in match[1].split(","))
            foreign = [a for a in axioms if a not in (*AXIOMS, *task.axioms)]
            return (f"it rests on {', '.join(foreign[:3])}" if foreign else ""), axioms
    return "Lean did not say what it rests on", ()
