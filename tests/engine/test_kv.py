"""Memory of running sequences: taken as they grow, given back when none is left, and no other text for it."""

import pytest
import torch
from small_models import small_lm

from reasoner.engine.kv import SlotCache, capacity
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, Sampling, place_key
from reasoner.registry import UserError
from reasoner.search.grow import Branch, Growth, grow
from reasoner.tree import Problem, Tree

PROMPT = [5, 9, 2, 33, 7, 7, 41, 12]
PER_TOKEN = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head size, bytes


@pytest.fixture(scope="module")
def lm():
    return small_lm("qwen2")


def request(id, max_tokens, prefix=PROMPT) -> Request:
    return Request(id, prefix, max_tokens, place_key(0, 0, str(id), [(len(prefix), 0)]), Sampling())


def held(engine: LocalEngine) -> int:
    """Bytes of the storages behind the cache, each counted once."""
    cache = engine.cache
    tensors = (*cache.parts_L2RKSD, *cache.layers_2RKSD, *cache.rows_2ND, *cache.rows_MD)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
    assert sum(storages.values()) == cache.nbytes
    return cache.nbytes


@pytest.mark.parametrize(
    ("needed", "most", "step", "allotted"),
    [
        (1, 512, 64, 64), (64, 512, 64, 64), (65, 512, 64, 128), (193, 512, 64, 256), (257, 512, 64, 384),
        (385, 512, 64, 512), (513, 4096, 64, 768), (769, 4096, 64, 1024), (1025, 1200, 64, 1200), (3, 40, 64, 40),
        (1, 100, 8, 8), (17, 100, 8, 24), (33, 100, 8, 48), (65, 100, 8, 96), (97, 100, 8, 100),
    ],
)  # fmt: skip
def test_what_is_allotted(needed, most, step, allotted):
    assert capacity(needed, most, step) == allotted


def test_memory_follows_the_longest_running_sequence_and_falls_to_nothing(lm):
    engine = LocalEngine(lm, [], num_slots=64, max_context=400)
    assert (held(engine), engine.outputs.nbytes) == (0, 0)
    engine.submit([request("short", 20), request("longer", 100), request("longest", 300)])
    for name, positions in (("short", 64), ("longer", 128), ("longest", 384)):
        assert [c.id for c in engine.poll()] == [name]
        assert held(engine) == 8 * positions * PER_TOKEN
        assert engine.outputs.nbytes == 8 * positions * (8 + 3 * 4)
    engine.submit(request(i, 4) for i in range(30))
    assert len(engine.poll()) == 30
    assert held(engine) == 32 * 384 * PER_TOKEN  # more rows, as long as the longest was
    assert engine.poll() == []
    assert (held(engine), engine.outputs.nbytes) == (0, 0)
    engine.sample([request("last", 390)])
    assert (held(engine), engine.outputs.nbytes) == (0, 0)


def test_what_is_finished_is_kept_until_it_is_released(lm):
    engine = LocalEngine(lm, [], num_slots=4, max_context=64)
    before = engine.sample([request("a", 10)])
    assert engine.prefixes.num_bytes == (8 + 9) * PER_TOKEN and engine.decoder is not None
    engine.submit([request("b", 10)])
    engine.release()  # nothing of what waits
    assert engine.prefixes.num_bytes == 0 and engine.decoder is None
    assert [c.id for c in engine.poll()] == ["b"]
    assert engine.sample([request("a", 10)]) == before


def test_nothing_is_held_once_trees_are_grown(lm):
    engine = LocalEngine(lm, [], num_slots=4, max_context=64)
    tree = Tree.of_prompt(Problem("p", "", "math", {}), PROMPT)
    grow(
        [tree], engine, lambda tree, wave: [Branch(0, 8)] * (3 if wave == 0 else 0), Growth(lambda *_: [], 10)
    )
    assert len(tree.nodes) == 4 and engine.prefixes.num_bytes > 0
    assert (held(engine), engine.outputs.nbytes) == (0, 0)


def test_no_more_is_taken_than_allowed(lm):
    engine = LocalEngine(lm, [], num_slots=64, max_context=100, slot_bytes=5 * 100 * PER_TOKEN)
    engine.submit(request(i, 92) for i in range(12))
    most = 0
    while engine.poll():
        most = max(most, held(engine))
    assert most == 5 * 100 * PER_TOKEN


@pytest.mark.parametrize(
    ("kind", "options"), [("qwen2", {}), ("gemma3_text", {"sliding_window": 8})], ids=["qwen2", "gemma3"]
)
def test_growth_changes_no_bit(kind, options):
    model = small_lm(kind, **options)
    asked = [request(i, 10 + 23 * i % 150, [1 + (7 * i + 3 * j) % 60 for j in range(2 + 5 * i)]) for i in range(12)]  # fmt: skip
    grown, whole = (LocalEngine(model, [0], num_slots=10, max_context=200) for _ in range(2))
    with torch.inference_mode():
        whole.cache.allot(10, 200)
    found = grown.sample(asked)
    assert found == whole.sample(asked)
    assert max(len(r.prefix_ids) + len(c.token_ids) for r, c in zip(asked, found, strict=True)) > 128


def test_a_device_without_room(lm):
    cache = SlotCache(lm, 1 << 20, 1 << 20)
    cache.reserve(2, 3)
    with pytest.raises(
        UserError, match=r"of 1048576 sequences of 1048576 tokens take [\d,]+\.\d GB \(.* num_slots or"
    ):
        cache.reserve(1 << 20, 1 << 20)
    assert cache.nbytes == 0


def test_sequences_that_outgrow_the_device_end_the_run_and_not_the_engine(lm, monkeypatch):
    engine = LocalEngine(lm, [], num_slots=4, max_context=400)
    zeros = torch.zeros

    def full(*shape, **options):
        if shape and isinstance(shape[0], tuple) and shape[0][-2:-1] == (128,):
            raise torch.OutOfMemoryError("no room")
        return zeros(*shape, **options)

    monkeypatch.setattr(torch, "zeros", full)
    engine.submit([request("long", 200), request("waits", 5)])
    with pytest.raises(UserError, match=r"of 4 sequences of 128 tokens take .* and cpu has no room for them"):
        while engine.poll():
            pass
    assert (held(engine), engine.rows, list(engine.pending)) == (0, [], [])
    assert len(engine.sample([request("short", 5)])[0].token_ids) == 5
