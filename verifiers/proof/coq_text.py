"""Coq scripts as text: cut into sentences, and told which of them a proof may hold.

What is allowed is listed, the rest is refused. The lists guard the commands; that a tactic is a tactic is left to Coq's
own grammar: `as_tactic` puts each between brackets, where no command parses, and Coq reads one sentence at a time.
"""

# ruff: noqa: SIM905 - long word lists read better as words

import re
from typing import NamedTuple

MAX_CHARS = 100_000
_BULLET = re.compile(r"-+|\*+|\++|[{}]")
_SELECTOR = re.compile(r"(?:all|!|\d+(?:\s*[-,]\s*\d+)*|\[\w+\])\s*:(?!=)\s*")
_OPEN_SELECTOR = re.compile(r"(?:\d+|\[\w+\])\s*:\s*\{")
_WORD = re.compile(r"[^\W\d][\w']*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u0085\u2028\u2029]")
STATEMENTS = ("Theorem", "Lemma", "Fact", "Remark", "Corollary", "Proposition", "Example")
_DEFINING = ("Definition", "Fixpoint", "Inductive", "Ltac")
_EXACT = ("Proof", "Qed", "Defined", "Unshelve")
_GIVING_UP = re.compile(r"\b(admit|give_up|Admitted|Abort|proof_admitted)\b")
# Notations, coercions, and terms of another language; native_compute starts a compiler.
_SUSPECT = re.compile(r"\bwhere\b|:>|\bltac2\b|\bnative_compute\b|\bnative_cast_no_check\b")
_IMPORT = re.compile(r"(?:From\s+Coq\s+)?Require\s+(?:Import|Export)\s+([\w.\s]+)|Import\s+(ListNotations)")
_SCOPE = re.compile(r"(?:Local\s+)?Open\s+Scope\s+\w+")
# Modules of the standard library that load no axiom, as coqchk finds (tests/proof).
AXIOM_FREE = frozenset(
    """
    Arith Bool List Lia ZArith PeanoNat Nat NArith Ring ArithRing ZArithRing Setoid Morphisms micromega.Lia
    Arith.Arith Arith.PeanoNat Bool.Bool Lists.List ZArith.ZArith setoid_ring.Ring Init.Nat
    """.split()
)


class Sentence(NamedTuple):
    """One sentence without comments, with its full stop unless it is a bullet or a brace. line: from 1."""

    text: str
    line: int


class Unfinished(ValueError):
    """The script ends inside a sentence, a comment or a string."""


def sentences(script: str) -> tuple[list[Sentence], str]:
    """The sentences of a script, and what stands behind the last: "" or the start of another.

    Comments nest and hold strings; a full stop ends a sentence where white space or nothing follows it.
    """
    found: list[Sentence] = []
    kept: list[str] = []
    at, line, begun, dots = 0, 1, 1, 0
    while at < len(script):
        char, after = script[at], at + 1
        if not kept:
            begun = line
            bullet = _BULLET.match(script, at)
            if bullet:
                found.append(Sentence(bullet.group(), line))
                at = bullet.end()
                continue
        if script.startswith("(*", at) and not script.startswith("(*)", at):
            after = _behind_comment(script, at)
        elif char == '"':
            after = _behind_string(script, at)
        is_comment = after > at + 1 and char == "("
        if not is_comment and (kept or not char.isspace()):
            kept.append(script[at:after])
        elif is_comment and kept:
            kept.append(" ")
        dots = dots + 1 if char == "." else 0
        is_end = char == "." and dots in (1, 3) and script[after : after + 1] in ("", " ", "\t", "\r", "\n")
        if is_end or (char == "{" and len(kept) < 30 and _OPEN_SELECTOR.fullmatch("".join(kept))):
            found.append(Sentence("".join(kept).strip(), begun))
            kept = []
        line += script.count("\n", at, after)
        at = after
    return found, "".join(kept).strip()


def _behind_string(script: str, at: int) -> int:
    end = script.find('"', at + 1)
    if end < 0:
        raise Unfinished("a string that does not end")
    return end + 1


def _behind_comment(script: str, at: int) -> int:
    depth = 0
    while at < len(script):
        if script.startswith("(*", at):
            depth, at = depth + 1, at + 2
        elif script.startswith("*)", at):
            depth, at = depth - 1, at + 2
            if depth == 0:
                return at
        elif script[at] == '"':
            at = _behind_string(script, at)
        else:
            at += 1
    raise Unfinished("a comment that does not end")


def first_word(text: str) -> str:
    """The word that a sentence begins with, "" where it begins with none."""
    match = _WORD.match(text)
    return match.group() if match else ""


def is_command(text: str) -> bool:
    """Commands begin with a capital letter, or an attribute; tactics do not."""
    return text[:1].isupper() or text.startswith("#")


def why_refused(text: str) -> str:
    """What is wrong with a sentence, "" where it may be asked of Coq."""
    found = _CONTROL.search(text)
    if found:
        return f"a control character {found.group()!r}"
    found = _GIVING_UP.search(text)
    if found:
        return f"{found.group()} proves nothing"
    found = _SUSPECT.search(text)
    if found:
        return f"{found.group()} is not allowed"
    if not is_command(text):
        return ""
    word, bare = first_word(text), text.removesuffix(".").strip()
    if word in STATEMENTS or word in _DEFINING or bare in _EXACT:
        return ""
    if _SCOPE.fullmatch(bare):
        return ""
    imported = _IMPORT.fullmatch(bare)
    if imported:
        foreign = [m for m in (imported[1] or "").split() if not is_axiom_free(m)]
        return f"it loads {foreign[0]}, which the header does not" if foreign else ""
    return f"the command {word or text[:20]} is not allowed in a proof"


def is_axiom_free(module: str) -> bool:
    """Is this module of Coq's library known to load no axiom?"""
    return module.removeprefix("Coq.") in AXIOM_FREE


def header_is_axiom_free(header: str) -> bool:
    """Does a header do nothing but load modules of that kind, and open scopes?"""
    try:
        found, rest = sentences(header)
    except Unfinished:
        return False
    return not rest and all(
        _SCOPE.fullmatch(s.text.removesuffix(".").strip())
        or ((m := _IMPORT.fullmatch(s.text.removesuffix(".").strip())) and all(map(is_axiom_free, (m[1] or "").split())))
        for s in found
    )  # fmt: skip


def as_tactic(text: str) -> str:
    """A tactic's sentence, between brackets, behind its goal selector; bullets and braces as they are.

    Nothing but a tactic parses there, whatever the text is: a bracket that closes ours ends the sentence that Coq reads.
    """
    if _BULLET.fullmatch(text) or _OPEN_SELECTOR.fullmatch(text):
        return text
    selector = _SELECTOR.match(text)
    head = selector.group() if selector else ""
    return f"{head}( {text[len(head) :].removesuffix('.')}\n)."


def parts(statement: str) -> tuple[str, str, str] | None:
    """(name, binders, type) of a whole statement "Theorem name binders : type.", None of a bare proposition."""
    match = re.match(rf"\s*(?:{'|'.join(STATEMENTS)})\s+([\w']+)", statement)
    if match is None:
        return None
    rest, depth = statement[match.end() :], 0
    for at, char in enumerate(rest):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and char == ":" and rest[at + 1 : at + 2] != "=":
            return match[1], rest[:at].strip(), rest[at + 1 :].strip().removesuffix(".").strip()
    return None
