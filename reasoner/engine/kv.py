"""Keys and values of running sequences: one slot per row, all layers in one tensor.

Shape suffixes: L layers, 2 keys and values, R slots, K key/value heads, S positions, D head size, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from reasoner.registry import UserError


def kv_shape(model) -> tuple[int, int, int]:
    """(layers, key/value heads, head size) of a model."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, heads, head_dim


def bytes_per_token(model) -> int:
    """Bytes that one token's keys and values take in all layers."""
    layers, heads, head_dim = kv_shape(model)
    return 2 * layers * heads * head_dim * model.dtype.itemsize


def room_for(model, num_slots: int, max_length: int) -> SlotCache:
    """A cache of so many slots; a UserError with the numbers where the device has no room for it."""
    try:
        return SlotCache(model, num_slots, max_length)
    except RuntimeError as problem:  # torch.OutOfMemoryError is one; a CPU's allocator raises it plain
        if not isinstance(problem, torch.OutOfMemoryError) and "allocate memory" not in str(problem):
            raise
        each = bytes_per_token(model) * max_length
        raise UserError(
            f"keys and values of {num_slots} sequences of {max_length} tokens take {num_slots * each / 1e9:,.1f} GB "
            f"({each / 1e9:.3g} GB each), and {model.device} has no room for them; expected as much: lower num_slots or "
            "max_tokens, or set engine.kv_bytes to what there is"
        ) from problem


class SlotCache(Cache):
    """A transformers cache whose rows are slots: each call writes at every row's own positions.

    `select` chooses the rows and positions of the next forward pass: the first `num_rows` slots with one
    token each (decoding), or a list of slots with several tokens (prefilling).
    """

    def __init__(self, model, num_slots: int, max_length: int):
        layers, heads, head_dim = kv_shape(model)
        shape = (layers, 2, num_slots, heads, max_length, head_dim)
        self.device = model.device
        self.kv_L2RKSD = torch.zeros(shape, dtype=model.dtype, device=self.device)
        # every (slot, head, position) is a row of D numbers, so that writing is one copy of rows
        self.rows_L2ND = self.kv_L2RKSD.view(layers, 2, num_slots * heads * max_length, head_dim)
        self.rows_LMD = self.rows_L2ND.flatten(1, 2)
        self.kind_2 = (
            torch.arange(2, device=self.device) * self.rows_L2ND.shape[2]
        )  # values come after all keys
        self.head_K1 = torch.arange(heads, device=self.device)[:, None] * max_length
        self.stride = heads * max_length
        super().__init__(layers=[_SlotLayer(self, i) for i in range(layers)])

    def select(self, slots: torch.Tensor | int, positions_RT: torch.Tensor, width: int) -> None:
        """Rows (a count of leading slots, or slot numbers), where their new tokens go, and how many positions are read."""
        self.slots, self.width = slots, width
        slot_R = torch.arange(slots, device=self.device) if isinstance(slots, int) else slots
        place_RKT = slot_R[:, None, None] * self.stride + self.head_K1 + positions_RT[:, None]
        self.place_N = place_RKT.flatten()
        self.place_N2 = (self.place_N[:, None] + self.kind_2).flatten() if isinstance(slots, int) else None

    def write_new(
        self, layer: int, key_RKTD: torch.Tensor, value_RKTD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new tokens of the selected rows; all keys and values of these rows, [R, K, S, D]."""
        rows_2ND = self.rows_L2ND[layer]
        head_dim = rows_2ND.shape[-1]
        rows_2ND[0].index_copy_(0, self.place_N, key_RKTD.reshape(-1, head_dim))
        rows_2ND[1].index_copy_(0, self.place_N, value_RKTD.reshape(-1, head_dim))
        rows = slice(0, self.slots) if isinstance(self.slots, int) else self.slots
        keys_RKSD, values_RKSD = self.kv_L2RKSD[layer]
        return keys_RKSD[rows, :, : self.width], values_RKSD[rows, :, : self.width]

    def write_one(self, layer: int, kv_RK2D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store one new token's key and value in each leading slot; all keys and values of these, [R · K, S, D]."""
        assert isinstance(self.slots, int) and self.place_N2 is not None
        self.rows_LMD[layer].index_copy_(0, self.place_N2, kv_RK2D.reshape(-1, kv_RK2D.shape[-1]))
        keys_RKSD, values_RKSD = self.kv_L2RKSD[layer, :, : self.slots, :, : self.width]
        return keys_RKSD.flatten(0, 1), values_RKSD.flatten(0, 1)

    def read(self, slot: int, start: int, end: int) -> torch.Tensor:
        """A copy of one slot's keys and values at positions `start` to `end`: [L, 2, K, end - start, D]."""
        return self.kv_L2RKSD[:, :, slot, :, start:end].clone()

    def write(self, slots: Sequence[int], segments: Sequence[torch.Tensor]) -> None:
        """Fill slots from position 0 with the same segments as `read` returns them."""
        if not segments:
            return
        kv_L2KSD = segments[0] if len(segments) == 1 else torch.cat(tuple(segments), 3)
        length = kv_L2KSD.shape[3]
        is_run = slots[-1] - slots[0] + 1 == len(slots)
        rows = slice(slots[0], slots[-1] + 1) if is_run else list(slots)
        self.kv_L2RKSD[:, :, rows, :, :length] = kv_L2KSD[:, :, None]

    def clear(self, slot: int) -> None:
        self.kv_L2RKSD[:, :, slot] = 0

    def move(self, source: int, target: int, length: int) -> None:
        self.kv_L2RKSD[:, :, target, :, :length] = self.kv_L2RKSD[:, :, source, :, :length]


class _SlotLayer(CacheLayerMixin):
    """One layer's view of a SlotCache."""

    def __init__(self, cache: SlotCache, layer: int):
        super().__init__()
        self.cache, self.layer = cache, layer
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        return None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        return self.cache.write_new(self.layer, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.width, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.cache.kv_L2RKSD.shape[4]
