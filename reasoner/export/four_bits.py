"""Four bits a weight (Q4_0) from a GGUF file in sixteen, one tensor in memory at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 32  # weights that share one scale
FINER = ("token_embd.weight", "output.weight")  # every token meets each of their errors: 8 bits, as is usual


def quantize(source: Path, out: Path) -> None:
    """Write `source` again with its 16-bit matrices in Q4_0, embeddings and output layer in Q8_0.

    Vectors, what the converter left in 32 bits, and rows that are no multiple of 32 long stay as they are.
    """
    import gguf  # pyright: ignore[reportMissingImports]

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields[gguf.Keys.General.ARCHITECTURE].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != gguf.Keys.General.ARCHITECTURE:
            is_type = name == gguf.Keys.General.FILE_TYPE
            value = int(gguf.LlamaFileType.MOSTLY_Q4_0) if is_type else field.contents()
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, value, field.types[0], sub_type=inner)
    kinds = [_kind(gguf, tensor) for tensor in reader.tensors]
    for tensor, kind in zip(reader.tensors, kinds, strict=True):
        shape, dtype = tensor.data.shape, tensor.data.dtype
        if kind != tensor.tensor_type:
            shape, dtype = gguf.quant_shape_to_byte_shape(tuple(map(int, tensor.shape[::-1])), kind), np.uint8
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        writer.add_tensor_info(tensor.name, shape, np.dtype(dtype), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, kind in zip(reader.tensors, kinds, strict=True):
        data = tensor.data
        if kind != tensor.tensor_type:
            data = gguf.quants.quantize(gguf.quants.dequantize(data, tensor.tensor_type), kind)
        writer.write_tensor_data(data)
    writer.close()


def _kind(gguf: Any, tensor: Any) -> Any:
    """What type a tensor gets."""
    types = gguf.GGMLQuantizationType
    is_half = tensor.tensor_type in (types.F16, types.BF16)
    if not is_half or len(tensor.shape) < 2 or int(tensor.shape[0]) % BLOCK:
        return tensor.tensor_type
    return types.Q8_0 if tensor.name in FINER else types.Q4_0
