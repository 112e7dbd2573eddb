"""One problem per prompt, and a word on the others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from reasoner.data.rows import Item
from reasoner.registry import UserError


def one_per_prompt(items: Sequence[Item], of: str, is_generated: bool) -> list[Item]:
    """The first item of each prompt; what is left out is told, but of generated problems, which repeat by nature.

    Several rows that all have one prompt are a UserError: the question is elsewhere. `of` names the items in messages.
    """
    distinct: dict[str, Item] = {}
    for item in items:
        distinct.setdefault(item.problem.prompt, item)
    left_out = len(items) - len(distinct)
    if len(distinct) == 1 and left_out and not is_generated:
        (prompt,) = distinct
        raise UserError(
            f"all {len(items)} problems of {of} have the prompt {prompt[:60]!r}; expected different ones: look under which "
            "key the rows hold their questions"
        )
    if left_out and not is_generated:
        first = {prompt: item.problem.reference for prompt, item in distinct.items()}
        differing = {i.problem.prompt for i in items if i.problem.reference != first[i.problem.prompt]}
        more = f"; for {len(differing)} prompts the answers differ, and the first counts" if differing else ""
        warnings.warn(
            f"{left_out:,} of {len(items):,} problems of {of} repeat the prompt of another and are left out{more}",
            stacklevel=1,
        )
    return list(distinct.values())
