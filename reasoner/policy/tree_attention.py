"""Attention over packed trees node by node: what a node's tokens cannot see is not computed, where masks compute and drop it.

A long row holds many branches, of which a token sees one path. On a CPU each run of tokens with the same ancestors is
one attention call over these and itself; on a GPU the kernel goes by blocks (flex_attention).

Shape suffixes: B rows, T packed positions, S key positions, H heads, K key/value heads, Q tokens of all query heads of
a key/value head, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from reasoner.policy.attention import is_plain
from reasoner.policy.flex_attention import BlockMask, by_blocks

# pairs of positions whose attention takes as long as one more call, forward and backward; measured on a CPU
CALL_COST = 20_000


class Block(NamedTuple):
    """Tokens `start` to `stop` of a row, each of which sees the positions `seen` and the block up to itself.

    `bias_11TS` says so for `seen` and the block, in this order; None where each token sees itself alone.
    """

    row: int
    start: int
    stop: int
    seen: torch.Tensor
    bias_11TS: torch.Tensor | None


def blocks_of(mask_B1TT: torch.Tensor, dtype: torch.dtype) -> list[Block] | None:
    """The blocks of packed rows, in order; None where the masked kernel is no slower."""
    masks_BTT = mask_B1TT[:, 0].numpy()
    num_rows, width, _ = masks_BTT.shape
    runs = [run for row in range(num_rows) for run in _runs(masks_BTT[row], row)]
    pairs = sum((stop - start) * int(masks_BTT[row, stop - 1].sum()) for row, start, stop in runs)
    if pairs + CALL_COST * len(runs) >= num_rows * width * width:
        return None
    return [_block(masks_BTT[row], row, start, stop, dtype) for row, start, stop in runs]


def _runs(mask_TT: np.ndarray, row: int) -> Iterator[tuple[int, int, int]]:
    """(row, start, stop) of tokens of which each sees what the one before it saw, and itself; padding is one run."""
    width = len(mask_TT)
    goes_on_T = np.append(False, (mask_TT[1:] != mask_TT[:-1]).sum(1) == 1)
    starts = np.flatnonzero(~goes_on_T).tolist()
    alone_from = None
    for start, stop in zip(starts, [*starts[1:], width], strict=True):
        is_alone = stop == start + 1 and mask_TT[start].sum() == 1
        if alone_from is not None and not is_alone:
            yield row, alone_from, start
            alone_from = None
        if not is_alone:
            yield row, start, stop
        elif alone_from is None:
            alone_from = start
    if alone_from is not None:
        yield row, alone_from, width


def _block(mask_TT: np.ndarray, row: int, start: int, stop: int, dtype: torch.dtype) -> Block:
    seen = np.flatnonzero(mask_TT[stop - 1])
    if len(seen) == 1:
        return Block(row, start, stop, torch.from_numpy(seen), None)
    hidden_TS = torch.from_numpy(~mask_TT[start:stop, seen])
    bias_TS = torch.zeros(hidden_TS.shape, dtype=dtype).masked_fill_(hidden_TS, float("-inf"))
    return Block(row, start, stop, torch.from_numpy(seen), bias_TS[None, None])


def _tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | BlockMask | None,
    scaling: float | None = None,
    blocks: Sequence[Block] | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """transformers' signature: query [B, H, T, D], keys and values [B, K, T, D]; returns [B, T, H, D]."""
    if isinstance(attention_mask, BlockMask):
        return by_blocks(query, key, value, attention_mask, scaling).transpose(1, 2), None
    # no tree, or an architecture that does not hand on what it does not know: the mask is there too
    if blocks is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    num_groups = query.shape[1] // key.shape[1]
    rows: list[list[torch.Tensor]] = [[] for _ in range(len(query))]
    for row, start, stop, seen, bias_11TS in blocks:
        if bias_11TS is None:
            value_1KTD = value[row : row + 1, :, start:stop]
            rows[row].append(value_1KTD.repeat_interleave(num_groups, dim=1))
            continue
        # query heads of a group share their keys: they stand one after the other as one longer query
        query_1KQD = (
            query[row : row + 1, :, start:stop].unflatten(1, (key.shape[1], num_groups)).flatten(2, 3)
        )
        key_1KSD, value_1KSD = (x[row : row + 1].index_select(2, seen) for x in (key, value))
        bias_11QS = bias_11TS.repeat(1, 1, num_groups, 1)
        out_1KQD = F.scaled_dot_product_attention(
            query_1KQD, key_1KSD, value_1KSD, attn_mask=bias_11QS, scale=scale
        )
        rows[row].append(out_1KQD.unflatten(2, (num_groups, -1)).flatten(1, 2))
    return torch.cat([torch.cat(parts, dim=2) for parts in rows]).transpose(1, 2), None


# in place of transformers' own, to which all else goes on: layers that are recomputed in a backward pass come here too
AttentionInterface.register("sdpa", _tree_attention)


def suits(lm, mask: torch.Tensor) -> bool:
    """Whether a model's attention is plain softmax over one mask, on a CPU, with nothing dropped out."""
    return mask.dtype == torch.bool and mask.device.type == "cpu" and is_plain(lm)
