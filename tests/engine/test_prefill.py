"""What is run before decoding: every token of shared prefixes once, heads before their tails."""

import random

import pytest

from reasoner.engine.prefill import PREFILL_TOKENS, Span, chunks, waves

HEAD = tuple(range(100, 140))


def test_prefixes_of_prefixes_come_with_the_longest():
    long = (1, 2, 3, 4)
    assert waves([(1, 2), long, (1,), (1, 2, 3)], [0, 0, 0, 0]) == [[Span(long, 0)]]


def test_a_long_shared_head_is_run_first():
    tails = [(*HEAD, i, i) for i in range(3)]
    assert waves(tails, [0, 0, 0]) == [[Span(HEAD, 0)], [Span(t, 40) for t in tails]]


def test_a_short_shared_head_is_run_with_each():
    tails = [(1, 2, i) for i in range(3)]
    assert waves(tails, [0, 0, 0]) == [[Span(t, 0) for t in tails]]


def test_what_is_known_is_not_run():
    tails = [(*HEAD, i, i) for i in range(3)]
    assert waves([*tails, (5,)], [40, 42, 41, 1]) == [[Span(tails[0], 40), Span(tails[2], 41)]]
    assert waves(tails, [15, 15, 15]) == [[Span(HEAD, 15)], [Span(t, 40) for t in tails]]
    assert waves([], []) == []
    assert waves([()], [0]) == []


@pytest.mark.parametrize("seed", range(20))
def test_all_is_covered_and_each_span_follows_what_it_needs(seed):
    rng = random.Random(seed)
    words = [tuple(rng.randrange(3) for _ in range(rng.choice((1, 5, 40)))) for _ in range(6)]
    prefixes = list({sum(rng.choices(words, k=rng.randrange(5)), ()) for _ in range(30)})
    there: set[tuple[int, ...]] = {()}
    num_run = 0
    for wave in waves(prefixes, [0] * len(prefixes)):
        assert all(span.tokens[: span.start] in there for span in wave)
        for tokens, start in wave:
            there.update(tokens[: n + 1] for n in range(start, len(tokens)))
            num_run += len(tokens) - start
    assert there.issuperset(prefixes)
    distinct = {p[: n + 1] for p in prefixes for n in range(len(p))}
    assert len(distinct) <= num_run < len(distinct) + 32 * len(prefixes)


def test_chunks_hold_no_more_than_one_pass_takes():
    spans = [Span(tuple(range(n)), n // 2) for n in random.Random(0).choices(range(2, 3000), k=60)]
    found = chunks(spans, lambda span: span)
    assert sorted(s for chunk in found for s in chunk) == sorted(spans)
    for chunk in found:
        longest = max(len(s.tokens) - s.start for s in chunk)
        assert len(chunk) == 1 or len(chunk) * longest <= PREFILL_TOKENS
