"""reasoner export: a trained model for other programs, and a look at whether it still answers as it did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from reasoner.registry import UserError

ANSWER = 32  # tokens of each answer that is compared


def export(
    model: Annotated[
        str, typer.Argument(help="folder or hub name of a policy, or folder of a reward model of ours")
    ],
    out: Annotated[Path, typer.Argument(help="folder to write, or file that ends in .gguf")],
    to: Annotated[
        Literal["hf", "gguf", "awq-ready"],
        typer.Option(
            help="plain Hugging Face folder, llama.cpp's file, or a folder with all that AWQ needs to quantize it"
        ),
    ] = "hf",
    bits: Annotated[int, typer.Option(help="with gguf, of a weight: 16, 8 (Q8_0) or 4 (Q4_0)")] = 8,
    check: Annotated[
        bool, typer.Option(help="with gguf: run the file where xllamacpp is installed, and compare answers")
    ] = True,
) -> None:
    """Write a model for other programs, adapters merged; a reward model becomes a classifier that transformers loads.

    Example: reasoner export runs/demo/models/ppo/model plain; or reasoner export MODEL mine.gguf --to gguf --bits 4
    """  # fmt: skip
    from reasoner.commands.quiet import quiet

    if bits not in (16, 8, 4):
        raise UserError(f"got --bits {bits}; expected 16, 8 or 4")
    quiet()
    for line in _gguf(model, out, bits, check) if to == "gguf" else WRITERS[to](model, out):
        print(line)


def _plain(model: str, out: Path) -> list[str]:
    from reasoner.export.heads import export_head
    from reasoner.policy.adapters import save_plain
    from reasoner.scoring.reward_models import is_ours

    if is_ours(model):
        export_head(Path(model), out)
        return [
            f"{out} is loaded by transformers.AutoModelForTokenClassification",
            "the score: softmax(logits)[1] at the last token of a step (PRM), or of the answer (ORM)",
        ]
    save_plain(model, out)
    return [f"{out} is loaded by transformers.AutoModelForCausalLM"]


def _awq_ready(model: str, out: Path) -> list[str]:
    from reasoner.export.awq import export_awq_ready

    return export_awq_ready(model, out)


WRITERS = {"hf": _plain, "awq-ready": _awq_ready}


def _gguf(model: str, out: Path, bits: int, check: bool):
    from reasoner.export.gguf_file import INSTALL, export_gguf

    export_gguf(model, out, bits)
    yield f"{out}: {out.stat().st_size / 1e6:,.0f} MB, {bits} bits"
    if not check:
        return
    import torch

    from reasoner.commands.solve import prompt_for
    from reasoner.data.prompting import load_prompting
    from reasoner.export.agreement import PASSAGE, QUESTIONS, agreement, can_run, greedy, perplexity
    from reasoner.policy.adapters import load_merged

    if not can_run():
        yield f"not run: xllamacpp is not installed ({INSTALL})"
        return
    prompting = load_prompting(model, prompt_for(model, {}))
    prompts = [prompting.prompt_ids(question) for question in QUESTIONS]
    lm = load_merged(model, torch.float32)
    answers = greedy(lm, prompts, prompting.eos_ids, ANSWER)
    found = agreement(answers, out, prompts, prompting.eos_ids, ANSWER)
    yield (
        f"run by llama.cpp: {found.same} of {found.asked} greedy answers are the model's own to the last token; after the same "
        f"text the next token is the model's in {found.chosen} of {found.tokens}"
    )
    read = perplexity(lm, out, prompting.encode(PASSAGE))
    yield f"perplexity of a text of {read.tokens} tokens: {read.file:.3f} of the file, {read.own:.3f} of the model"
