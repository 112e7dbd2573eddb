"""Rules for where steps end, on pieces of text typed by hand."""

import math
import random

import pytest

from reasoner.data.steps import LOOK_AHEAD, RULES, Marking, StepConfig
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
        (["a", "\n", "\n", "b", "\n"], [1, 4]),  # whether a second one follows is not known at the first
        (["a\n\n", "\n", "b"], [0]),
        (["\n", "\n", "a", "\n"], [3]),
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


PIECES = ["a", "\n", "\n\n", ".\n", "```", "$$", "$", "\\[", "\\]", "\\begin{b}", "\\end{b}", "`"]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_all_rules_go_by_the_prefix_but_those_that_are_said_to_look_ahead(rule):
    """What a rule finds in a text is what it finds in each prefix of it, and behind any part of it that came before."""
    draw = random.Random(0)
    differ = 0
    for _ in range(300):
        text = draw.choices(PIECES, weights=[5, 4, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1], k=12)
        logprobs = [math.log(draw.choice([0.5, 0.95])) for _ in text]
        at = draw.randrange(1, len(text))
        ends = marks(text, rule, size=3, logprobs=logprobs)
        of_prefix = marks(text[:at], rule, size=3, logprobs=logprobs[:at])
        of_rest = marks(text[at:], rule, size=3, before=text[:at], logprobs=logprobs[at:])
        differ += of_prefix != [e for e in ends if e < at] or of_rest != [e - at for e in ends if e >= at]
    assert differ == 0 if rule not in LOOK_AHEAD else differ > 100
