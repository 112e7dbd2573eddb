"""Proofs in Coq: a session of coqidetop with the header loaded once, each proof behind the same state of it.

What is proved is the statement as it was elaborated behind the header, before anything of the response was read: the
proof has to be a term of that very type. Coq's kernel says so at Qed; that nothing was assumed follows from the commands
that are allowed, and, unless all that the header loads is known to be free of axioms, from Print Assumptions.
"""

import functools
import os
import re
import secrets
import shutil
import subprocess
from typing import Any

from verifiers.proof import coq_protocol as protocol
from verifiers.proof import programs
from verifiers.proof.coq_text import (
    Sentence,
    Unfinished,
    as_tactic,
    first_word,
    header_is_axiom_free,
    is_command,
    parts,
    sentences,
    why_refused,
)
from verifiers.proof.task import Checked, Step, Task, failed, refused

_HEADER_S = 60.0
_MAX_PROOFS = 500  # of one session: Coq keeps something of each
_MAX_SENTENCES = 2000
_CLOSED = "Closed under the global context"
_ENDINGS = {"starved": "internal_error", "failed": "unavailable"}


class NotAStatement(ValueError):
    """The reference's header or statement is nothing that Coq accepts: our failure."""


@functools.cache
def find() -> programs.Program | None:
    """Coq on this machine, None where there is none."""
    path = shutil.which("coqidetop.opt") or shutil.which("coqidetop")
    if path is None:
        return None
    said = subprocess.run([path, "-print-version"], capture_output=True, text=True, timeout=60, check=False)
    where = subprocess.run(
        [path, "-where"], capture_output=True, text=True, timeout=60, check=False
    ).stdout.strip()
    path, folder = os.path.realpath(path), os.path.realpath(where)
    if said.returncode or not os.path.isdir(folder):
        return None
    resilience = [f"-async-proofs-{kind}-error-resilience" for kind in ("tactic", "command")]
    off = [word for option in resilience for word in (option, "off")]
    return programs.Program(
        name="coq", version=f"coq {said.stdout.split()[0]}",
        argv=(path, "-q", "-main-channel", "stdfds", "-async-proofs", "off", *off),
        visible=(folder, os.path.dirname(folder)), runs=(path,), end=protocol.END, address_space=4 << 30,
        env={"HOME": "/box", "OCAMLFIND_CONF": "/dev/null"},
    )  # fmt: skip


def check(task: Task, proof: str, is_prefix: bool = False) -> Checked:
    """Judge a proof: a tactic body, or a file that proves the theorem by its name. is_prefix: of an unfinished one, in
    which what is missing is no fault. Raises SlotFailed."""
    program = find()
    if program is None:
        return failed("Coq is not installed (bash launch/coq.sh)", "unavailable")
    try:
        script, rest = sentences(proof)
    except Unfinished as problem:
        script, rest = ([], "") if is_prefix else ([], str(problem))
    if is_prefix and script and not rest and proof.endswith("."):
        script = script[:-1]  # "apply Nat." may go on
    if len(script) > _MAX_SENTENCES:
        return refused(f"a proof of {len(script)} sentences")
    for sentence in script:
        why = why_refused(sentence.text)
        if why:
            return refused(f"line {sentence.line}: {why}")
    if rest and not is_prefix:
        return Checked("incorrect", "unparseable", f"the proof ends inside a sentence: {rest[-80:]}")
    with programs.session(program, task.header, task.memory_mb << 20) as session:
        used = session.proofs > 0
        try:
            found = _judge(session, task, script, is_prefix)
        except programs.Stopped as problem:
            if not used or problem.ending in ("time_limit", "output_limit"):
                return _stopped(problem, session, program.version)
            try:  # it died after other proofs, which may have brought it there
                found = _judge(session, task, script, is_prefix)
            except programs.Stopped as again:
                return _stopped(again, session, program.version)
        except NotAStatement as problem:
            session.forget()
            return failed(f"the reference: {problem}"[:300])
        if session.proofs >= _MAX_PROOFS or session.resident_kb << 10 > session.memory // 2:
            session.forget()
        return found


def _stopped(problem: programs.Stopped, session: programs.Session, version: str) -> Checked:
    if problem.ending in _ENDINGS:
        return failed(f"Coq: {problem}", _ENDINGS[problem.ending])
    reason = "runtime_error" if problem.ending == "crashed" else problem.ending
    return Checked(
        "incorrect", reason, f"Coq ended over the proof: {problem}", isolation=session.isolation,
        cpu_ms=session.cpu_ms, version=version,
    )  # fmt: skip


class _Talk:
    """One proof's questions to a session, out of one budget of CPU time."""

    def __init__(self, session: programs.Session, cpu_s: float):
        self.session, self.until_ms = session, session.cpu_ms + 1000 * cpu_s
        self.state = 0

    def ask(self, question: bytes) -> protocol.Value:
        left = (self.until_ms - self.session.cpu_ms) / 1000
        if left <= 0:
            self.session.forget()
            raise programs.Stopped("time_limit")
        return protocol.value(self.session.ask(question, left))

    def add(self, sentence: str) -> protocol.Value:
        said = self.ask(protocol.add(sentence, self.state))
        if said.good:
            self.state = said.state
        return said


def _base(session: programs.Session, header: str) -> int:
    """The state behind the header, loaded where it is not yet. Raises NotAStatement."""
    if "base" not in session.state:
        talk = _Talk(session, _HEADER_S)
        talk.state = talk.ask(protocol.init()).state
        loaded, rest = sentences(header)
        if rest:
            raise NotAStatement(f"the header ends inside a sentence: {rest[-80:]!r}")
        for sentence in loaded:
            said = talk.add(sentence.text)
            said = talk.ask(protocol.goal()) if said.good else said
            if not said.good:
                raise NotAStatement(f"the header, line {sentence.line}: {said.error}")
        session.state["base"] = talk.state
        session.cpu_ms = 0.0
    return session.state["base"]


def _judge(session: programs.Session, task: Task, script: list[Sentence], is_prefix: bool) -> Checked:
    base = _base(session, task.header)
    session.proofs += 1
    talk = _Talk(session, task.cpu_s)
    talk.state = base
    found = _run(talk, task, script, is_prefix)
    talk.until_ms = session.cpu_ms + 10_000
    if not talk.ask(protocol.back_to(base)).good:
        session.forget()
    return found


def _run(talk: _Talk, task: Task, script: list[Sentence], is_prefix: bool) -> Checked:
    """Elaborate the statement, run the script, ask whether the theorem is there."""
    name, binders, kind = parts(task.statement) or (task.name, "", task.statement.strip().removesuffix("."))
    asked = f"asked_{secrets.token_hex(8)}"
    is_file = any(
        is_command(s.text) and first_word(s.text) not in ("Proof", "Qed", "Defined", "Unshelve")
        for s in script
    )
    whole = f"forall {binders}, ({kind})" if binders else kind
    said = talk.add(f"Definition {asked} : Prop := ({whole}\n).")
    said = talk.ask(protocol.goal()) if said.good else said
    if not said.good:
        raise NotAStatement(f"the statement: {said.error}")
    opening = talk.state
    if not is_file:
        said = talk.add(f"Theorem {name} {binders} : ({kind}\n).")
        if not said.good:
            raise NotAStatement(f"the statement: {said.error}")
        opening = talk.state
        script = _body(script)
    failed_at, said = _steps(talk, script, opening)
    steps = _labelled(script, failed_at)
    facts: dict[str, Any] = {"isolation": talk.session.isolation, "version": talk.session.program.version}
    if failed_at is not None:
        left = talk.ask(protocol.goal())
        goals = tuple(protocol.goals(left.body)) if left.good else ()
        line = script[failed_at].line
        return Checked("incorrect", "wrong", f"line {line}: {said.error}", steps, goals, (said.error,),
                       cpu_ms=talk.session.cpu_ms, **facts)  # fmt: skip
    goals = tuple(protocol.goals(said.body))
    if is_prefix:
        return Checked(
            "no_answer", "unparseable", "unfinished", steps, goals, cpu_ms=talk.session.cpu_ms, **facts
        )
    error, axioms = _close(talk, task, name, asked, is_file)
    facts["cpu_ms"] = talk.session.cpu_ms
    if error:
        return Checked("incorrect", "wrong", error, steps, goals, (error,), axioms, **facts)
    return Checked("correct", "ok", "", steps, (), (), axioms, **facts)


def _body(script: list[Sentence]) -> list[Sentence]:
    """The tactics of a body that may be framed by Proof and Qed."""
    first = [s.text for s in script[:1]] == ["Proof."]
    last = bool(script) and script[-1].text in ("Qed.", "Defined.")
    return script[first : len(script) - last]


def _steps(talk: _Talk, script: list[Sentence], opening: int) -> tuple[int | None, protocol.Value]:
    """Run a script: the number of the first sentence that fails, None where none does, and Coq's last word."""
    states, refusal = [opening], None
    for sentence in script:
        text = sentence.text if is_command(sentence.text) else as_tactic(sentence.text)
        said = talk.add(text)
        if not said.good:
            refusal = said
            break
        states.append(said.state)
    said = talk.ask(protocol.goal())
    if said.good and refusal is None:
        return None, said
    at = len(states) - 1 if said.good else states.index(said.state) if said.state in states else 0
    failed_at = min(at, len(script) - 1)
    talk.ask(protocol.back_to(states[at]))
    talk.state = states[at]
    return failed_at, said if not said.good else refusal or said


def _labelled(script: list[Sentence], failed_at: int | None) -> tuple[Step, ...]:
    return tuple(
        Step(s.text, s.line, None if failed_at is not None and i > failed_at else i != failed_at)
        for i, s in enumerate(script)
    )


def _close(talk: _Talk, task: Task, name: str, asked: str, is_file: bool) -> tuple[str, tuple[str, ...]]:
    """("", axioms) where the asked theorem is proved and rests on allowed axioms only, else what is wrong."""
    if not is_file:
        said = talk.add("Qed.")
        said = talk.ask(protocol.goal()) if said.good else said
        if not said.good:
            return f"the proof is not complete: {said.error}", ()
    said = talk.add(f"Definition answer_{asked} : {asked} := {name}.")
    said = talk.ask(protocol.goal()) if said.good else said
    if not said.good:
        return f"{name} is not the theorem that was asked: {said.error}", ()
    if protocol.is_in_proof(said.body):
        return "a proof is left open", ()
    if not task.axioms and header_is_axiom_free(task.header):
        return "", ()
    said = talk.ask(protocol.query(f"Print Assumptions answer_{asked}.", talk.state))
    axioms = _axioms(protocol.messages(said.whole)) if said.good else None
    if axioms is None:
        return f"Print Assumptions said nothing to be read: {said.whole[-100:]}", ()
    foreign = [a for a in axioms if a not in task.axioms]
    return (f"it rests on {', '.join(foreign[:3])}" if foreign else ""), axioms


def _axioms(said: list[str]) -> tuple[str, ...] | None:
    """The names that Print Assumptions lists; None where its words are others than its own."""
    text = "\n".join(said)
    if text.strip() == _CLOSED:
        return ()
    if not text.startswith("Axioms:"):
        return None
    return tuple(
        re.findall(r"^([\w.']+)(?=\s*:|\s*$|\s+relies|\s+is assumed)", text.partition("\n")[2], re.M)
    )
