"""Keys and values of running sequences: one slot per row, taken as sequences grow.

Shape suffixes: L layers (of a part), 2 keys and values, R slots, K key/value heads, S positions, D head size, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from reasoner.registry import UserError

POSITIONS, ROWS = 64, 8  # the least that is allotted, and blocks of it
PARTS = 16  # of the layers, each a tensor: so much of what is held is there twice while it grows


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


def capacity(needed: int, most: int, step: int) -> int:
    """How many positions or rows are allotted where `needed` are: step, and then half a power of two apart; at most `most`.

    It depends on what is needed alone, not on what was there before, so that a plan can tell it.
    """
    octave = step << ((needed - 1) // step).bit_length()  # the power of two, in steps, that is not below
    half = max(step, octave // 4)
    return min(most, max(needed, -(-needed // half) * half))


class SlotCache(Cache):
    """A transformers cache whose rows are slots: each call writes at every row's own positions.

    It holds nothing at first. `reserve` makes room in blocks of positions and of rows, for all rows as much as the longest
    sequence needs: attention reads rows that are contiguous, so these are no pages, and a short sequence beside a long one
    takes as much as this. More room is a new and larger tensor into which the old one is copied, one part of the layers
    after the other, so that no more than a part is there twice. `release` gives all of it back.

    `select` chooses the rows and positions of the next forward pass: the first `num_rows` slots with one
    token each (decoding), or a list of slots with several tokens (prefilling).
    """

    def __init__(self, model, num_slots: int, max_length: int):
        self.num_layers, self.heads, self.head_dim = kv_shape(model)
        self.num_slots, self.max_length = num_slots, max_length
        self.device, self.dtype = model.device, model.dtype
        self.token_bytes = bytes_per_token(model)
        self.release()
        super().__init__(layers=[_SlotLayer(self, i) for i in range(self.num_layers)])

    @property
    def nbytes(self) -> int:
        """Bytes that are held now."""
        return sum(part.nbytes for part in self.parts_L2RKSD)

    def release(self) -> None:
        """Hold nothing."""
        self.rows = self.length = 0
        sizes = [len(x) for x in torch.arange(self.num_layers).tensor_split(min(PARTS, self.num_layers))]
        shapes = ((size, 2, 0, self.heads, 0, self.head_dim) for size in sizes)
        self._hold([torch.empty(s, dtype=self.dtype, device=self.device) for s in shapes])

    def reserve(self, rows: int, length: int) -> None:
        """Have room for so many rows of so many positions at least; what is there stays. A UserError where none is left."""
        if rows <= self.rows and length <= self.length:
            return
        self.allot(
            max(self.rows, capacity(rows, self.num_slots, ROWS)),
            max(self.length, capacity(length, self.max_length, POSITIONS)),
        )

    def allot(self, rows: int, length: int) -> None:
        """Have room for exactly so many rows and positions, no fewer than before."""
        parts = self.parts_L2RKSD
        self.layers_2RKSD = self.rows_2ND = self.rows_MD = []  # views would keep what is left behind
        for i, old in enumerate(parts):
            shape = (len(old), 2, rows, self.heads, length, self.head_dim)
            try:
                # zeros, since what is masked is multiplied by 0 all the same
                new = torch.zeros(shape, dtype=self.dtype, device=self.device)
            except (
                RuntimeError
            ) as problem:  # torch.OutOfMemoryError is one; a CPU's allocator raises it plain
                self.release()
                if not isinstance(problem, torch.OutOfMemoryError) and "allocate memory" not in str(problem):
                    raise
                raise self._no_room(rows, length) from problem
            new[:, :, : self.rows, :, : self.length] = old
            parts[i] = new
        self.rows, self.length = rows, length
        self._hold(parts)

    def _hold(self, parts: list[torch.Tensor]) -> None:
        self.parts_L2RKSD = parts
        self.layers_2RKSD = [layer for part in parts for layer in part]
        # every (slot, head, position) is a row of D numbers, so that writing is one copy of rows
        self.stride = self.heads * self.length
        count = self.rows * self.stride
        self.rows_2ND = [layer.view(2, count, self.head_dim) for layer in self.layers_2RKSD]
        self.rows_MD = [layer.view(2 * count, self.head_dim) for layer in self.layers_2RKSD]
        # values come after all keys
        self.kind_2 = torch.arange(2, device=self.device) * count
        self.head_K1 = torch.arange(self.heads, device=self.device)[:, None] * self.length

    def _no_room(self, rows: int, length: int) -> UserError:
        each = self.token_bytes * length
        return UserError(
            f"keys and values of {rows} sequences of {length} tokens take {rows * each / 1e9:,.1f} GB "
            f"({each / 1e9:.3g} GB each), and {self.device} has no room for them; expected as much: lower num_slots or "
            "max_tokens, or set engine.kv_bytes to what there is"
        )

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
        rows_2ND = self.rows_2ND[layer]
        rows_2ND[0].index_copy_(0, self.place_N, key_RKTD.reshape(-1, self.head_dim))
        rows_2ND[1].index_copy_(0, self.place_N, value_RKTD.reshape(-1, self.head_dim))
        rows = slice(0, self.slots) if isinstance(self.slots, int) else self.slots
        keys_RKSD, values_RKSD = self.layers_2RKSD[layer]
        return keys_RKSD[rows, :, : self.width], values_RKSD[rows, :, : self.width]

    def write_one(self, layer: int, kv_RK2D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store one new token's key and value in each leading slot; all keys and values of these, [R, K, S, D]."""
        assert isinstance(self.slots, int) and self.place_N2 is not None
        self.rows_MD[layer].index_copy_(0, self.place_N2, kv_RK2D.reshape(-1, self.head_dim))
        keys_RKSD, values_RKSD = self.layers_2RKSD[layer][:, : self.slots, :, : self.width]
        return keys_RKSD, values_RKSD

    def read(self, slot: int, start: int, end: int) -> torch.Tensor:
        """A copy of one slot's keys and values at positions `start` to `end`: [L, 2, K, end - start, D]."""
        return torch.cat([part[:, :, slot, :, start:end] for part in self.parts_L2RKSD])

    def write(self, slots: Sequence[int], segments: Sequence[torch.Tensor]) -> None:
        """Fill slots from position 0 with the same segments as `read` returns them."""
        if not segments:
            return
        kv_L2KSD = segments[0] if len(segments) == 1 else torch.cat(tuple(segments), 3)
        length = kv_L2KSD.shape[3]
        is_run = slots[-1] - slots[0] + 1 == len(slots)
        rows = slice(slots[0], slots[-1] + 1) if is_run else list(slots)
        sizes = [len(part) for part in self.parts_L2RKSD]
        for part, kv in zip(self.parts_L2RKSD, kv_L2KSD.split(sizes), strict=True):
            part[:, :, rows, :, :length] = kv[:, :, None]

    def clear(self, slot: int) -> None:
        for part in self.parts_L2RKSD:
            part[:, :, slot] = 0

    def move(self, source: int, target: int, length: int) -> None:
        for part in self.parts_L2RKSD:
            part[:, :, target, :, :length] = part[:, :, source, :, :length]


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
        return self.cache.length
