"""A folder that AWQ quantizers take: weights in 16 bits, and texts of the model's own to calibrate on.

AWQ (Lin et al. 2024, "Activation-aware Weight Quantization") scales weights by the activations that it sees on some
texts. What the policy wrote itself, and what was found right, is what it will be asked to write again. Nothing is
quantized here: that takes llm-compressor and a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from reasoner.folder import run_of
from reasoner.policy.adapters import check_new, load_merged
from reasoner.policy.heads import HEAD_FILE
from reasoner.policy.models import base_of, load_tokenizer, save
from reasoner.registry import UserError
from reasoner.signals.backtracking import is_right
from reasoner.store import num_shards, read_trees, write_text

CHAINS = 256  # texts are enough: more than twice the 128 of the paper
PER_PROBLEM = 4
GROUPS = (128, 64, 32)  # weights that share a scale: as many as the layers' widths allow
CALIBRATION, RECIPE = "calibration.jsonl", "quantize.py"


def export_awq_ready(path: str, out: Path) -> list[str]:
    """Write a policy in 16 bits, right chains of the run that it lies in, and the script that quantizes it; what was done.

    A reward model, a model outside a run, a run without right chains and widths that no group divides are a UserError.
    """
    if (Path(path) / HEAD_FILE).is_file():
        raise UserError(
            f"{path} holds a reward model, and AWQ has no place for its head; expected a policy, or --to hf"
        )
    check_new(out)
    run = run_of(path)
    if run is None:
        raise UserError(
            f"{path} lies in no run's folder, and AWQ calibrates on what a policy wrote there; expected RUN/models/…"
        )
    tokenizer = load_tokenizer(path)
    rows = list(islice(calibration(run, tokenizer), CHAINS))
    if not rows:
        raise UserError(
            f"{run / 'trees'} holds no right chain that this tokenizer wrote; expected the trees of a verify stage to "
            "calibrate on"
        )
    dtype = AutoConfig.from_pretrained(base_of(path)).dtype
    lm = load_merged(path, torch.float16 if dtype == torch.float16 else torch.bfloat16)
    size = group_size(lm)
    save(lm, tokenizer, out)
    write_text(out / CALIBRATION, "".join(json.dumps(row) + "\n" for row in rows))
    longest = max(len(row["input_ids"]) for row in rows)
    write_text(out / RECIPE, SCRIPT.replace("GROUP_SIZE", str(size)).replace("LONGEST", str(longest)))
    tokens = sum(len(row["input_ids"]) for row in rows)
    return [
        f"{out}: {lm.dtype}".replace("torch.", "")
        + f", {len(rows)} right chains ({tokens:,} tokens) in {CALIBRATION}",
        f"not quantized yet: where there is a GPU, pip install llmcompressor; python {out / RECIPE}",
    ]


def calibration(run: Path, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Right chains of a run with their prompts, one of each problem, then a second one, …; text and token ids."""
    folders = sorted(folder for folder in (run / "trees").glob("*") if num_shards(folder))
    of_problem: dict[str, list[tuple[int, ...]]] = {}
    text_of = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    for tree in chain.from_iterable(map(read_trees, folders)):
        known = of_problem.setdefault(tree.problem.id, [])
        prompt = tree.nodes[0].token_ids[: tree.num_prompt]
        if len(known) >= PER_PROBLEM or max(prompt, default=0) >= len(tokenizer):
            continue
        if tree.problem.prompt.strip() not in text_of(prompt):  # ids of another tokenizer
            continue
        right = (tuple(tree.token_ids(leaf)) for leaf in tree.leaves() if is_right(tree, leaf))
        known += [ids for ids in dict.fromkeys(right) if ids not in known][: PER_PROBLEM - len(known)]
    for ids in chain.from_iterable(zip_longest(*of_problem.values())):
        if ids is not None:
            yield {"text": text_of(ids), "input_ids": list(ids)}


def group_size(lm: torch.nn.Module) -> int:
    """The largest number of weights sharing a scale that divides the inputs of all layers but the last."""
    head = lm.get_output_embeddings() if hasattr(lm, "get_output_embeddings") else None  # type: ignore[operator]
    widths = {m.in_features for m in lm.modules() if isinstance(m, torch.nn.Linear) and m is not head}
    found = [size for size in GROUPS if widths and not any(width % size for width in widths)]
    if not found:
        raise UserError(
            f"the model's linear layers have {_spelled(sorted(widths))} inputs; expected multiples of {GROUPS[-1]}, which "
            "AWQ takes in groups: --to gguf takes others"
        )
    return found[0]


def _spelled(widths: Sequence[int]) -> str:
    return ", ".join(map(str, widths)) or "no"


SCRIPT = '''"""Quantize the model beside this file to 4 bits by AWQ: pip install llmcompressor; python quantize.py [OUT]"""

import json
import sys
from pathlib import Path

from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

here = Path(__file__).resolve().parent
out = sys.argv[1] if len(sys.argv) > 1 else f"{here}-awq"
rows = [json.loads(line)["input_ids"] for line in (here / "calibration.jsonl").open(encoding="utf-8")]
weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": GROUP_SIZE}
model = AutoModelForCausalLM.from_pretrained(here, dtype="auto")
oneshot(
    model=model,
    dataset=Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(ids) for ids in rows]}),
    recipe=[
        AWQModifier(),
        QuantizationModifier(ignore=["lm_head"], config_groups={"all": {"targets": ["Linear"], "weights": weights}}),
    ],
    max_seq_length=LONGEST,
    num_calibration_samples=len(rows),
)
model.save_pretrained(out, save_compressed=True)
AutoTokenizer.from_pretrained(here).save_pretrained(out)
print(f"{out}: for vLLM, or transformers with compressed-tensors")
'''
