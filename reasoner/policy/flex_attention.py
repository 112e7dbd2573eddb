"""Attention over packed trees on a GPU: a kernel that skips the blocks of pairs that nobody sees, and no mask of T x T.

Who sees whom follows from two numbers a token (attention.tree_mask). The kernel is torch's FlexAttention (Dong et al.
2024), compiled once for all lengths; rows are padded to whole blocks. Tried on CPUs only, where the kernel is another one.

Shape suffixes: B rows, T packed positions, Q blocks of queries, K blocks of keys, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from reasoner.policy.attention import is_plain, windows

BLOCK = 128  # positions a side
LEAST_HEAD = 16  # the kernel multiplies no smaller matrices
# positions of a row from which on it is taken: a mask of fewer is below 64 MiB, and masks were met by more machines
LEAST_WIDTH = 8192
SHAPES = 64  # compiled forms kept: one or several rows, with gradients or without, of each network


@cache
def _compiled() -> Callable:
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    # whole or not at all: pieces of it would compute all pairs
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


# by type of device, what gives the kernel; elsewhere masks are as good
KERNELS: dict[str, Callable[[], Callable]] = {"cuda": _compiled}


def flexes(lm: Any, device: torch.device, width: int) -> bool:
    """Whether a model's layers attend here by blocks: in long rows, plain attention without a window, heads large enough.

    Left to masks are models of which transformers does not say that FlexAttention suits them (GPT-2, Falcon, Bloom),
    those with a sliding window, and those whose attention is eager for its soft cap or sinks (Gemma 2, GPT-OSS).
    """
    config = lm.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (
        device.type in KERNELS
        and width >= LEAST_WIDTH
        and lm._supports_flex_attn
        and is_plain(lm)
        and not windows(lm)
        and head_dim >= LEAST_HEAD
    )


def to_blocks(
    ids_BT: torch.Tensor, positions_BT: torch.Tensor, tour_B2T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, BlockMask]:
    """Packed rows padded to whole blocks, and the pairs of blocks to compute, for all layers of a forward pass."""
    width = ids_BT.shape[1]
    more = -width % BLOCK
    alone_T = torch.arange(width, width + more, dtype=tour_B2T.dtype, device=tour_B2T.device)
    alone_B2T = torch.stack([alone_T, alone_T + 1]).expand(len(tour_B2T), -1, -1)
    return (
        F.pad(ids_BT, (0, more)),
        F.pad(positions_BT, (0, more)),
        block_mask(torch.cat([tour_B2T, alone_B2T], -1)),
    )


def block_mask(tour_B2T: torch.Tensor) -> BlockMask:
    """Which blocks of pairs are seen in part and which whole, found a row of blocks at a time; T is a multiple of BLOCK."""
    enter_BT, leave_BT = (x.contiguous() for x in tour_B2T.unbind(1))

    def sees(b: Any, h: Any, query: Any, key: Any) -> Any:
        return (enter_BT[b, key] <= enter_BT[b, query]) & (enter_BT[b, query] < leave_BT[b, key])

    pairs = []
    for query_BT in enter_BT.split(BLOCK, 1):
        seen_BTT = (enter_BT[:, None] <= query_BT[..., None]) & (query_BT[..., None] < leave_BT[:, None])
        pairs.append(seen_BTT.unflatten(2, (-1, BLOCK)).sum((1, 3)))
    pairs_BQK = torch.stack(pairs, 1)
    whole_BQK = pairs_BQK == BLOCK**2
    in_part, whole = _listed((pairs_BQK > 0) & ~whole_BQK), _listed(whole_BQK)
    return BlockMask.from_kv_blocks(*in_part, *whole, BLOCK_SIZE=BLOCK, mask_mod=sees)


def _listed(some_BQK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many blocks of keys each block of queries has, and which: these first."""
    keys_BQK = some_BQK.byte().argsort(dim=-1, descending=True, stable=True)
    return some_BQK.sum(-1, dtype=torch.int32)[:, None], keys_BQK.int()[:, None]


def by_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: BlockMask, scale: float | None
) -> torch.Tensor:
    """Queries [B, H, T, D], keys and values [B, K, T, D] of whole blocks; returns [B, H, T, D]."""
    kernel = KERNELS[query.device.type]()
    return kernel(query, key, value, block_mask=mask, scale=scale, enable_gqa=True)
