"""Rules for where steps end, on pieces of text typed by hand."""

import math

import pytest

from reasoner.data.steps import RULES, Marking, StepConfig
from reasoner.registry import UserError


def marks(text: list[str], rule="delimiter", delimiter="\n", before=(), logprobs=(), **options) -> list[int]:
    """Ends among the pieces of `text`, after the pieces `before`."""
    pieces = sorted({*text, *before})
    marking = Marking(StepConfig(rule=rule, **options), delimiter, [p.encode() for p in pieces])
    ids = [pieces.index(p) for p in text]
    return RULES[rule](ids, logprobs, [pieces.index(p) for p in before], marking)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (["a", "\n", "b"], [1]),
        (["a\n", "b\n", "c"], [0, 1]),
        (["a", "\n", "\n", "b"], [2]),
        (["```", "x", "\n", "y", "```", "\n", "b"], [5]),
        (["`", "``py\n", "y\n", "``", "`", "\n"], [5]),  # fences over token borders
        (["```", "x\n", "y\n"], []),  # never closed
        (["$$", "x\n", "$", "$\n"], [3]),
        (["\\", "[x\n", "\\]", "\n"], [3]),
        (["\\begin{align}", "x\\\\\n", "\\end{align}", "\n", "b\n"], [3, 4]),
        (["\\begin{a}\n", "\\end{b}\n", "\\end{a}\n"], [2]),
        (["costs $5\n", "or $6\n"], [0, 1]),  # prices are no formulas
        (["a", ""], []),
    ],
)
def test_delimiters(text, ends):
    assert marks(text) == ends


def test_delimiters_over_token_borders():
    assert marks(["a.", "\n", "\n", "b", "\n", "c"], delimiter="\n\n") == [2]
    assert marks(["a.\n\nb", "c\n\n"], delimiter="\n\n") == [0, 1]
    assert marks(["\n", "b"], delimiter="\n\n", before=["a", "\n"]) == [0]


def test_what_came_before_counts():
    assert marks(["x\n", "```", "\n"], before=["```"]) == [2]
    assert marks(["x\n", "```", "\n"]) == [0]
    assert marks(["b"], before=["a\n"]) == []


def test_count_goes_on_from_the_prefix():
    assert marks(["a"] * 7, "count", size=3) == [2, 5]
    assert marks(["a"] * 7, "count", size=3, before=["a"] * 2) == [0, 3, 6]


@pytest.mark.parametrize(("length", "ends"), [(8, [1, 3, 5, 7]), (10, [1, 4, 6, 9]), (3, [0, 1, 2]), (0, [])])
def test_pieces(length, ends):
    assert marks(["a"] * length, "pieces", size=4) == ends


def test_low_probability_cuts_before_every_second_unlikely_token():
    low, high = math.log(0.5), math.log(0.95)
    logprobs = [low, high, low, high, low, low, high, low, low]
    assert marks(["a"] * 9, "low_probability", logprobs=logprobs, size=2) == [3, 6]
    assert marks(["a"] * 9, "low_probability", logprobs=logprobs, size=1) == [1, 3, 4, 6, 7]
    assert marks(["a"] * 9, "low_probability", logprobs=logprobs, size=1, threshold=0.4) == []
    with pytest.raises(UserError, match="9 tokens came with 0 log-probabilities"):
        marks(["a"] * 9, "low_probability")
