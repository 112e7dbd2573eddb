"""Checks of template, tokens and steps: what the model is really shown, and where its answers end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reasoner.data.prompting import Prompting
from reasoner.doctor.case import Case, reads_steps
from reasoner.doctor.findings import Finding
from reasoner.policy.vocabulary import end_of_turn, generation_ends, opening

PROBE = "A baker has 24 rolls and sells 9 of them. How many are left?"
THINKING = ("<think>", "</think>")


def template(case: Case) -> Iterator[Finding]:
    """The problem stands in the prompt, and comes back from its tokens."""
    prompting = case.prompting
    if prompting is None:
        return
    key = "prompt.chat_template" if case.config.prompt.chat else "prompt.template"
    problems = [PROBE, *(i.problem.prompt for items in case.items.values() for i in items[:5])]
    for problem in problems:
        if problem.strip() not in prompting.prompt_text(problem):
            yield Finding(
                "template", "error", key, f"the prompt of {problem[:60]!r} does not hold the problem: "
                f"{prompting.prompt_text(problem)[-80:]!r}", "put {prompt}, or the message's content, into the template",
            )  # fmt: skip
            return
        back = prompting.tokenizer.decode(prompting.prompt_ids(problem), skip_special_tokens=False)
        if _bare(problem) not in _bare(back):
            yield Finding(
                "template", "error", "", f"{problem[:60]!r} does not come back from its tokens: {back[-80:]!r}",
                "take the tokenizer that belongs to the model: some of these characters are unknown to it",
            )  # fmt: skip
            return


def _bare(text: str) -> str:
    return "".join(text.split()).lower()


def begin(case: Case) -> Iterator[Finding]:
    """What the tokenizer puts before a text is there, once."""
    prompting = case.prompting
    if prompting is None:
        return
    first, ids = opening(prompting.tokenizer), prompting.prompt_ids(PROBE)
    if not first:
        return
    name = prompting.tokenizer.decode(first)
    key = "prompt.chat_template" if case.config.prompt.chat else "prompt.template"
    if ids[: len(first)] != first:
        yield Finding(
            "begin", "warning", key, f"prompts begin without {name!r}, which the tokenizer puts before every text",
            "let the chat template begin with {{ bos_token }}",
        )  # fmt: skip
    if ids[: 2 * len(first)] == [*first, *first]:
        yield Finding(
            "begin", "warning", key, f"prompts begin with {name!r} twice", "take it out of the template"
        )


def ends(case: Case) -> Iterator[Finding]:
    """The model's ends of text are tokens that no text is made of, and a chat's turn has an end."""
    prompting, (key, _) = case.prompting, case.model
    if prompting is None:
        return
    own = prompting.tokenizer.added_tokens_decoder
    listed = generation_ends(case.base, prompting.tokenizer) if case.base else []
    for i in listed:
        if i >= len(prompting.tokenizer):
            yield Finding(
                "ends", "error", key, f"generation_config ends answers at token {i}, and there are {len(prompting.tokenizer)}",
                "set eos_token_id in the model's generation_config.json to the tokenizer's end of text",
            )  # fmt: skip
        elif i not in own and i != prompting.tokenizer.eos_token_id:
            yield Finding(
                "ends", "error", key, f"generation_config ends answers at {prompting.tokenizer.decode([i])!r}, a token of "
                "ordinary text", "set eos_token_id in the model's generation_config.json to the tokenizer's end of text",
            )  # fmt: skip
    if case.config.prompt.chat and end_of_turn(prompting.tokenizer) is None:
        yield Finding(
            "ends", "warning", "prompt.chat_template", "the chat template closes an answer with no token of its own",
            "end the assistant's message with the model's end-of-turn token, as <|im_end|>",
        )  # fmt: skip


def stops(case: Case) -> Iterator[Finding]:
    """No token of prompt.stop stands inside the worked solutions, which it would cut."""
    prompting = case.prompting
    if prompting is None or not case.config.prompt.stop or not case.solutions:
        return
    asked = set(prompting.eos_ids)
    for _, item in case.solutions:
        inside = asked.intersection(prompting.encode(item.solution or ""))
        if inside:
            text = prompting.tokenizer.decode([min(inside)])
            yield Finding(
                "stops", "error", "prompt.stop",
                f"answers end at {text!r}, which stands inside the solution of {item.problem.id}",
                "take it out of prompt.stop, or write the solutions without it",
            )  # fmt: skip
            return


def delimiter(case: Case) -> Iterator[Finding]:
    """A step ends where the delimiter does, by the tokenizer's own tokens, and solutions have it.

    Worth no more than a note where no stage reads steps.
    """
    prompting, text = case.prompting, case.config.prompt.delimiter
    if prompting is None or case.config.prompt.steps.rule != "delimiter":
        return
    severity = "warning" if any(reads_steps(stage) for _, stage in case.stages()) else "note"
    shown = [i.solution or "" for _, i in case.solutions if len(i.solution or "") > len(text)]
    written = [s for s in shown if text in s.rstrip()]
    if shown and not written:
        yield Finding(
            "delimiter", severity, "prompt.delimiter", f"none of {len(shown)} solutions has {text!r} inside: each is one step",
            "set prompt.delimiter to what stands between their steps",
        )  # fmt: skip
    longest = max(written, key=len, default=f"3 + 4 = 7{text}7 + 5 = 12{text}12")
    yield from _cut(prompting, longest, text, severity)


def _cut(prompting: Prompting, solution: str, text: str, severity: str) -> Iterator[Finding]:
    ids: Any = prompting.encode(solution)
    steps = prompting.step_texts(ids, prompting.mark_steps(ids))
    ragged = [s for s in steps[:-1] if not s.endswith(text)]
    if len(steps) < 2 or ragged:
        told = f"a step of a solution is {ragged[0][-40:]!r}" if ragged else "a solution with it has one step"
        yield Finding(
            "delimiter", severity, "prompt.delimiter", f"no token ends with the delimiter {text!r} where it stands: {told}",
            "choose one that ends a token, as a line's end, or prompt.steps.rule=count",
        )  # fmt: skip


def thinking(case: Case) -> Iterator[Finding]:
    """Think tags, where template or solutions have them, are one token each."""
    prompting = case.prompting
    if prompting is None:
        return
    texts = [
        prompting.tokenizer.chat_template or "" if case.config.prompt.chat else case.config.prompt.template
    ]
    texts += [i.solution or "" for _, i in case.solutions[:50]]
    for tag in THINKING:
        pieces = prompting.encode(tag)
        if any(tag in text for text in texts) and len(pieces) > 1:
            yield Finding(
                "thinking", "warning", "prompt", f"{tag} is {len(pieces)} tokens to this tokenizer", "add it to the "
                "tokenizer as a token, or write thinking without tags",
            )  # fmt: skip


def vocabulary(case: Case) -> Iterator[Finding]:
    """Every token has an embedding."""
    for key, stage in case.stages():
        config = case.architecture(stage)
        if config is None or case.prompting is None or not hasattr(stage, "model"):
            continue
        size = config.get_text_config().vocab_size
        if len(case.prompting.tokenizer) > size:
            yield Finding(
                "vocabulary", "error", f"{key}.model",
                f"the tokenizer has {len(case.prompting.tokenizer):,} tokens, the model embeds {size:,}",
                "take the tokenizer that belongs to the model, or resize its embeddings",
            )  # fmt: skip
            return
