"""Fenced code in Markdown text, by section 4.5 of CommonMark, with what models write beside it.

A fence is three or more backticks or tildes; a block ends at a fence of its own kind, at least as long, without words
behind it and indented by less than four columns more than the block. Inside list items a block is indented as a
whole, and is read without that. Linear in the length of the text.
"""

import re
from typing import NamedTuple

PYTHON = ("python", "py", "python3")
_FENCE = re.compile(r"^([ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*)(`{3,}|~{3,})[ \t]*([^\n]*)$")
_TAG = re.compile(r"\{?\.?([\w+#.-]*)")
_TRIPLE = re.compile(r"\"\"\"|'''")
_CODE_LINE = re.compile(
    r"(?:def|class|async def) \w|(?:import|from) [\w.]+|@\w|(?:for|while|if|with|try)\b.*:\s*(?:#.*)?$"
    r"|print\(|[A-Za-z_][\w.\[\], ]* ?[-+*/]?= ?\S"
)
_SESSION = re.compile(r"^\s*>>> ", re.M)


class Block(NamedTuple):
    """One block: the first word behind its fence in lower case, and its text."""

    language: str
    text: str


class _Open(NamedTuple):
    fence: str
    indent: int
    language: str


def blocks(response: str) -> list[Block]:
    """The complete blocks of a text, in order."""
    found: list[Block] = []
    opened: _Open | None = None
    lines: list[str] = []  # of the block, or, outside one, since the last
    quote = ""  # the triple quotes that are open in a block of Python
    refused: Block | None = None  # what the block would be, did a fence inside its docstring end it
    for line in response.split("\n"):
        fence = _FENCE.match(line.rstrip("\r"))
        if opened is None:
            if fence is None or (fence[2][0] == "`" and "`" in fence[3]):
                lines.append(line)
            elif not fence[3].strip() and not found and _is_program(lines[:50]):
                found.append(_block("", lines))  # it goes on inside a block that its prompt has opened
                lines = []
            else:
                opened, lines, quote = _opening(fence), [], ""
            continue
        if fence is None or not _ends(fence, opened):
            lines.append(_dedented(line, opened.indent))
            quote = _quoted(quote, line) if opened.language in PYTHON else ""
        elif quote:
            refused = refused or _block(opened.language, lines)
            lines.append(_dedented(line, opened.indent))
        elif fence[3].strip():
            opened, lines, refused = _opening(fence), [], None  # the block before it was never closed
        else:
            found.append(_block(opened.language, lines))
            opened, lines, refused = None, [], None
    return [*found, refused] if opened is not None and refused is not None else found


def _opening(fence: re.Match) -> _Open:
    tag = _TAG.match(fence[3])
    return _Open(fence[2], len(fence[1]), tag[1].lower() if tag else "")


def _ends(fence: re.Match, opened: _Open) -> bool:
    """May this fence end the block, or follow one that was never closed?"""
    return (
        fence[2][0] == opened.fence[0]
        and len(fence[2]) >= len(opened.fence)
        and not fence[1].strip()
        and len(fence[1]) < opened.indent + 4
    )


def _block(language: str, lines: list[str]) -> Block:
    return Block(language, "".join(f"{line}\n" for line in lines))


def _quoted(quote: str, line: str) -> str:
    """The triple quotes that are open behind a line, if these were open before it."""
    for match in _TRIPLE.finditer(line):
        if not quote:
            quote = match.group()
        elif match.group() == quote:
            quote = ""
    return quote


def program(response: str, names: tuple[str, ...] = ()) -> str | None:
    """The block that holds the program; None where no block is in Python or without a language.

    Of the blocks marked as Python, else of those without a mark: the last that defines one of the names, else the
    last that looks like a program (output, sessions and notes behind it do not), else the last.
    """
    found = blocks(response)
    chosen = [b.text for b in found if b.language in PYTHON] or [b.text for b in found if not b.language]
    if not chosen:
        return None
    defining = [text for text in chosen if any(_defines(text, name) for name in names)]
    running = [text for text in chosen if _has_code(text) and not _SESSION.search(text)]
    return (defining or running or chosen)[-1]


def _defines(text: str, name: str) -> bool:
    return (
        re.search(
            rf"^[ \t]*(?:(?:async )?def|class)[ \t]+{re.escape(name)}\b|^{re.escape(name)}[ \t]*=[^=]",
            text,
            re.M,
        )
        is not None
    )


def _is_program(lines: list[str]) -> bool:
    """Does the text begin as Python does, behind comments?"""
    first = next((line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    return _CODE_LINE.match(first) is not None or first[:3] in ('"""', "'''")


def _has_code(text: str) -> bool:
    return any(_CODE_LINE.match(line.strip()) for line in text.split("\n"))


def _dedented(line: str, indent: int) -> str:
    """The line without up to `indent` columns of white space before it."""
    width = 0
    while width < len(line) and width < indent and line[width] in " \t":
        width += 1
    return line[width:]
