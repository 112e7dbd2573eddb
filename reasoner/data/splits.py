"""Nothing of a benchmark is trained on: training texts that hold an evaluation problem are found, and dropped by the caller.

Three comparisons, the first that hits counts: the same text; the same text once case, spacing and the marks that only
set it are gone; and, for problems of enough words, n-grams in common (Brown et al. 2020, appendix C, without its
rule that one n-gram is enough: school problems share phrases of 13 words with many others).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic import Field

from reasoner.config import Config
from reasoner.tree import Problem

_SET = re.compile(r"\\(?:left|right|displaystyle|[,;:! ])|[$\\{}]|\s+")
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # Japanese, Chinese, Korean: a character is a word
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+|[^\w\s]")


class ContaminationConfig(Config):
    """When a training text counts as holding a problem of the set `test`."""

    ngram: int = Field(default=13, ge=2, description="words and signs in a row that are compared")
    share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="share of a problem's n-grams in a training text from which it is contaminated",
    )


class Match(NamedTuple):
    """A training text that holds an evaluation problem; `how` is exact, normalised or ngram."""

    problem_id: str
    how: str
    share: float  # of the problem's n-grams; 1 for equal texts


def words(text: str) -> list[str]:
    """A text as its words and signs, without case, spacing and what only sets it."""
    return _WORD.findall(_SET.sub(" ", unicodedata.normalize("NFKC", text).casefold()))


def normalised(text: str) -> str:
    return " ".join(words(text)).rstrip(" .?!")


class HeldOut:
    """Evaluation problems, to compare training texts with; memory grows with the problems, not with the texts."""

    def __init__(self, problems: Iterable[Problem], config: ContaminationConfig):
        self.config = config
        self._ids: list[str] = []  # of the distinct problems; an id may stand for several of them
        self._exact: dict[str, int] = {}
        self._normalised: dict[str, int] = {}
        self._of_ngram: dict[int, list[int]] = defaultdict(list)
        self._num_ngrams: list[int] = []
        for problem in problems:
            if problem.prompt in self._exact:
                continue
            number = len(self._ids)
            ngrams = _ngrams(words(problem.prompt), config.ngram)
            self._ids.append(problem.id)
            self._num_ngrams.append(len(ngrams))
            self._exact[problem.prompt] = number
            self._normalised.setdefault(normalised(problem.prompt), number)
            for ngram in ngrams:
                self._of_ngram[ngram].append(number)

    def matches(self, prompt: str, text: str = "") -> list[Match]:
        """The problems that a training example holds: its prompt equals one, or prompt and `text` share its n-grams."""
        found: dict[int, Match] = {}
        for how, table, key in (
            ("exact", self._exact, prompt),
            ("normalised", self._normalised, normalised(prompt)),
        ):
            if key in table:
                found.setdefault(table[key], Match(self._ids[table[key]], how, 1.0))
        shared: Counter[int] = Counter()
        for ngram in _ngrams(words(f"{prompt}\n{text}"), self.config.ngram):
            shared.update(self._of_ngram.get(ngram, ()))
        for number, num in shared.items():
            share = num / self._num_ngrams[number]
            if share >= self.config.share:
                found.setdefault(number, Match(self._ids[number], "ngram", share))
        return list(found.values())


def _ngrams(of: Sequence[str], n: int) -> set[int]:
    """Hashes of the n-grams; none for a shorter text."""
    return {hash(tuple(of[i : i + n])) for i in range(len(of) - n + 1)}
