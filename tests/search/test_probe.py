"""Continuing every step, against a reasoner whose step values are known in closed form."""

import math
from typing import Any, cast

import pytest
from markov import BAD, EOS, RIGHT, MarkovEngine, judge, mark_steps, markov_trees, state_of
from small_models import CORRECT, WRONG

from reasoner.search.grow import Growth, grow
from reasoner.search.probe import ProbeConfig, probability_above, probe
from reasoner.tree import ROOT, Counts, Node, counts

K, ERROR, RECOVERY = 6, 0.3, 0.1


def probed(num_trees: int, ends_right: bool | None = None, **options):
    """Trees of one chain each, that turns wrong somewhere, with the continuations of its steps."""
    engine, trees = MarkovEngine(K, ERROR, RECOVERY), markov_trees(num_trees)
    for i, tree in enumerate(trees):
        first_wrong = i % K
        tree.add(
            Node(
                ROOT,
                1,
                (*[RIGHT] * first_wrong, *[BAD] * (K - first_wrong), EOS),
                step_ends=(*range(K - 1), K),
            )
        )
        tree.verdicts[1] = CORRECT if ends_right else WRONG
    grow(trees, cast(Any, engine), probe(ProbeConfig(**options)), Growth(mark_steps, K + 1), observe=judge)
    return engine, trees


def states(trees) -> dict[tuple[int, bool], list[Counts]]:
    """Counts of the chains' inner states, by steps done and whether the last is right."""
    found: dict[tuple[int, bool], list[Counts]] = {}
    for tree in trees:
        for offset in range(1, K):
            found.setdefault(state_of(tree, 1, offset), []).append(counts(tree, 1, offset))
    return found


def test_every_state_is_continued_n_times_and_the_counts_are_unbiased():
    engine, trees = probed(600, num_continuations=4)
    for (m, is_right), drawn in states(trees).items():
        assert {s.n for s in drawn} == {4}
        v, n = engine.value(m, is_right), 4 * len(drawn)
        # beyond 4 standard errors by chance once in 16 000
        assert abs(sum(s.c for s in drawn) / n - v) < 4 * math.sqrt(v * (1 - v) / n)


def test_stopping_at_the_first_success_draws_what_the_formula_says_and_gives_the_same_hard_labels():
    limit = 8
    engine, trees = probed(600, num_continuations=limit, stop="first_success")
    full_engine, full = probed(600, num_continuations=limit)
    for tree, other in zip(trees, full, strict=True):
        for offset in range(1, K):
            stopped, all_drawn = counts(tree, 1, offset), counts(other, 1, offset)
            assert (stopped.c > 0) == (all_drawn.c > 0)  # a place draws the same whatever the rule
            assert stopped.c == 1 or stopped == Counts(limit, 0, 0)
    for (m, is_right), drawn in states(trees).items():
        p = engine.value(m, is_right)
        expected, spread = (1 - (1 - p) ** limit) / p, limit / 2
        mean = sum(s.n for s in drawn) / len(drawn)
        assert abs(mean - expected) < 4 * spread / math.sqrt(len(drawn))
    assert engine.decoded < 0.7 * full_engine.decoded


def test_a_chain_that_ends_right_needs_no_draw_for_hard_labels():
    engine, trees = probed(6, ends_right=True, num_continuations=8, stop="first_success")
    assert engine.decoded == 0 and all(len(t.nodes) == 2 for t in trees)


def test_decided_states_stop_early_and_are_seldom_on_the_wrong_side():
    engine, trees = probed(600, num_continuations=40, stop="decided", threshold=0.5, level=0.95)
    decided = wrong = total = 0
    for (m, is_right), drawn in states(trees).items():
        v = engine.value(m, is_right)
        for s in drawn:
            above = probability_above(s.n, s.c, 0.5)
            assert s.n == 40 or max(above, 1 - above) >= 0.95
            if s.n < 40:
                decided += 1
                wrong += (above > 0.5) != (v > 0.5)
            total += s.n
    assert decided > 1000
    # looking after every draw errs more often than the level of one look; far states are 0.3 from the threshold
    assert wrong / decided < 0.15
    assert total < 0.5 * 40 * 600 * (K - 1)


@pytest.mark.parametrize(
    ("n", "c", "threshold", "expected"),
    # Beta(1, 1), Beta(2, 1), Beta(1, 3) and Beta(2, 2), whose distribution functions are polynomials
    [
        (0, 0, 0.3, 0.7),
        (1, 1, 0.5, 1 - 0.25),
        (2, 0, 0.5, 0.125),
        (2, 1, 0.25, 1 - (3 * 0.0625 - 2 * 0.015625)),
    ],
)
def test_posterior_by_hand(n, c, threshold, expected):
    assert probability_above(n, c, threshold) == pytest.approx(expected)


def test_what_cannot_be_judged_is_not_drawn_for_ever():
    engine, trees = MarkovEngine(K, ERROR, RECOVERY), markov_trees(1)
    trees[0].add(Node(ROOT, 1, (RIGHT, BAD, EOS), step_ends=(0, 2)))
    trees[0].verdicts[1] = WRONG
    grow(
        trees,
        engine,
        probe(ProbeConfig(num_continuations=3, stop="first_success")),
        Growth(mark_steps, K + 1),
    )
    assert len(trees[0].nodes) == 2 + 3
