"""How long a model may think before it answers: where thinking stands in a completion, and the text that closes it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reasoner.engine.protocol import Engine
from reasoner.search.grow import Branch, Growth, grow_once, put_in
from reasoner.tree import ROOT, Tree

END = "</think>"  # what Qwen3, DeepSeek-R1 and many others write behind their thoughts
TAIL = 32  # last tokens of a prompt in which a tag may open thinking

Decode = Callable[[Sequence[int]], str]
Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Thinking:
    """A budget of `max_tokens` for thoughts, which `end` closes; 0: none at all.

    At the budget `closing` is put in and the answer follows: budget forcing (Muennighoff et al. 2025, "s1: Simple
    test-time scaling", section 3), as Qwen3 does it too (Yang et al. 2025, section 4.3). What does not think is let be.
    answer_tokens: most tokens of an answer that was asked for so; without it the completion's own limit alone holds.
    """

    max_tokens: int
    end: str = END
    closing: str = ""  # empty: the end, a tag on a line of its own
    answer_tokens: int | None = None

    @property
    def put_in(self) -> str:
        return self.closing or (f"\n{self.end}\n\n" if start_of(self.end) else f"\n{self.end}")

    def cap(self, prompt_ids: Sequence[int], decode: Decode, encode: Encode) -> int:
        """Completion tokens at which thinking is closed: a tag that the prompt does not open comes on top."""
        start = start_of(self.end)
        has_open = not start or opens(prompt_ids, start, decode, encode)
        return self.max_tokens + (0 if has_open else len(encode(start)))

    def goes_on(self, prompt_ids: Sequence[int], ids: Sequence[int], decode: Decode, encode: Encode) -> bool:
        """Whether a completion that begins with `ids` is thinking, or may yet begin to."""
        if self.end and has(self.end, ids, decode, encode):
            return False
        start = start_of(self.end)
        if not ids or not start or opens(prompt_ids, start, decode, encode) or encode(start) == [ids[0]]:
            return True
        text = decode(ids).lstrip()
        return text.startswith(start) or start.startswith(text)


@dataclass
class _Chain:
    """A branch under way: completion tokens at which it stops for now, and its last node."""

    tree: Tree
    branch: Branch
    stop: int
    end: int = ROOT


def grow_within(
    thinking: Thinking,
    trees: Sequence[Tree],
    branches: Sequence[Sequence[Branch]],
    engine: Engine,
    growth: Growth,
    decode: Decode,
    encode: Encode,
) -> list[list[int]]:
    """One wave in which thoughts end at their budget; the last node of each branch, in the order of the branches.

    What is drawn until the budget is what would be drawn without one.
    """
    closing, limit = encode(thinking.put_in), growth.max_tokens
    caps = {id(t): thinking.cap(t.nodes[ROOT].token_ids, decode, encode) for t in trees}
    per_tree = zip(trees, branches, strict=True)
    chains = [_Chain(tree, b, limit) for tree, of_tree in per_tree for b in of_tree]

    def is_thinking(c: _Chain, ids: Sequence[int]) -> bool:
        return thinking.goes_on(c.tree.nodes[ROOT].token_ids, ids, decode, encode)

    def close(c: _Chain, num: int) -> bool:
        """Put the end in behind a completion of so many tokens, where it leaves room for an answer."""
        num += len(closing)
        if num >= limit or c.tree.num_prompt + num >= engine.max_context:
            return False
        node = put_in(c.tree, c.branch.parent, c.branch.offset, closing, growth, "cut")
        c.branch, c.end = replace(c.branch, parent=node, offset=len(closing)), node
        c.stop = min(limit, num + (thinking.answer_tokens or limit))
        return True

    thoughts = []
    for c in chains:
        before, cap = c.tree.completion_ids(c.branch.parent, c.branch.offset), caps[id(c.tree)]
        if cap < limit and is_thinking(c, before):
            if len(before) < cap:
                c.stop = cap
                thoughts.append(c)
            else:
                close(c, len(before))
    _draw(chains, engine, growth)
    behind = []
    for c in thoughts:
        ids, last = c.tree.completion_ids(c.end), c.tree.nodes[c.end]
        if len(ids) < c.stop or last.stop_reason != "length":
            continue
        c.branch, c.stop = replace(c.branch, parent=c.end, offset=len(last.token_ids)), limit
        if (not is_thinking(c, ids) or close(c, len(ids))) and not c.branch.one_step:
            behind.append(c)
    _draw(behind, engine, growth)
    ends = iter(c.end for c in chains)
    return [[next(ends) for _ in of_tree] for of_tree in branches]


def _draw(chains: Sequence[_Chain], engine: Engine, growth: Growth) -> None:
    """Continue each chain to where it stops for now, and set where it ends; chains of one stop go together."""
    for stop in sorted({c.stop for c in chains}):
        of_tree: dict[int, list[_Chain]] = {}
        for c in chains:
            if c.stop == stop:
                of_tree.setdefault(id(c.tree), []).append(c)
        groups = list(of_tree.values())
        part = replace(growth, max_tokens=stop, is_part=stop < growth.max_tokens)
        new = grow_once([g[0].tree for g in groups], [[c.branch for c in g] for g in groups], engine, part)
        for group, nodes in zip(groups, new, strict=True):
            for c, node in zip(group, nodes, strict=True):
                c.end = node


def start_of(end: str) -> str:
    """The tag that opens what `</tag>` closes; empty where the end is no tag, and thinking begins at once."""
    return "<" + end[2:] if end.startswith("</") else ""


def has(tag: str, ids: Sequence[int], decode: Decode, encode: Encode) -> bool:
    """Whether a text holds a tag: as its one token, which a decoder may leave out, or spelled."""
    whole = encode(tag)
    return (len(whole) == 1 and whole[0] in ids) or tag in decode(ids)


def opens(prompt_ids: Sequence[int], start: str, decode: Decode, encode: Encode) -> bool:
    """Whether a prompt ends with an opened tag, as the templates of models that always think do."""
    last = prompt_ids[-TAIL:]
    text, whole = decode(last).rstrip(), encode(start)
    behind = last[last.index(whole[0]) + 1 :] if len(whole) == 1 and whole[0] in last else None
    return text.endswith(start) or (behind is not None and not decode(behind).strip())


def parted(ids: Sequence[int], end: str, decode: Decode, encode: Encode) -> tuple[str, str, int] | None:
    """Thoughts, answer, and how many tokens the thoughts with their end have; None where nothing ends any."""
    if not end:
        return None
    text, whole = decode(ids), encode(end)
    if num := text.count(end):
        thoughts, _, answer = text.rpartition(end)
        at = bisect_left(range(len(ids) + 1), num, key=lambda k: decode(ids[:k]).count(end))
    elif len(whole) == 1 and whole[0] in ids:  # a token that is decoded to nothing
        at = len(ids) - list(ids)[::-1].index(whole[0])
        thoughts, answer = decode(ids[: at - 1]), decode(ids[at:])
    else:
        return None
    return without_start(thoughts, end), answer.strip(), at


def without_start(thoughts: str, end: str) -> str:
    return thoughts.strip().removeprefix(start_of(end)).strip()
