"""Trees of labelled steps in text into the records that trainers read: tokenised once, whole, with the place of each step.

A step that stands apart ends with the prompt's delimiter, as the steps do that a policy of ours writes, and the
last of a solution ends with the end-of-text token instead. A step's place is the token that holds its last character.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from reasoner.data.files import LeftOut
from reasoner.data.importers.step_tree import StepTree
from reasoner.data.prompting import Prompting
from reasoner.records import OutcomeLabel, PreferencePair, StepLabels
from reasoner.registry import UserError


@dataclass(frozen=True)
class Encoded:
    """One root-to-leaf path of a tree in tokens; `texts` joined are the completion's text."""

    tree: StepTree
    path: list[int]
    texts: list[str]
    prompt_ids: list[int]
    completion_ids: list[int]
    step_ends: list[int]

    @property
    def leaf(self) -> int:
        return self.path[-1]


def encode(tree: StepTree, prompting: Prompting, max_tokens: int) -> list[Encoded | LeftOut]:
    """Every solution of a tree; one of more than `max_tokens` tokens with its prompt is left out."""
    prompt_ids = prompting.prompt_ids(tree.prompt)
    paths = [tree.path(leaf) for leaf in tree.leaves()]
    texts = [_texts(tree, path, prompting.config.delimiter) for path in paths]
    found: list[Encoded | LeftOut] = []
    for path, parts, (ids, starts) in zip(paths, texts, _tokenised(texts, prompting), strict=True):
        ends = step_ends(parts, starts)
        if tree.ends[path[-1]]:
            ids = [*ids, prompting.eos_id]
            ends[-1] = len(ids) - 1
        line = tree.lines[path[-1]] if tree.lines else 0
        if len(prompt_ids) + len(ids) > max_tokens:
            reason = f"{len(prompt_ids) + len(ids)} tokens, more than the context of {max_tokens}"
            found.append(LeftOut(tree.source, line, reason))
        elif any(a >= b for a, b in pairwise(ends)):
            found.append(LeftOut(tree.source, line, "two steps end within one token"))
        else:
            found.append(Encoded(tree, path, parts, prompt_ids, ids, ends))
    return found


def _texts(tree: StepTree, path: Sequence[int], delimiter: str) -> list[str]:
    if tree.is_pieces:
        return [tree.steps[i] for i in path]
    return [tree.steps[i] + ("" if tree.ends[i] and i == path[-1] else delimiter) for i in path]


def _tokenised(texts: Sequence[Sequence[str]], prompting: Prompting) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids of each text, and the character at which each token starts."""
    if not prompting.tokenizer.is_fast:
        raise UserError(
            f"the tokenizer {prompting.tokenizer.name_or_path} does not tell where its tokens stand in the text; "
            "expected a fast tokenizer (tokenizer.json), convert it with transformers"
        )
    whole = ["".join(parts) for parts in texts]
    batch = prompting.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    for ids, offsets in zip(batch["input_ids"], batch["offset_mapping"], strict=True):
        yield ids, [start for start, _ in offsets]


def step_ends(parts: Sequence[str], starts: Sequence[int]) -> list[int]:
    """For each part of a text, the last of the tokens that hold its last character."""
    ends, length = [], 0
    for part in parts:
        length += len(part)
        ends.append(bisect_right(starts, length - 1) - 1)
    return ends


def step_labels(encoded: Iterable[Encoded]) -> Iterator[StepLabels]:
    """One record per solution; a step that several solutions share has its label in the first of them."""
    of, labelled = None, set[int]()
    for e in encoded:
        if e.tree is not of:
            of, labelled = e.tree, set()
        labels = [math.nan if i in labelled else e.tree.labels[i] for i in e.path]
        labelled.update(e.path)
        if all(map(math.isnan, labels)):
            continue
        yield StepLabels(
            problem_id=e.tree.problem_id, prompt=e.tree.prompt, completions=e.texts, labels=labels,
            prompt_ids=e.prompt_ids, completion_ids=e.completion_ids, step_ends=e.step_ends, kind=e.tree.kind,
            is_whole=bool(e.tree.ends[e.leaf]), source=e.tree.source, licence=e.tree.licence,
        )  # fmt: skip


def outcome_labels(encoded: Iterable[Encoded]) -> Iterator[OutcomeLabel]:
    """One record per solution of which it is known whether its final answer is right."""
    for e in encoded:
        outcome = e.tree.outcomes[e.leaf]
        if not math.isnan(outcome):
            yield OutcomeLabel(
                problem_id=e.tree.problem_id, prompt=e.tree.prompt, completion="".join(e.texts), label=outcome > 0.5,
                prompt_ids=e.prompt_ids, completion_ids=e.completion_ids, source=e.tree.source, licence=e.tree.licence,
            )  # fmt: skip


def preference_pairs(encoded: Sequence[Encoded]) -> Iterator[PreferencePair]:
    """Each better sibling with each worse one, of one tree's solutions that differ in their last step."""
    for good in encoded:
        for bad in encoded:
            is_pair = (
                good.path[:-1] == bad.path[:-1] and good.tree.labels[good.leaf] > bad.tree.labels[bad.leaf]
            )
            if not is_pair:
                continue
            shared = _shared(good.completion_ids, bad.completion_ids)
            # the prefix ends where the tokens part, at the latest with the step before
            begin = min(shared, good.step_ends[-2] + 1 if len(good.step_ends) > 1 else 0)
            yield PreferencePair(
                problem_id=good.tree.problem_id, prompt=good.tree.prompt + "".join(good.texts[:-1]),
                chosen=good.texts[-1], rejected=bad.texts[-1],
                prompt_ids=good.prompt_ids + good.completion_ids[:begin], chosen_ids=good.completion_ids[begin:],
                rejected_ids=bad.completion_ids[begin:], is_whole=False,
                margin=good.tree.labels[good.leaf] - bad.tree.labels[bad.leaf],
                source=good.tree.source, licence=good.tree.licence,
            )  # fmt: skip


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
