"""How new problems are: how many are old ones again, how they vary in themselves, and how near the nearest old one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reasoner.data.splits import ContaminationConfig, HeldOut, normalised, words
from reasoner.tree import Problem

NGRAM = 3  # words and signs in a row by which nearness is measured


class Diversity(NamedTuple):
    """Shares from 0 to 1, of the new problems where nothing else is said."""

    exact: float  # that are an old problem
    normalised: float  # that are one but for case, spacing and marks
    distinct_2: float  # of all pairs of words in a row, those that are different
    distinct_3: float
    nearest: float  # of the n-grams of the old problem that has most of its own in a new one, those that are there; the mean


def diversity(new: Sequence[str], old: Sequence[str]) -> Diversity:
    """Of the texts of problems; ValueError where there is no new one. Nearness is compared as contamination is (data/splits)."""
    if not new:
        raise ValueError("got no new problems; expected at least one to measure")
    problems = [Problem(str(i), text, "math", {}, "", "") for i, text in enumerate(old)]
    held = HeldOut(problems, ContaminationConfig(ngram=NGRAM, share=1e-9))
    exact, alike = set(old), set(map(normalised, old))
    return Diversity(
        exact=sum(text in exact for text in new) / len(new),
        normalised=sum(normalised(text) in alike for text in new) / len(new),
        distinct_2=distinct(new, 2),
        distinct_3=distinct(new, 3),
        nearest=sum(max((m.share for m in held.matches(t)), default=0.0) for t in new) / len(new),
    )


def distinct(texts: Sequence[str], n: int) -> float:
    """The share of different ones among all n-grams of words and signs (Li et al. 2016); 0 where no text has n of them."""
    ngrams = [tuple(of[i : i + n]) for of in map(words, texts) for i in range(len(of) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0
