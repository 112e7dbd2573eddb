"""A policy small enough to enumerate: exact values, the exact policy gradient, and every tree with its probability.

Tokens are actions, each one a step; a completion has `depth` of them, or ends before with the action `end`.
Whatever is random is asked of a chooser, `choose(probabilities) -> index`, so the same code samples trees and enumerates them.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from reasoner.engine.protocol import Completion, Engine, Request
from reasoner.records import PolicySample
from reasoner.search.branch import BranchConfig, tree_of
from reasoner.search.grow import Growth, StepStop, grow
from reasoner.tree import ROOT, Node, Problem, Tree
from verifiers import Verdict

Choose = Callable[[Sequence[float]], int]
Prefix = tuple[int, ...]
PROMPT = [99]


@dataclass
class Tabular:
    """Logits for every prefix, and which of the whole completions are right."""

    depth: int
    logits: dict[Prefix, np.ndarray]
    right: set[Prefix]
    end: int | None = None  # the action that ends a completion

    def __post_init__(self) -> None:
        exps = {p: np.exp(x) for p, x in self.logits.items()}
        self._probabilities = {p: e / e.sum() for p, e in exps.items()}
        self._values: dict[Prefix, float] = {}

    @classmethod
    def random(
        cls, depth: int, num_actions: int, seed: int, share_right: float = 0.4, end: int | None = None
    ) -> "Tabular":
        rng = np.random.default_rng(seed)
        prefixes = [
            p for d in range(depth) for p in itertools.product(range(num_actions), repeat=d) if end not in p
        ]
        whole = list(itertools.product(range(num_actions), repeat=depth))
        if end is not None:
            whole = [p for p in whole if end not in p[:-1]] + [
                (*p, end) for p in prefixes if len(p) < depth - 1
            ]
        right = {w for w in whole if rng.random() < share_right} | {whole[1]}
        return cls(depth, {p: rng.normal(size=num_actions) for p in prefixes}, right - {whole[0]}, end)

    def is_whole(self, prefix: Prefix) -> bool:
        return len(prefix) == self.depth or (self.end is not None and self.end in prefix)

    def probabilities(self, prefix: Prefix) -> np.ndarray:
        return self._probabilities[prefix]

    def value(self, prefix: Prefix) -> float:
        """The chance that a completion from here is right."""
        if self.is_whole(prefix):
            return float(prefix in self.right)
        if prefix not in self._values:
            chances = enumerate(self.probabilities(prefix))
            self._values[prefix] = sum(p * self.value((*prefix, a)) for a, p in chances)
        return self._values[prefix]

    def exact_gradient(self) -> np.ndarray:
        """d value(()) / d logits, all prefixes one after the other."""
        found = {p: np.zeros_like(x) for p, x in self.logits.items()}

        def visit(prefix: Prefix, reach: float) -> None:
            if self.is_whole(prefix):
                return
            probabilities = self.probabilities(prefix)
            q = np.array([self.value((*prefix, a)) for a in range(len(probabilities))])
            found[prefix] += reach * probabilities * (q - probabilities @ q)
            for a, p in enumerate(probabilities):
                visit((*prefix, a), reach * p)

        visit((), 1.0)
        return self.flat(found)

    def flat(self, by_prefix: dict[Prefix, np.ndarray]) -> np.ndarray:
        return np.concatenate([by_prefix[p] for p in self.logits])

    def surrogate_gradient(self, sample: PolicySample) -> np.ndarray:
        """Σ over tokens of weight · advantage · d log p(token) / d logits: the first update's direction, not normalised."""
        found = {p: np.zeros_like(x) for p, x in self.logits.items()}
        tree = sample.tree
        for i, node in enumerate(tree.nodes[1:], start=1):
            for k, token in enumerate(node.token_ids):
                prefix = tuple(tree.completion_ids(i, k))
                direction = -self.probabilities(prefix)
                direction[token] += 1
                found[prefix] += sample.weights[i][k] * sample.advantages[i][k] * direction
        return self.flat(found)

    def score_exactly(self, tree: Tree, noise: Callable[[], float] = lambda: 0.0) -> None:
        """A critic of exact values, plus noise, at the prompt's end and after every token."""
        values = {ROOT: [self.value(()) + noise()]}
        for i, node in enumerate(tree.nodes[1:], start=1):
            ends = range(1, len(node.token_ids) + 1)
            values[i] = [self.value(tuple(tree.completion_ids(i, k))) + noise() for k in ends]
        tree.scores["value"] = tree.scores["token_value"] = values

    def continue_from(
        self, tree: Tree, parent: int, offset: int, choose: Choose, stop: int | None = None, **kept
    ) -> int:
        """Draw a continuation up to `stop` tokens in all (the whole depth by default), and judge it if it is whole."""
        prefix = tuple(tree.completion_ids(parent, offset)) if parent != ROOT else ()
        begin, end = len(prefix), self.depth if stop is None else stop
        while len(prefix) < end:
            prefix = (*prefix, choose(self.probabilities(prefix)))
        node = tree.add(Node(parent, offset, prefix[begin:], step_ends=tuple(range(end - begin)), **kept))
        if end == self.depth:
            is_right = prefix in self.right
            tree.verdicts[node] = Verdict("correct", "ok") if is_right else Verdict("incorrect", "wrong")
        return node


class ChoosingEngine:
    """The policy behind the engine's face: one completion a poll, in the order asked, every token by `choose`."""

    def __init__(self, policy: Tabular, choose: Choose):
        self.policy, self.choose = policy, choose
        self.waiting: deque[Request] = deque()

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting.extend(requests)

    def poll(self) -> list[Completion]:
        if not self.waiting:
            return []
        request = self.waiting.popleft()
        prefix = begin = tuple(request.prefix_ids[len(PROMPT) :])
        entropies, logprobs = [], []
        while not self.policy.is_whole(prefix):
            probabilities = self.policy.probabilities(prefix)
            action = self.choose(probabilities)
            entropies.append(float(-probabilities @ np.log(probabilities)))
            logprobs.append(float(np.log(probabilities[action])))
            prefix = (*prefix, action)
        ids = prefix[len(begin) :]
        return [Completion(request.id, ids, tuple(logprobs), tuple(logprobs), tuple(entropies), "eos", 0)]


def grown(policy: Tabular, choose: Choose, config: BranchConfig, seed: int = 0) -> Tree:
    """A judged tree by the repository's own branch rules and growth."""
    tree = new_tree()
    actions = frozenset(range(len(policy.probabilities(()))))
    growth = Growth(
        lambda ids, *_: list(range(len(ids))), policy.depth, seed=seed, step_stop=StepStop(actions)
    )
    grow([tree], cast(Engine, ChoosingEngine(policy, choose)), tree_of(config, growth), growth)
    for leaf in tree.leaves():
        is_right = tuple(tree.completion_ids(leaf)) in policy.right
        tree.verdicts[leaf] = Verdict("correct", "ok") if is_right else Verdict("incorrect", "wrong")
    return tree


def new_tree() -> Tree:
    return Tree.of_prompt(Problem("p", "", "math", {}), PROMPT)


def fan(policy: Tabular, choose: Choose, size: int = 3) -> Tree:
    tree = new_tree()
    for _ in range(size):
        policy.continue_from(tree, ROOT, len(PROMPT), choose)
    return tree


def uneven(policy: Tabular, choose: Choose) -> Tree:
    """Two chains; the first branches once after its first token, and once more after its second."""
    tree = new_tree()
    first = policy.continue_from(tree, ROOT, len(PROMPT), choose)
    policy.continue_from(tree, ROOT, len(PROMPT), choose)
    policy.continue_from(tree, first, 1, choose)
    policy.continue_from(tree, first, 2, choose)
    return tree


def vines(policy: Tabular, choose: Choose, size: int = 2, num_vines: int = 1) -> Tree:
    """Chains from the prompt, and `num_vines` continuations from every inner step end of each."""
    tree = fan(policy, choose, size)
    for chain in tree.children(ROOT):
        for offset in range(1, policy.depth):
            for _ in range(num_vines):
                policy.continue_from(tree, chain, offset, choose)
    return tree


def even(policy: Tabular, choose: Choose, arity: int = 2, levels: int = 2) -> Tree:
    """A tree of constant arity: every node is drawn to the next level, and continued `arity` times from there."""
    tree = new_tree()
    cuts = [round(policy.depth * (level + 1) / levels) for level in range(levels)]
    frontier = [ROOT]
    for cut in cuts:
        frontier = [
            policy.continue_from(tree, parent, len(tree.nodes[parent].token_ids), choose, cut)
            for parent in frontier
            for _ in range(arity)
        ]
    return tree


def pruned(policy: Tabular, choose: Choose, keep: float = 0.6) -> Tree:
    """Two whole chains; the first one's state after a token is continued twice, and of these some are not finished."""
    tree = new_tree()
    first = policy.continue_from(tree, ROOT, len(PROMPT), choose)
    policy.continue_from(tree, ROOT, len(PROMPT), choose)
    for _ in range(2):
        piece = policy.continue_from(tree, first, 1, choose, stop=2)
        if choose([keep, 1 - keep]) == 0:
            policy.continue_from(tree, piece, 1, choose, propensity=keep)
    return tree


def every(grow: Callable[[Choose], Tree]) -> Iterator[tuple[float, Tree]]:
    """All trees that `grow` can draw, each with its probability."""
    script: list[int] = []
    while True:
        options: list[int] = []
        chance = 1.0

        def choose(probabilities: Sequence[float], options=options) -> int:
            nonlocal chance
            at = len(options)
            if at == len(script):
                script.append(0)
            options.append(len(probabilities))
            chance *= probabilities[script[at]]
            return script[at]

        tree = grow(choose)
        yield chance, tree
        while script and script[-1] + 1 == options[len(script) - 1]:
            script.pop()
        if not script:
            return
        script[-1] += 1


def sampler(seed: int) -> Choose:
    rng = np.random.default_rng(seed)
    return lambda probabilities: int(rng.choice(len(probabilities), p=probabilities))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(1e-300, math.sqrt((a @ a) * (b @ b))))
