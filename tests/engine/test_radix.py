"""The prefix cache: what goes in comes out, cut and evicted as it may be."""

import pytest
import torch

from reasoner.engine.radix import RadixCache

NUM_LAYERS, NUM_HEADS, HEAD_SIZE = 2, 1, 3
BYTES = NUM_LAYERS * 2 * NUM_HEADS * HEAD_SIZE * 4  # of one token


def kv_of(tokens: list[int]) -> torch.Tensor:
    """Keys and values that tell their token and what came before it."""
    numbers = torch.tensor([sum(tokens[: i + 1]) * 10.0 + i for i in range(len(tokens))])
    layers = torch.arange(NUM_LAYERS * 2 * NUM_HEADS).view(NUM_LAYERS, 2, NUM_HEADS, 1, 1) * 1000.0
    return (layers + numbers[:, None]).expand(-1, -1, -1, -1, HEAD_SIZE).clone()


def put(cache: RadixCache, tokens: list[int], start: int = 0) -> None:
    cache.insert(tokens, kv_of(tokens)[:, :, :, start:], start)


def check(cache: RadixCache, tokens: list[int], known: int) -> None:
    found, segments = cache.match(tokens)
    assert found == known
    if known:
        assert torch.equal(torch.cat(segments, 3), kv_of(tokens)[:, :, :, :known])
    else:
        assert segments == []


def test_empty_cache_knows_nothing():
    cache = RadixCache(10**6)
    check(cache, [1, 2, 3], 0)
    check(cache, [], 0)


def test_longest_prefix():
    cache = RadixCache(10**6)
    put(cache, [1, 2, 3, 4])
    check(cache, [1, 2, 3, 4], 4)
    check(cache, [1, 2, 3, 4, 5], 4)
    check(cache, [1, 2], 2)
    check(cache, [1, 2, 9, 4], 2)
    check(cache, [2, 3, 4], 0)
    assert cache.num_bytes == 4 * BYTES


def test_edges_are_cut_where_sequences_part():
    cache = RadixCache(10**6)
    sequences = [[1, 2, 3, 4, 5], [1, 2, 3, 7], [1, 2, 8], [1, 2, 3, 4, 5, 6], [9, 1]]
    for tokens in sequences:
        known, _ = cache.match(tokens)
        put(cache, tokens, known)
    for tokens in sequences:
        check(cache, tokens, len(tokens))
    check(cache, [1, 2, 3, 8], 3)
    assert cache.num_bytes == (5 + 1 + 1 + 1 + 2) * BYTES  # each shared token once


def test_insertion_skips_what_is_known_already():
    cache = RadixCache(10**6)
    put(cache, [1, 2, 3])
    put(cache, [1, 2, 3, 4, 5])  # given whole
    put(cache, [1, 2, 3, 4, 5])
    put(cache, [1, 2])
    check(cache, [1, 2, 3, 4, 5], 5)
    assert cache.num_bytes == 5 * BYTES


def test_insertion_after_an_unknown_prefix_is_dropped():
    cache = RadixCache(10**6)
    put(cache, [1, 2, 3, 4], start=2)
    check(cache, [1, 2, 3, 4], 0)
    put(cache, [1, 2, 3])
    put(cache, [1, 2, 9, 9, 4], start=3)  # parts from the known after 2 tokens
    check(cache, [1, 2, 9, 9, 4], 2)
    check(cache, [1, 2, 3], 3)
    assert cache.num_bytes == 3 * BYTES


def test_least_recently_used_leaves_go_first():
    cache = RadixCache(10 * BYTES)
    put(cache, [1, 1, 1])
    cache.match([1, 1, 1])
    put(cache, [2, 2, 2])
    cache.match([2, 2, 2])
    put(cache, [3, 3, 3])
    cache.match([3, 3, 3])
    cache.match([1, 1, 1])  # 2 is now the oldest
    put(cache, [4, 4])
    assert cache.num_bytes == 8 * BYTES
    check(cache, [2, 2, 2], 0)
    check(cache, [1, 1, 1], 3)
    check(cache, [3, 3, 3], 3)
    check(cache, [4, 4], 2)


def test_a_shared_prefix_outlives_its_leaves():
    cache = RadixCache(9 * BYTES)
    put(cache, [1, 2, 3, 4, 5, 6])
    cache.match([1, 2, 3, 4, 5, 6])
    put(cache, [1, 2, 3, 7, 8, 9], start=3)
    cache.match([1, 2, 3, 7, 8, 9])
    put(cache, [5])  # 10 tokens are over the budget
    check(cache, [1, 2, 3, 4, 5, 6], 3)
    check(cache, [1, 2, 3, 7, 8, 9], 6)
    assert cache.num_bytes == 7 * BYTES


@pytest.mark.parametrize("max_tokens", [0, 1, 5, 20])
def test_the_budget_holds_and_what_is_found_is_right(max_tokens):
    cache = RadixCache(max_tokens * BYTES)
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(300):
        length = int(torch.randint(1, 9, (1,), generator=generator))
        tokens = torch.randint(0, 3, (length,), generator=generator).tolist()
        known, segments = cache.match(tokens)
        hits += known
        assert sum(s.shape[3] for s in segments) == known
        if known:
            assert torch.equal(torch.cat(segments, 3), kv_of(tokens)[:, :, :, :known])
        put(cache, tokens, known)
        assert cache.num_bytes <= cache.max_bytes
    assert (hits > 0) == (max_tokens > 0)


def test_clear_forgets():
    cache = RadixCache(10**6)
    put(cache, [1, 2, 3])
    cache.clear()
    check(cache, [1, 2, 3], 0)
    assert cache.num_bytes == 0


def test_what_was_put_in_may_be_overwritten_afterwards():
    cache = RadixCache(10**6)
    put(cache, [1, 2, 3])
    later = kv_of([1, 2, 3, 4])
    cache.insert([1, 2, 3, 4], later, 0)  # only its last token is new, and is copied
    later.zero_()
    check(cache, [1, 2, 3, 4], 4)
