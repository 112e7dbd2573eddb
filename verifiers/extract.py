"""Final answers out of responses: the last box, "#### x", "answer is x", fenced code.

Every rule is linear in the length of the response, since the response may be made to hurt.
"""

import re

# What comes before the last million characters can't be a final answer.
MAX_SCANNED_CHARS = 1_000_000
MAX_BARE_CHARS = 200
_MAX_FORMULA_CHARS = 20_000

_BRACE_OR_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)\s*(\{|(?=[ \d$-]))|\\[\\{}]|[{}]")
_UNBRACED = re.compile(r"\s*([^\s{}$\\]{1,60})")
_HASHES = re.compile(r"^[ \t>*]*####[ \t]*(\S[^\n]*)", re.MULTILINE)
_ANSWER_IS = re.compile(r"\banswer\b(?:[ \t]{0,3}(?:is|are|equals|:|=|\*\*)){1,4}[ \t]{0,3}", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?=\s|$|\*\*)")
_FENCE = re.compile(r"^[ \t]*```+[ \t]*([\w+-]*)[^\n]*$", re.MULTILINE)
_PROSE = re.compile(r"[A-Za-z']{2,}(?:[ ,;]+[A-Za-z']{2,}){3}")


def boxes(response: str) -> list[tuple[int, int, str]]:
    r"""Every complete outermost \boxed{...} or \fbox{...}, in order: (start, end, what is inside)."""
    open_braces: list[tuple[int, int]] = []  # (where the box's command starts, or -1; where its inside does)
    found: list[tuple[int, int, str]] = []
    for match in _BRACE_OR_BOX.finditer(response):
        token = match.group()
        if token == "{":
            open_braces.append((-1, 0))
        elif token == "}":
            start, inside = open_braces.pop() if open_braces else (-1, 0)
            if start >= 0:
                while found and found[-1][0] > start:
                    found.pop()  # boxes inside this one
                found.append((start, match.end(), response[inside : match.start()].strip()))
        elif match.group(1):
            open_braces.append((match.start(), match.end()))
        elif len(token) > 2 and (unbraced := _UNBRACED.match(response, match.end())):
            found.append((match.start(), unbraced.end(), unbraced.group(1)))
    return found


def boxed(response: str) -> str | None:
    """The inside of the last complete outermost box; None if there is none."""
    found = boxes(response)
    return found[-1][2] if found else None


def after_hashes(response: str) -> str | None:
    """What follows the last "####" that begins a line (GSM8K's mark)."""
    last = None
    for last in _HASHES.finditer(response):  # noqa: B007
        pass
    return last.group(1).strip() if last else None


def after_answer_is(response: str) -> str | None:
    """What follows the last "answer is", "answer:" to the end of its sentence."""
    last = None
    for last in _ANSWER_IS.finditer(response):  # noqa: B007
        pass
    if last is None:
        return None
    newline = response.find("\n", last.end())
    text = response[last.end() : newline if newline >= 0 else len(response)].strip()
    end = _SENTENCE_END.search(text)
    text = (text[: end.start()] if end else text).strip(" \t*`:")
    return text or None


def bare(response: str) -> str | None:
    """The whole response where it is one short line and no prose, else None."""
    text = response.strip()
    if not text or len(text) > MAX_BARE_CHARS or "\n" in text or _PROSE.search(text):
        return None
    return text


# An escaped sign is passed over as one (no group matches): it opens no formula.
_ENVIRONMENT = re.compile(
    r"\\[$\\]|\$\$([^$]+)\$\$|\$((?:[^$\\]|\\.)+)\$"
    r"|\\\[((?:[^\\]|\\[^\[\]])*)\\\]|\\\(((?:[^\\]|\\[^()])*)\\\)",
    re.DOTALL,
)
_COMMAND = re.compile(r"\\(?:text|mbox|begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_A_WORD = re.compile(r"\b(?!sqrt\b|inf\b)[a-zA-Z]{3,}|[^\x00-\x7f]|\$|\\[(\[]")
_AND = re.compile(r"\b(?:and|or)\b")
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,.;]|\\[()\[\]]|and|or|\\quad|\\qquad|\\text\s*\{[^{}]{0,40}\b(?:and|or)\s*\})*"
)
_LAST_NUMBER = re.compile(
    r"-?\\?[$€£]?(?:\d{1,3}(?:[, ]\d{3})+|\d+)(?:[.,]\d+)?(?:/\d+)?(?: ?\\?(?:%|percent|pct))?|-?\.\d+"
    r"|-?\\[dt]?frac\{-?\d+\}\{-?\d+\}",
    re.ASCII,
)


def last_math(response: str) -> str | None:
    """Lenient, for answers that were not asked to be boxed: the last boxes, with no words between
    them, unless "answer is" follows; else what follows that; else the last formula or number."""
    ends = boxes(response)
    # An answer stated behind the last box is the final one.
    said = after_answer_is(response[ends[-1][1] :] if ends else response)
    if ends and not said:
        last = len(ends) - 1
        while last and _BETWEEN_BOXES.fullmatch(response, ends[last - 1][1], ends[last][0]):
            last -= 1
        return ", ".join(text for _, _, text in ends[last:])
    short = bare(response)
    if short is not None and not _A_WORD.search(_COMMAND.sub(" 0 ", short)):
        return short
    if said:
        # "$12$ and $13$": formulas and nothing else are one answer.
        plain = said.replace("$", " ").strip(' \\"')
        if not _A_WORD.search(_AND.sub(",", _COMMAND.sub(" 0 ", plain))):
            return plain
    # Formulas are found by scanning ahead, so only the end is looked at.
    text = (said if said is not None else response)[-_MAX_FORMULA_CHARS:]
    formula = number = None
    for match in _ENVIRONMENT.finditer(text):
        formula = match if match.lastindex else formula
    for number in _LAST_NUMBER.finditer(text, formula.end() if formula else 0):  # noqa: B007
        pass
    if formula is not None and number is None:
        return next((part for part in formula.groups() if part), "").strip() or None
    return number.group().strip() if number else said


_CHOICE_SAID = re.compile(r"(?:\banswer\b|\bis\b|\best\b|\bréponse\b)[ \t:*(]{1,6}([A-J])\b")
_CHOICE_FIRST = re.compile(r"\s*\(?([A-J])(?![A-Za-z'])")
_CHOICE_ALONE = re.compile(r"(?<![A-Za-z'\\])([A-J])(?![A-Za-z'])")


def choice(response: str) -> str | None:
    """The letter of a multiple choice: in a box, else behind "answer", else at the start of a line
    that begins with one, else the last letter that stands alone."""
    inside = boxed(response)
    if inside is not None:
        letters = _CHOICE_ALONE.findall(inside)
        return letters[0] if len(set(letters)) == 1 else inside
    said = _CHOICE_SAID.findall(response)
    if said:
        return said[-1]
    for line in response.splitlines()[-1:] + response.splitlines()[:1]:
        first = _CHOICE_FIRST.match(line)
        if first:
            return first.group(1)
    alone = _CHOICE_ALONE.findall(response)
    return alone[-1] if alone else None


def fenced_code(response: str, languages: tuple[str, ...] = ("", "python", "py", "python3")) -> str | None:
    """The last complete ``` block in one of the languages ("" = none named); None if there is none."""
    last = None
    opened: tuple[int, str] | None = None
    for match in _FENCE.finditer(response):
        if opened is None:
            opened = (match.end() + 1, match.group(1).lower())
            continue
        start, language = opened
        if match.group(1):  # an opening fence inside a block: the block before it was never closed
            opened = (match.end() + 1, match.group(1).lower())
            continue
        if language in languages:
            last = response[start : match.start()]
        opened = None
    return last


def whole(response: str) -> str | None:
    """The response itself, without the white space around it."""
    return response.strip() or None


def auto(response: str) -> str | None:
    """The last box, else what follows "####", else what follows "answer is", else a bare short answer."""
    for rule in (boxed, after_hashes, after_answer_is, bare):
        found = rule(response)
        if found is not None:
            return found
    return None


def raw(response: str) -> str | None:
    """The response as it is, white space included: a completion that continues a prompt."""
    return response


RULES = {
    "raw": raw,
    "auto": auto,
    "boxed": boxed,
    "hashes": after_hashes,
    "answer_is": after_answer_is,
    "last_math": last_math,
    "choice": choice,
    "bare": bare,
    "whole": whole,
    "code": fenced_code,
}


def final_answer(response: str, rule: str = "auto") -> str | None:
    """The final answer by a named rule, looked for behind the thinking where a </think> closes it.

    Raises ValueError for an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"extraction rule is {rule!r}, expected one of {', '.join(RULES)}")
    response = response[-MAX_SCANNED_CHARS:]
    thought = response.rfind("</think>")
    if thought >= 0:
        response = response[thought + len("</think>") :]
    return RULES[rule](response)
