"""Final answers out of responses: the last box, "#### x", <answer> tags, "answer is x", fenced code.

Every rule is linear in the length of the response, since the response may be made to hurt.
"""

import re

from verifiers.fences import program
from verifiers.units import is_label, is_measure

# What comes before the last million characters can't be a final answer.
MAX_SCANNED_CHARS = 1_000_000
MAX_BARE_CHARS = 200
_MAX_FORMULA_CHARS = 20_000

_BRACE_OR_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)\s*(\{|(?=[ \d$-]))|\\[\\{}]|[{}]")
_UNBRACED = re.compile(r"\s*([^\s{}$\\]{1,60})")
_ANSWER_IS = re.compile(
    r"\banswer\b(?:[ \t]{0,3}(?:is|are|equals|:|=|\*\*)){1,4}[ \t]{0,3}|\bfinal answer[ \t*:#]{0,20}(?=\n)",
    re.IGNORECASE,
)
_LINE = re.compile(r"\S[^\n]*")
_HEADING = re.compile(r"(?:the )?(?:final )?(?:answer|solution|result)", re.IGNORECASE)
# ", altogether", " because ...": what a sentence says behind its answer.
_AFTERTHOUGHT = re.compile(r",? \(|, (?!and\b|or\b)(?=[A-Za-z]{2})|(?: because| since| as |, so )")
_NUMBER_AND_WORDS = re.compile(
    r"(-?\\?[$€£]?-?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?)((?: [A-Za-z][a-z'-]*)*)"
)
_LETTER_AND_WORDS = re.compile(r"\(?([A-J])\)?[,;:] [a-z]")
_SENTENCE_END = re.compile(r"\.(?=\s|$|\*\*)")
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
    """What follows the last "####" (GSM8K's mark) on its line; below it where it is a heading, "#### Final answer"."""
    end = len(response)
    while (at := response.rfind("####", 0, end)) >= 0:
        newline = response.find("\n", at, end)
        text = response[at + 4 : newline if newline >= 0 else end].strip(" \t#:*`")
        if text and _HEADING.fullmatch(text):
            text = _next_line(response, at + 4 if newline < 0 else newline)
        if text:
            return text
        end = at
    return None


def _next_line(response: str, at: int) -> str:
    """The first line with something on it from `at` on, without its dress."""
    for line in _LINE.finditer(response, at):
        if text := line.group().strip(" \t\r*`#:"):
            return text
    return ""


def in_answer_tags(response: str) -> str | None:
    """What stands between the last <answer> and its </answer>: a box or "answer is" in there, else all of it."""
    lowered = response.lower()
    end = lowered.rfind("</answer>")
    start = lowered.rfind("<answer>", 0, max(end, 0))
    if start < 0 or len(lowered) != len(response):
        return None
    inside = response[start + len("<answer>") : end].strip()
    return boxed(inside) or after_answer_is(inside) or inside or None


def after_answer_is(response: str) -> str | None:
    """What follows the last "answer is", "answer:", "Final Answer" to the end of its sentence, or on the next line."""
    last = None
    for last in _ANSWER_IS.finditer(response):  # noqa: B007
        pass
    if last is None:
        return None
    newline = response.find("\n", last.end())
    text = response[last.end() : newline if newline >= 0 else len(response)].strip()
    if not text.strip(" \t*`:"):
        text = _next_line(response, last.end())
    end = _SENTENCE_END.search(text)
    text = (text[: end.start()] if end else text).strip(" \t*`:")
    return _without_prose(text) or None


def _without_prose(text: str) -> str:
    """ "72" of "72 clips, altogether", "D" of "D, since it is odd"; listed units and magnitudes stay."""
    letter = _LETTER_AND_WORDS.match(text)
    if letter:
        return letter.group(1)
    head = _AFTERTHOUGHT.split(text, maxsplit=1)[0]
    number = _NUMBER_AND_WORDS.fullmatch(head)
    if number is None:
        return text
    words = number.group(2).strip()
    return number.group(1) if words and is_label(words) and not is_measure(words) else head


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

_TEX_RUN = re.compile(
    r"(?:\\[a-zA-Z]+|\\[,;!{}]|[0-9{}()\[\]^_+\-*/=|!]|[.,](?=[0-9])|(?<![A-Za-z])[a-zA-Z](?![A-Za-z])| (?=[\\0-9{(+\-*/=]))+"
)


def last_math(response: str) -> str | None:
    """Lenient, for answers that were not asked to be boxed: the last boxes, with no words between
    them, unless "answer is" follows; else what follows that; else the last formula or number."""
    tagged = in_answer_tags(response)
    if tagged is not None:
        response = tagged
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
        plain = said.replace(r"\"", '"').replace("$", " ").strip(' "')
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
    if number is None:
        return said if said is not None else choice(response)
    # "we get \\frac{2\\pi}{9}" ends with more than its last number.
    for run in _TEX_RUN.finditer(text, max(0, number.start() - 1_000)):
        if run.end() >= number.end() and run.start() <= number.start() and _COMMAND.search(run.group()):
            return run.group().strip(" ,=")
    return number.group().strip()


_CHOICE_BOXED = re.compile(r"[\s$]*(?:\\[a-z]{2,9}\{)?[\s$]*\(?([A-J])(?:[\s$).:}].*)?", re.DOTALL)
_CHOICE_SAID = (
    re.compile(
        r"\b(?:answer|réponse)(?:[ \t]{0,3}(?:is|est|:|=|\*\*|option|choice)){0,4}[ \t:*($\\]{0,6}"
        r"(?:(?:text|boxed|mathrm|textbf)\{)?\(?(?-i:([A-J]))\b(?!')",
        re.IGNORECASE,
    ),
    re.compile(r"\b(?:is|est|it's)[ \t:*(]{1,6}([A-J])\b(?!')"),
)
_CHOICE_FIRST = re.compile(r"\s*\(?([A-J])(?![A-Za-z'])")
_CHOICE_ALONE = re.compile(r"(?<![A-Za-z'\\])([A-J])(?![A-Za-z'])")


def choice(response: str) -> str | None:
    """The letter of a multiple choice: alone in a box, else behind "answer", else the only letter in a box, else
    behind "is", at the start of a line that begins with one, or the last letter that stands alone."""
    inside = boxed(response)
    letter = _CHOICE_BOXED.fullmatch(inside) if inside is not None and "=" not in inside else None
    if letter and len(set(_CHOICE_ALONE.findall(letter.group()))) == 1:
        return letter.group(1)
    explicit, stated = (rule.findall(response) for rule in _CHOICE_SAID)
    if explicit:
        return explicit[-1]
    if inside is not None:
        letters = _CHOICE_ALONE.findall(inside)
        return letters[0] if len(set(letters)) == 1 else inside
    if stated:
        return stated[-1]
    lines = response.strip().split("\n")
    for line in (lines[-1], lines[0]):
        first = _CHOICE_FIRST.match(line)
        if first:
            return first.group(1)
    alone = _CHOICE_ALONE.findall(response)
    return alone[-1] if alone else None


def fenced_code(response: str) -> str | None:
    """The program among the fenced blocks, see verifiers.fences; None if there is none."""
    return program(response)


def whole(response: str) -> str | None:
    """The response itself, without the white space around it."""
    return response.strip() or None


def auto(response: str) -> str | None:
    """In <answer> tags, else the last box, else behind "####", else behind "answer is", else a bare short answer."""
    for rule in (in_answer_tags, boxed, after_hashes, after_answer_is, bare):
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
    "tags": in_answer_tags,
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
