"""Rows in groups of like length: which are read together, who moves where one ends, and no other text for it."""

import pytest
import torch
from small_models import small_lm

from reasoner.engine import groups
from reasoner.engine.groups import grouped, moves
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, Sampling, place_key
from reasoner.policy import attention
from reasoner.policy.attention import Group


def test_a_layer_of_few_bytes_is_one_group():
    assert grouped([3, 20, 7], 64, 10) == [Group(0, 3, 24)]
    assert grouped([3, 63, 7], 64, 10) == [Group(0, 3, 64)]  # no longer than a slot


def test_many_bytes_are_read_in_eight_groups_each_as_wide_as_its_longest():
    at = [500, 410, 300, 290, 200, 190, 100, 90, 60, 50, 9, 8, 7]
    assert grouped(at, 512, 1e6) == [
        Group(0, 2, 504), Group(2, 4, 304), Group(4, 6, 208), Group(6, 8, 104), Group(8, 10, 64), Group(10, 12, 16),
        Group(12, 13, 8),
    ]  # fmt: skip
    # 13 rows of 504 positions: just below and just above 4 MiB
    assert len(grouped(at, 512, 640.0)) == 1 and len(grouped(at, 512, 641.0)) == 7


@pytest.mark.parametrize(
    ("row", "size", "moved"),
    [
        # one group: the last row fills the gap
        (1, 7, [(6, 1)]),
        (6, 7, []),
        # groups of two: the longest of each later one moves up
        (0, 2, [(2, 0), (5, 2), (6, 5)]),
        (3, 2, [(5, 3), (6, 5)]),
        (5, 2, [(6, 5)]),
        (6, 2, []),
    ],
)
def test_who_moves_where_a_row_ends(row, size, moved):
    at = [90, 80, 70, 60, 40, 50, 10]
    assert moves(row, at, size) == moved


def test_rows_end_up_in_order_whatever_order_they_came_in():
    """Rows that last 100 steps come and go; after a while a step reads little more than the rows have."""
    rows = [(37 * i) % 100 for i in range(64)]
    for _ in range(300):
        rows = [at + 1 for at in rows]
        for row in reversed([i for i, at in enumerate(rows) if at >= 100]):
            for source, target in moves(row, rows, 8):
                rows[target] = rows[source]
            del rows[-1]
            rows.append(0)
    read = sum((g.end - g.start) * g.width for g in grouped(rows, 512, 1e6))
    assert sum(rows) < read < 1.25 * sum(rows)
    assert len(rows) * max(rows) > 1.8 * sum(rows)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("qwen2", {}),
        ("mistral", {"sliding_window": 24}),
        ("gemma3_text", {"sliding_window": 8}),
        ("gpt2", {}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_groups_change_no_draw(kind, options, monkeypatch):
    model = small_lm(kind, **options)
    asked = [
        Request(
            i,
            [1 + (7 * i + 3 * j) % 60 for j in range(2 + 5 * i)],
            10 + 23 * i % 70,
            place_key(0, 0, str(i), []),
            Sampling(),
        )
        for i in range(20)
    ]
    whole = LocalEngine(model, [0], num_slots=10, max_context=200).sample(asked)
    monkeypatch.setattr(groups, "LEAST_BYTES", 0)
    seen: list[int] = []
    attend_one = attention.attend_one

    def counted(query, key, value, seen_by, window, scale):
        seen.append(len(seen_by.groups))
        return attend_one(query, key, value, seen_by, window, scale)

    monkeypatch.setattr(attention, "attend_one", counted)
    monkeypatch.setattr("reasoner.engine.decoder.attend_one", counted)
    in_groups = LocalEngine(model, [0], num_slots=10, max_context=200).sample(asked)
    assert seen[0] == 5  # ten rows, two a group
    for a, b in zip(whole, in_groups, strict=True):
        assert (a.token_ids, a.stop_reason) == (b.token_ids, b.stop_reason)
        torch.testing.assert_close(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=1e-5, rtol=0)
