"""Lean proofs as text: what may stand in one, where its imports end, and the parts of a statement.

Lean's grammar can be extended from inside a file, so that words that would extend it, run programs or assume something
are refused wherever they stand as tokens of their own; what is left is judged by Lean's kernel.
"""

# ruff: noqa: SIM905 - long word lists read better as words

import re

_COMMENT_OR_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|--[^\n]*', re.S)
_IMPORT = re.compile(r"\s*import\s+([\w.]+(?:[ \t]+[\w.]+)*)[ \t]*")
_TOKEN = re.compile(r"@\[|#\w+|[^\W\d][\w'!?.%]*")
_OPTION = re.compile(r"\bset_option\s+([\w.]+)")
OPTIONS = frozenset(("maxHeartbeats", "maxRecDepth", "synthInstance.maxHeartbeats", "pp.all", "linter.all"))
REFUSED = frozenset(
    """
    sorry sorryAx admit apply? exact? axiom constant opaque unsafe partial implemented_by extern csimp
    native_decide ofReduceBool trustCompiler macro macro_rules syntax declare_syntax_cat elab elab_rules
    notation notation3 infix infixl infixr prefix postfix binder_predicate unif_hint initialize
    builtin_initialize run_cmd run_tac run_meta run_elab by_elab simproc dsimproc instance attribute export
    scoped private_decl addDecl addAndCompile IO EIO BaseIO System Lean eval_expr evalDecl unsafeCast
    unsafeIO lcProof lcUnreachable decide_native skipKernelTC stop deriving alias register_option
    declare_simp_like_tactic local hiding mutual import class
    """.split()
)
_ATTRIBUTE = re.compile(r"@\[([^\]]*)\]")
_FINE_ATTRIBUTES = frozenset(("simp", "ext", "aesop", "reducible"))
_STATEMENT = re.compile(r"\b(?:theorem|lemma)\s+([^\s:({\[⦃]+)")
_OPENING, _CLOSING = "([{⦃⟨", ")]}⦄⟩"


def blanked(text: str) -> str:
    """The text with comments and strings blanked, line by line, so that places stay.

    Raises ValueError where a comment does not end.
    """
    text = _blank_blocks(text)
    text = _COMMENT_OR_STRING.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)
    return text.replace("«", " ").replace("»", " ")  # a name in these is the name


def _blank_blocks(text: str) -> str:
    kept, at, depth = [], 0, 0
    while at < len(text):
        two = text[at : at + 2]
        if depth == 0 and (two == "--" or text[at] == '"'):
            match = _COMMENT_OR_STRING.match(text, at)
            end = match.end() if match else at + 1
            kept.append(text[at:end])
            at = end
        elif two in ("/-", "-/") and (depth or two == "/-"):
            depth += 1 if two == "/-" else -1
            kept.append("  ")
            at += 2
        else:
            kept.append(text[at] if depth == 0 or text[at] == "\n" else " ")
            at += 1
    if depth:
        raise ValueError("a comment that does not end")
    return "".join(kept)


def why_refused(text: str) -> str:
    """What is wrong with a proof, "" where it may be asked of Lean. text: blanked, without its imports."""
    for number, line in enumerate(text.split("\n"), start=1):
        for token in _TOKEN.findall(line):
            if token.startswith("#"):
                return f"line {number}: {token} is not allowed in a proof"
            word = token.rstrip(".")
            if word in REFUSED or word.partition(".")[0] in ("IO", "Lean", "System"):
                return f"line {number}: {word} is not allowed in a proof"
        for name in _OPTION.findall(line):
            if name not in OPTIONS:
                return f"line {number}: the option {name} is not allowed in a proof"
        for inside in _ATTRIBUTE.findall(line):
            foreign = [a for a in re.findall(r"[A-Za-z_]\w*", inside) if a not in _FINE_ATTRIBUTES]
            if foreign:
                return f"line {number}: the attribute {foreign[0]} is not allowed in a proof"
    return ""


def split_imports(text: str) -> tuple[list[str], str, int]:
    """(imported modules, the text behind them, how many lines stand before it)."""
    modules: list[str] = []
    lines = text.split("\n")
    at = 0
    while at < len(lines) and (not lines[at].strip() or _IMPORT.fullmatch(lines[at])):
        match = _IMPORT.fullmatch(lines[at])
        if match:
            modules += match[1].split()
        elif not any(_IMPORT.fullmatch(line) for line in lines[at:]):
            break
        at += 1
    return modules, "\n".join(lines[at:]), at


def is_file(text: str) -> bool:
    """Does a proof state theorems itself?"""
    return _STATEMENT.search(text) is not None


def statement_start(text: str) -> int:
    """Where the first theorem begins, with its comment; the length of the text where there is none."""
    match = _STATEMENT.search(blanked(text))
    if match is None:
        return len(text)
    comment = re.search(r"/-(?:(?!-/).)*-/\s*$", text[: match.start()], re.S)
    return comment.start() if comment else match.start()


def parts(statement: str) -> tuple[str, str, str] | None:
    """(name, binders, type) of "theorem name binders : type", with or without := behind it; None of a bare proposition.

    Raises ValueError where the statement has no type.
    """
    text = blanked(statement)
    match = _STATEMENT.search(text)
    if match is None:
        return None
    depth, colon, end = 0, -1, len(text)
    for at in range(match.end(), len(text)):
        depth += (text[at] in _OPENING) - (text[at] in _CLOSING)
        if depth == 0 and text.startswith(":=", at):
            end = at
            break
        if depth == 0 and text[at] == ":" and colon < 0:
            colon = at
    if colon < 0:
        raise ValueError("a theorem without a type")
    return match[1], text[match.end() : colon].strip(), text[colon + 1 : end].strip()
