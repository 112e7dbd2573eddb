"""How new problems are, by hand."""

import pytest

from reasoner.data.diversity import Diversity, distinct, diversity

OLD = ["Ann has 3 red apples", "Ben eats 4 pears"]


def test_by_hand():
    found = diversity(
        ["Ann has 3 red apples", "ann has  3 red apples.", "Ann has 3 green apples", "We go home now"], OLD
    )
    # "ann has 3" is one of the three triples of the first old one; the last shares none
    assert found.exact == 0.25 and found.normalised == 0.5
    assert found.nearest == pytest.approx((1 + 1 + 1 / 3 + 0) / 4)
    # ann-has, has-3 (three times), 3-red, red-apples (twice), apples-., 3-green, green-apples, we-go, go-home, home-now
    assert found.distinct_2 == pytest.approx(10 / 16)
    assert found.distinct_3 == pytest.approx(8 / 12)


def test_the_nearest_counts():
    (share,) = {diversity(["Ben eats 4 pears and has 3 red hats"], OLD).nearest}
    assert share == 1.0
    assert diversity(["She has 3 red hats"], OLD).nearest == pytest.approx(1 / 3)


def test_expressions_are_words_and_signs():
    found = diversity(["5-4+3+6"], ["5-4+3"])
    assert found == Diversity(0.0, 0.0, 1.0, 1.0, 1.0)
    assert diversity(["5-4+6"], ["5-4+3"]).nearest == pytest.approx(2 / 3)


def test_texts_too_short_for_ngrams():
    assert distinct(["one"], 2) == 0.0 and diversity(["one"], ["two"]) == Diversity(0.0, 0.0, 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="no new problems"):
        diversity([], OLD)
