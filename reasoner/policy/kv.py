"""Keys and values of running sequences: one slot per row, all layers in one tensor.

Shape suffixes: L layers, 2 keys and values, R slots, H key/value heads, S positions, D head size.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class SlotCache(Cache):
    """A transformers cache whose rows are slots: each call writes at every row's own positions.

    `select` chooses the rows and positions of the next forward pass: the first `num_rows` slots with one
    token each (decoding), or a list of slots with several tokens (prefilling).
    """

    def __init__(self, config, num_slots: int, max_length: int, dtype: torch.dtype, device: torch.device):
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, num_slots, heads, max_length, head_dim)
        self.kv_L2RHSD = torch.zeros(shape, dtype=dtype, device=device)
        super().__init__(layers=[_SlotLayer(self, i) for i in range(config.num_hidden_layers)])

    def select(self, slots: torch.Tensor | int, positions_RT: torch.Tensor, width: int) -> None:
        """Rows (a count of leading slots, or slot numbers), where their new tokens go, and how many positions are read."""
        self.slots, self.positions_RT, self.width = slots, positions_RT, width
        if isinstance(slots, int):
            self.row_R1 = torch.arange(slots, device=positions_RT.device)[:, None]
        else:
            self.row_R1 = slots[:, None]

    def read(self, slot: int, start: int, end: int) -> torch.Tensor:
        """A copy of one slot's keys and values at positions `start` to `end`: [L, 2, H, end - start, D]."""
        return self.kv_L2RHSD[:, :, slot, :, start:end].clone()

    def write(self, slot: int, segments: list[torch.Tensor]) -> None:
        """Fill a slot from position 0 with segments as `read` returns them."""
        at = 0
        for segment in segments:
            length = segment.shape[3]
            self.kv_L2RHSD[:, :, slot, :, at : at + length] = segment
            at += length

    def clear(self, slot: int) -> None:
        self.kv_L2RHSD[:, :, slot] = 0

    def move(self, source: int, target: int, length: int) -> None:
        self.kv_L2RHSD[:, :, target, :, :length] = self.kv_L2RHSD[:, :, source, :, :length]


class _SlotLayer(CacheLayerMixin):
    """One layer's view of a SlotCache."""

    def __init__(self, cache: SlotCache, layer: int):
        super().__init__()
        self.keys_RHSD, self.values_RHSD = cache.kv_L2RHSD[layer]
        self.cache = cache
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        return None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        c = self.cache
        # [R, H, T, D] -> [R, T, H, D]: advanced indices on both sides of the heads put the rows first
        self.keys_RHSD[c.row_R1, :, c.positions_RT] = key_states.transpose(1, 2)
        self.values_RHSD[c.row_R1, :, c.positions_RT] = value_states.transpose(1, 2)
        rows = slice(0, c.slots) if isinstance(c.slots, int) else c.slots
        return self.keys_RHSD[rows, :, : c.width], self.values_RHSD[rows, :, : c.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.width, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.keys_RHSD.shape[2]
