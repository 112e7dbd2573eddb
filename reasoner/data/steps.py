"""Where steps end, at borders of sampled tokens: one function per rule, chosen in the table at the end."""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated

from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.registry import UserError

# A delimiter inside these ends nothing; what is never closed reaches to the end.
_PROTECTED = re.compile(
    rb"```.*?(?:```|\Z)|\$\$.*?(?:\$\$|\Z)|\\\[.*?(?:\\\]|\Z)|\\begin\{(\w+\*?)\}.*?(?:\\end\{\1\}|\Z)",
    re.DOTALL,
)


class StepConfig(Config):
    """How a completion is cut into steps."""

    rule: Annotated[str, Entry("rule for steps", "reasoner.data.steps:RULES")] = Field(
        default="delimiter", description="delimiter (prompt.delimiter) | count | pieces | low_probability, or module:function"
    )  # fmt: skip
    size: int = Field(
        default=16, ge=1, description="count: tokens of a step; pieces: number of steps; low_probability: unlikely ones a step"
    )  # fmt: skip
    threshold: float = Field(default=0.9, gt=0, le=1, description="low_probability: tokens below this count")


@dataclass(frozen=True)
class Marking:
    """What the rules need beside the tokens: the config, the delimiter, and the UTF-8 bytes of every token id.

    Bytes and not text: where a character takes several tokens, each of these has a part of it.
    """

    config: StepConfig
    delimiter: str
    pieces: Sequence[bytes]


# (token ids, their log-probabilities, completion tokens before them, Marking) -> positions where steps end
Rule = Callable[[Sequence[int], Sequence[float], Sequence[int], Marking], list[int]]


def by_delimiter(
    ids: Sequence[int], logprobs: Sequence[float], before: Sequence[int], marking: Marking
) -> list[int]:
    """At the token that holds a delimiter's last byte.

    Of several in a row, and of those at the beginning, the rest begins the next step: whether one follows is not known
    where the first ends. Delimiters in code fences, displayed formulas and LaTeX environments end nothing.
    """
    known = len(marking.pieces)
    texts = [marking.pieces[t] if t < known else b"" for t in (*before, *ids)]
    text, delimiter = b"".join(texts), marking.delimiter.encode()
    if delimiter not in text:
        return []
    spans = [m.span() for m in _PROTECTED.finditer(text)]
    starts = [s for s, _ in spans]
    token_ends = list(accumulate(map(len, texts)))
    found = []
    last = 0
    for match in re.finditer(re.escape(delimiter), text):
        inside = bisect_right(starts, match.start()) - 1
        is_protected = inside >= 0 and match.start() < spans[inside][1]
        if is_protected or not text[last : match.start()].replace(delimiter, b""):
            continue
        last = match.end()
        # the first token whose bytes reach past the last one
        position = bisect_left(token_ends, match.end()) - len(before)
        if position >= 0:
            found.append(position)
    return sorted(set(found))


def by_count(
    ids: Sequence[int], logprobs: Sequence[float], before: Sequence[int], marking: Marking
) -> list[int]:
    """Every `size` tokens from the completion's start."""
    size = marking.config.size
    return [i for i in range(len(ids)) if (len(before) + i + 1) % size == 0]


def by_pieces(
    ids: Sequence[int], logprobs: Sequence[float], before: Sequence[int], marking: Marking
) -> list[int]:
    """`size` pieces of equal length (Luo et al. 2024: 16); fewer where there are fewer tokens."""
    count = min(marking.config.size, len(ids))
    return [len(ids) * (k + 1) // count - 1 for k in range(count)]


def by_low_probability(
    ids: Sequence[int], logprobs: Sequence[float], before: Sequence[int], marking: Marking
) -> list[int]:
    """Before every `size`-th token whose probability is below `threshold` (SPO, Guo et al. 2025)."""
    if ids and len(logprobs) != len(ids):
        raise UserError(
            f"prompt.steps.rule is low_probability, and {len(ids)} tokens came with {len(logprobs)} log-probabilities; "
            "expected sampled text: use delimiter, count or pieces for text from outside"
        )
    bar = math.log(marking.config.threshold)
    unlikely = [i for i, x in enumerate(logprobs) if x < bar]
    return [i - 1 for i in unlikely[marking.config.size :: marking.config.size] if i > 0]


RULES: dict[str, Rule] = {
    "delimiter": by_delimiter,
    "count": by_count,
    "pieces": by_pieces,
    "low_probability": by_low_probability,
}
# these place a step's end by tokens behind it: no baseline or reward of a policy gradient may hang on it
LOOK_AHEAD = frozenset({"pieces", "low_probability"})
WHILE_SAMPLING = ("delimiter", "count")  # these tell a step's end to whoever draws it
