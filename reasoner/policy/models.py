"""Make, load and save causal language models and their tokenizers, always through the Auto classes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from pydantic import Field
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2Tokenizer,
)
from transformers import set_seed as set_all_seeds

from reasoner.config import Config
from reasoner.policy.machine import inference_dtype
from reasoner.policy.vocabulary import PROBES, reads_back
from reasoner.registry import UserError
from reasoner.store import read_json, whole, write_json

END_OF_TEXT = "<|endoftext|>"
CONFIG_FILE = "adapter_config.json"
BASE_FILE = "base_model.json"  # ours: the path of an adapter's base from its folder


class TinyModel(Config):
    """A small Qwen2-shaped model made on the spot, with a byte-level BPE tokenizer trained on the demonstrations."""

    hidden_size: int = Field(128, description="width of the residual stream")
    num_layers: int = Field(4, description="transformer blocks")
    num_heads: int = Field(4, description="attention heads")
    num_key_value_heads: int = Field(2, description="key and value heads (grouped-query attention)")
    intermediate_size: int = Field(448, description="width of the feed-forward layer")
    vocab_size: int = Field(320, description="tokens: 256 bytes, the end of text, and merges")
    max_context: int = Field(512, description="longest sequence in tokens")
    initializer_range: float = Field(
        0.08, description="standard deviation of the initial weights; about 1 / sqrt(hidden_size)"
    )
    seed: int = Field(0, description="seed of the random initial weights")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A Qwen2 tokenizer (byte-level BPE, digits one by one) with merges learned from `texts`."""
    blank: Any = Qwen2Tokenizer(
        vocab={END_OF_TEXT: 0}, merges=[], eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
    return blank.train_new_from_iterator(texts, vocab_size, show_progress=False)


def tiny_config(config: TinyModel, eos_token_id: int = 0, pad_token_id: int = 0) -> Qwen2Config:
    """The architecture of a small model."""
    return Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_key_value_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_context,
        tie_word_embeddings=True,
        initializer_range=config.initializer_range,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )


def make_tiny(config: TinyModel, texts: Iterable[str], folder: Path) -> Path:
    """Save a random model and a tokenizer trained on `texts` to `folder` in Hugging Face format."""
    tokenizer: Any = train_tokenizer(texts, config.vocab_size)
    set_all_seeds(config.seed)
    architecture = tiny_config(config, tokenizer.eos_token_id, tokenizer.pad_token_id)
    save(AutoModelForCausalLM.from_config(architecture), tokenizer, folder)
    return folder


def save(model, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write weights and tokenizer in the Hugging Face format; on a full disk nothing stays of them (UserError).

    Weights that are no numbers are a UserError.
    """
    check_finite(model, "trained model")
    with whole(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def load_model(
    path: str,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    four_bit: bool = False,
) -> Any:
    """A causal LM by folder or hub name, in evaluation mode; what cannot be had is one clear UserError.

    Without `dtype` in what the machine computes fast (policy/machine); "auto" is as it was saved.
    """
    with _explained(path, "model"):
        if dtype is None:
            saved = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
            dtype = inference_dtype(saved.dtype if isinstance(saved.dtype, torch.dtype) else None)
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            quantization_config=_nf4(dtype) if four_bit else None,
        ).eval()
    return _never_repacked(model) if four_bit else model


def local_folder(path: str) -> str:
    """The folder itself, or that of a hub name's files, fetched if they are not there yet."""
    if Path(path).is_dir():
        return path
    with _explained(path, "model"):
        return snapshot_download(
            path, allow_patterns=["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
        )


def check_finite(model: torch.nn.Module, what: str) -> None:
    """A UserError where weights are no numbers: training went astray, and nothing of it is to be kept."""
    bad = [name for name, p in model.named_parameters() if not torch.isfinite(p).all()]
    if bad:
        raise UserError(
            f"the {what} has weights that are no numbers ({len(bad)} tensors, e.g. {bad[0]}) and is not saved; expected "
            "finite ones: lower the learning rate, or check the data and the model that it started from"
        )


def _nf4(dtype: torch.dtype | str) -> BitsAndBytesConfig:
    """4-bit NormalFloat with doubly quantised constants (Dettmers et al. 2023, section 3).

    Products are in `dtype`, the format of the weights that stay whole; of "auto", in what the machine does fast.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "a base in 4 bits was asked for and bitsandbytes is not there; expected it: pip install 'reasoner[qlora]', or "
            "set four_bit=false"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype if isinstance(dtype, torch.dtype) else inference_dtype(torch.bfloat16),
    )


def _never_repacked(model: Any) -> Any:
    """The 4-bit model, kept in the layout that has gradients.

    On CPUs with AVX512-BF16 bitsandbytes repacks a layer when it first runs in evaluation mode, for a kernel that rounds
    to bfloat16 and has no backward pass: training on the same base would lose gradients without a word.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def is_adapter(path: str | Path) -> bool:
    """True for a folder in PEFT's format."""
    return (Path(path) / CONFIG_FILE).is_file()


def num_positions(path: str | Path) -> int | None:
    """The most tokens that a model of a folder or hub name reads at once; None where that is not told."""
    try:
        config = AutoConfig.from_pretrained(base_of(path))
    except (OSError, ValueError):
        return None  # to load the model will tell why
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def base_of(path: str | Path) -> str:
    """The model that an adapter folder was trained on, also where both have moved; any other path is its own base.

    A base that is nowhere is a UserError.
    """
    if not is_adapter(path):
        return str(path)
    named = str(read_json(Path(path) / CONFIG_FILE)["base_model_name_or_path"])
    noted = read_json(Path(path) / BASE_FILE) if (Path(path) / BASE_FILE).is_file() else {}
    if noted.get("named") == named:
        beside = Path(path).resolve() / noted["path"]
        if beside.is_dir():
            return str(beside.resolve())
        if not Path(named).is_dir():
            raise UserError(
                f"the adapter {path} was trained on {named}, which is not there, nor is {beside}; expected its base: move "
                f"the two together, or set base_model_name_or_path in its {CONFIG_FILE}"
            )
    return named


def note_base(folder: Path, base: str) -> None:
    """Write beside an adapter where its base is from there, so that the two may move together."""
    if Path(base).is_dir():
        near = os.path.relpath(os.path.realpath(base), folder.resolve())
        write_json(folder / BASE_FILE, {"named": base, "path": near})


def load_tokenizer(
    path: str, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name; one without a pad token pads with its end of text.

    An adapter folder without one has its base's.
    """
    if is_adapter(path) and not (Path(path) / "tokenizer_config.json").is_file():
        path = base_of(path)
    with _explained(path, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {path} has no end-of-text token; expected one, set eos_token in its config"
        )
    if not any(reads_back(tokenizer, text) for text in PROBES):
        raise UserError(
            f"the tokenizer of {path} does not give back what it is given ({len(tokenizer)} tokens); expected text to "
            "come back from its tokens: is tokenizer.json missing from the folder?"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextmanager
def _explained(path: str, what: str):
    """Turn what transformers and the hub raise into one line that says what to do."""
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1 or Path(path).parent.is_dir()
    if looks_local and not Path(path).is_dir():
        raise UserError(
            f"no {what} at {path}: there is no such folder; expected a Hugging Face model folder, a finished stage, or a "
            "hub name with its owner, like Qwen/Qwen2.5-0.5B"
        )
    try:
        yield
    except (OSError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        remedy = (
            "check the files in the folder"
            if Path(path).is_dir()
            else ("check the name and the network, or give the path of a local folder")
        )
        raise UserError(
            f"cannot load the {what} {path!r} ({reason[:200]}); expected a folder or a hub name: {remedy}"
        ) from problem
