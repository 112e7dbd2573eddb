"""Small real tokenizers in the shapes of Llama 3, Gemma, Phi 3 and Qwen 2.5, saved with their generation_config."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

TEXTS = ["First, 3 + 4 is right.\n\nThen 12.\n\nSo it is 7.\n\nHello user, think step by step: done;\n"] * 4
CONTENT = "{{ m['content'] }}"


@dataclass(frozen=True)
class Family:
    """`specials` in order of their ids; `ends` are generation_config's; `opens` whether BOS stands before a text."""

    specials: tuple[str, ...]
    bos: str | None
    eos: str
    ends: tuple[str, ...]
    turn: str  # what closes a turn
    template: str
    opens: bool
    is_byte_level: bool
    takes_system: bool = True


FAMILIES = {
    "llama": Family(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>", "<|end_of_text|>", ("<|end_of_text|>", "<|eot_id|>"), "<|eot_id|>",
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        opens=True, is_byte_level=True,
    ),
    "gemma": Family(
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        "<bos>", "<eos>", ("<eos>", "<end_of_turn>"), "<end_of_turn>",
        "{{ bos_token }}{% for m in messages %}"
        "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        opens=True, is_byte_level=False, takes_system=False,
    ),
    "phi": Family(
        ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
        "<s>", "<|endoftext|>", ("<|endoftext|>", "<|end|>"), "<|end|>",
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        opens=False, is_byte_level=False,
    ),
    "qwen": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        None, "<|endoftext|>", ("<|im_end|>", "<|endoftext|>"), "<|im_end|>",
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        opens=False, is_byte_level=True,
    ),
}  # fmt: skip


def save_family(name: str, folder: Path, with_generation_config: bool = True) -> Path:
    """Write the family's tokenizer (and generation_config.json) to a folder."""
    family = FAMILIES[name]
    backend = _byte_level(family) if family.is_byte_level else _sentence_pieces(name, family)
    if family.opens:
        at = backend.token_to_id(family.bos)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, at)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=family.bos, eos_token=family.eos, pad_token=family.eos
    )
    tokenizer.chat_template = family.template
    tokenizer.save_pretrained(folder)
    if with_generation_config:
        ends = [backend.token_to_id(t) for t in family.ends]
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return folder


def _byte_level(family: Family) -> Tokenizer:
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d| ?\w+| ?[^\s\w]+[\r\n]*|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=360, special_tokens=list(family.specials), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def _sentence_pieces(name: str, family: Family) -> Tokenizer:
    """Blanks are ▁, what is not in the vocabulary falls back to bytes; Phi's puts a ▁ before a text, Gemma's does not."""
    learned = Tokenizer(BPE())
    learned.normalizer = normalizers.Replace(" ", "▁")
    learned.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?\w+|\n+|[^\w\s]"), "isolated")
    learned.train_from_iterator(TEXTS, BpeTrainer(vocab_size=120, show_progress=False))
    model = json.loads(learned.to_str())["model"]
    words = [*family.specials, *(f"<0x{b:02X}>" for b in range(256)), *model["vocab"]]
    backend = Tokenizer(
        BPE(
            vocab={w: i for i, w in enumerate(dict.fromkeys(words))},
            merges=[tuple(m) for m in model["merges"]],
            unk_token="<unk>", fuse_unk=True, byte_fallback=True,
        )
    )  # fmt: skip
    blank = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if name == "phi":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        blank.append(decoders.Strip(" ", 1, 0))
    else:
        backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(blank)
    backend.add_special_tokens(list(family.specials))
    return backend
