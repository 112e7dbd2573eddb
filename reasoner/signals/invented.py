"""New problems that a model writes out of old ones: what it is shown, what is kept of its text, on which answer draws agree.

Nothing here draws, and a model's text is only ever text: it is cut, compared, and written as JSON.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reasoner.data.repeats import text_key
from reasoner.data.splits import normalised, words
from reasoner.search.answers import answer_classes
from reasoner.tree import Problem
from verifiers.answer_text import MAX_ANSWER_CHARS, canonical, quantity

EXAMPLES = "{examples}"
LEAST_WORDS = 8  # words and signs of a question
# why a try is dropped before it is answered, in the order in which that is looked at, and what its answers may then show
UNASKED = ("empty", "cut", "no_question", "short", "markup", "old", "contaminated", "repeated", "long")
OUTVOTED = ("no_answer", "disagreed", "not_plain")
_LABEL = re.compile(
    r"^[ \t*#]*(?:problem|question|q)[ \t]*\d*[ \t]*[:.)][ \t*]*", re.IGNORECASE | re.MULTILINE
)
_DRESS = ' \t"*“'  # before a question


@dataclass(frozen=True)
class Try:
    """One try at a new problem; `dropped` says why it is none, `share` of its `answers` name the answer in `reference`."""

    number: int
    question: str = ""
    dropped: str = ""
    reference: dict[str, Any] = field(default_factory=dict)
    answers: tuple[str | None, ...] = ()  # one of each draw; None where it has none
    share: float = 0.0


def writing_prompt(template: str, shown: Sequence[Problem]) -> str:
    """The template with the old problems in the place of {examples}."""
    # replace, not format: the problems' own braces are data
    return template.replace(EXAMPLES, "\n\n".join(f"Problem: {p.prompt}" for p in shown))


def question_of(text: str, is_cut: bool, marks: Iterable[str] = ()) -> tuple[str, str]:
    """The first question of a model's text on one line, and why it is none, one of UNASKED; "" where it is one.

    What stands before a label ("Problem:") is left out, and all behind the question mark. `marks` are the tokenizer's special
    tokens: text that spells one would be read as one.
    """
    head, mark, _ = text.partition("?")
    question = " ".join((_LABEL.split(head)[-1] + mark).split()).lstrip(_DRESS)
    faults = {
        "empty": not text.strip(),
        "cut": not mark and is_cut,
        "no_question": not mark,
        "short": len(words(question)) < LEAST_WORDS,
        "markup": any(m in question for m in marks),
    }
    return question, next((reason for reason, is_so in faults.items() if is_so), "")


def once_each(tries: Iterable[Try]) -> list[Try]:
    """The tries, of which those with an earlier one's question, but for case, spacing and marks, are dropped as repeated.

    The first one counts whatever its answers were: who is asked again has no second chance.
    """
    seen = set[bytes]()
    found = []
    for one in tries:
        if not one.dropped or one.dropped in OUTVOTED:
            key = text_key(normalised(one.question))
            # answers that were drawn all the same, where a stage did not see the earlier one yet, are let go
            asked = {k: v for k, v in one.reference.items() if k != "answer"}
            one = Try(one.number, one.question, "repeated", asked) if key in seen else one
            seen.add(key)
        found.append(one)
    return found


def voted(one: Try, problem: Problem, answers: Sequence[str | None], agreement: float) -> Try:
    """The try with its answers, and the one that at least the share `agreement` of them names, where that is a number.

    An answer that as many name as another is no agreement, however low the share may be.
    """
    one = replace(one, answers=tuple(answers))
    classes = answer_classes(problem, answers)
    votes = Counter(c for c in classes if c is not None)
    if not votes:
        return replace(one, dropped="no_answer")
    (best, num), *others = votes.most_common(2)
    one = replace(one, share=num / len(answers))
    if one.share < agreement or (others and others[0][1] == num):
        return replace(one, dropped="disagreed")
    answer = _number(answers[classes.index(best)] or "")
    if not answer:
        return replace(one, dropped="not_plain")
    return replace(one, reference={**one.reference, "answer": answer})


def _number(answer: str) -> str:
    """A number as a reference states it; "" of what is none."""
    text = canonical(answer) if len(answer) <= MAX_ANSWER_CHARS else ""
    found = quantity(text)
    if found is None:
        return ""
    is_bare = found.unit in ("", "$") or found.unit.startswith("?")  # what is counted is in the question
    return str(found.value) if is_bare and found.value.denominator == 1 else text


def counted(tries: Sequence[Try]) -> dict[str, int]:
    """How many were tried and kept, and how many dropped for each reason."""
    dropped = Counter(t.dropped for t in tries)
    reasons = {f"dropped_{reason}": dropped[reason] for reason in (*UNASKED, *OUTVOTED)}
    return {"tries": len(tries), "kept": dropped[""], **reasons}
