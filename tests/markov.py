"""A reasoner with known step values: an engine whose every token is a step that is right or wrong.

From a right state the next step is wrong with probability `error`, from a wrong one it is right again with
probability `recovery`; after `num_steps` steps comes the end of text. The answer is correct where the last
step is right, so the value of a state is known (`value`).
"""

from collections import deque
from dataclasses import dataclass, field

from small_models import CORRECT, WRONG

from reasoner.engine.protocol import Completion, Request
from reasoner.tree import ROOT, Problem, Tree

RIGHT, BAD, EOS, PROMPT = 1, 2, 0, 9


def mark_steps(token_ids, logprobs=(), before=()) -> list[int]:
    """Each token is a step; the end of text belongs to the last one."""
    ends = [i for i, t in enumerate(token_ids) if t != EOS]
    return [*ends[:-1], len(token_ids) - 1] if ends else list(range(len(token_ids)))


def noise(place: int, position: int) -> float:
    """SplitMix64's finaliser over place and position, as a number in [0, 1)."""
    x = (place + (position + 1) * 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return ((x ^ (x >> 31)) >> 11) * 2.0**-53


@dataclass
class MarkovEngine:
    """Answers one request a poll, in the order asked; counts the tokens decoded."""

    num_steps: int
    error: float
    recovery: float
    weights_version: int = 0
    max_context: int = 10**6
    decoded: int = 0
    waiting: deque[Request] = field(default_factory=deque)

    def submit(self, requests):
        self.waiting.extend(requests)

    def poll(self):
        return [self._complete(self.waiting.popleft())] if self.waiting else []

    def _complete(self, request: Request) -> Completion:
        prefix = list(request.prefix_ids)
        tokens, reason = [], "length"
        while len(tokens) < request.max_tokens:
            tokens.append(self._next(prefix + tokens, request.place))
            if tokens[-1] == EOS or tokens[-1] in request.stop_ids:
                reason = "eos" if tokens[-1] == EOS else "stop"
                break
        self.decoded += len(tokens)
        logprobs = (-0.5,) * len(tokens)
        return Completion(request.id, tuple(tokens), logprobs, logprobs, logprobs, reason, 0)

    def _next(self, ids: list[int], place: int) -> int:
        if len(ids) == self.num_steps + 1:
            return EOS
        is_wrong = noise(place, len(ids)) < (1 - self.recovery if ids[-1] == BAD else self.error)
        return BAD if is_wrong else RIGHT

    def value(self, num_steps: int, is_right: bool) -> float:
        """Chance of a correct answer after `num_steps` steps: pi + (ok - pi) · lam^(K - m)."""
        pi = self.recovery / (self.error + self.recovery)
        return pi + (is_right - pi) * (1 - self.error - self.recovery) ** (self.num_steps - num_steps)


def markov_trees(count: int) -> list[Tree]:
    return [Tree.of_prompt(Problem(f"problem {i}", "", "math", {}), [PROMPT]) for i in range(count)]


def judge(trees) -> None:
    """Verdicts on the leaves: correct where the last step is right."""
    for tree in trees:
        for leaf in tree.leaves():
            steps = [t for t in tree.token_ids(leaf) if t != EOS]
            is_right = tree.nodes[leaf].stop_reason == "eos" and steps[-1] != BAD
            tree.verdicts.setdefault(leaf, CORRECT if is_right else WRONG)


def state_of(tree: Tree, node: int, offset: int) -> tuple[int, bool]:
    """Steps done at a state, and whether the last one is right."""
    ids = [t for t in tree.token_ids(node, offset)[len(tree.nodes[ROOT].token_ids) :] if t != EOS]
    return len(ids), not ids or ids[-1] == RIGHT
