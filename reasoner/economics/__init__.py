"""What reasoning costs, as pure functions on any Hugging Face config: bytes, operations, seconds, money."""

from reasoner.economics.memory import kv_cache_bytes, shared_kv_bytes, training_memory
from reasoner.economics.shape import count_parameters, shape_of
from reasoner.economics.speed import (
    attention_flops,
    decode_step,
    forward_flops,
    largest_batch,
    training_flops,
)

__all__ = [
    "attention_flops",
    "count_parameters",
    "decode_step",
    "forward_flops",
    "kv_cache_bytes",
    "largest_batch",
    "shape_of",
    "shared_kv_bytes",
    "training_flops",
    "training_memory",
]
