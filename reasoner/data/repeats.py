"""One problem per prompt, in whichever way it is written, and a word on the others."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator

from reasoner.data.rows import Item
from reasoner.data.splits import normalised
from reasoner.registry import UserError


def text_key(text: str) -> bytes:
    """What stands for a text where many are remembered."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def one_per_prompt(items: Iterable[Item], of: str, is_generated: bool) -> Iterator[Item]:
    """The first item of each prompt; what is left out is told, but of generated problems, which repeat by nature.

    Several rows that all have one prompt are a UserError: the question is elsewhere. `of` names the items in messages.
    """
    first: dict[bytes, bytes] = {}  # prompt: its reference
    differing: set[bytes] = set()
    num, prompt = 0, ""
    for item in items:
        num += 1
        key, reference = text_key(item.problem.prompt), text_key(repr(item.problem.reference))
        if key not in first:
            first[key], prompt = reference, item.problem.prompt
            yield item
        elif reference != first[key]:
            differing.add(key)
    left_out = num - len(first)
    if is_generated or not left_out:
        return
    if len(first) == 1:
        raise UserError(
            f"all {num} problems of {of} have the prompt {prompt[:60]!r}; expected different ones: look under which "
            "key the rows hold their questions"
        )
    more = f"; for {len(differing)} prompts the answers differ, and the first counts" if differing else ""
    warnings.warn(
        f"{left_out:,} of {num:,} problems of {of} repeat the prompt of another and are left out{more}",
        stacklevel=1,
    )


def distinct(items: Iterable[Item], alike: list[Item] | None = None) -> Iterator[Item]:
    """The first item of each prompt.

    Given `alike`, one whose prompt equals an earlier one but for case, spacing and marks (data/splits), and that has the same
    reference, is left out as well and put down there. With another reference it may be another problem.
    """
    seen = set[bytes]()
    for item in items:
        prompt = item.problem.prompt
        exact = text_key(prompt)
        if exact in seen:
            continue
        seen.add(exact)
        if alike is not None:
            key = text_key(f"{normalised(prompt)}\n{item.problem.reference!r}")
            if key in seen:
                alike.append(item)
                continue
            seen.add(key)
        yield item
