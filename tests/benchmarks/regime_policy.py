"""A chain that one slip spoils, as a table that is solved exactly, and what each method learns from it, in numpy.

The policy has logits over `ACTIONS` actions at each of H positions, one token a step; action 0 is right. A chain is on
its way while all of its actions were right, and right at its end if it still is; the policy does not see whether it
is, as the parameters of a language model serve right and spoiled chains alike. A verdict is turned over with a chance.
The advantages are those of reasoner/signals at gamma = 1, many runs side by side; tests/test_regimes.py holds them
against it. Shape suffixes: B runs, N chains of a round, H positions, A actions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

ACTIONS = 8
SPREAD = 1.5  # deviation of the logits at the start: how unequally hard steps are
GROUP = 8  # chains, or leaves, of a tree
LEVELS = 3  # of the trees that branch: 2 · 2 · 2 leaves
ROUND = 512  # tokens of a round, about
LAM = 0.95
PRM_ERROR = 0.2  # deviation of the noisy PRM's error
LABEL_SHARE = 0.25  # of the budget that goes into the labels of a PRM
STATES, SAMPLES = 3, 4  # states of a chain that are labelled, and continuations drawn from each
EPSILON = 1e-6  # as reasoner/signals/group


class Task(NamedTuple):
    """Steps of a chain, chance that a verdict is turned over, and the pass rate that the policy starts with."""

    length: int
    flip: float
    start: float


class Drawn(NamedTuple):
    """Chains of a round; those of a tree follow each other. `on_BNH`: whether all was right up to and with that step."""

    actions_BNH: np.ndarray
    on_BNH: np.ndarray
    reward_BN: np.ndarray
    tokens: int  # sampled, for one run


class Values(NamedTuple):
    """What a critic says of the prompt, and of each chain after each of its steps."""

    start_B: np.ndarray
    after_BNH: np.ndarray


@cache
def start_logits(task: Task, seed: int) -> np.ndarray:
    """Logits (H, A) of a policy whose steps are unequally hard and which is right as often as `task.start`."""
    logits = np.random.default_rng(seed).normal(scale=SPREAD, size=(task.length, ACTIONS))
    low, high = -30.0, 30.0  # of what is added to the right action's logit
    for _ in range(80):
        middle = (low + high) / 2
        moved = logits + middle * np.eye(ACTIONS)[0]
        low, high = (low, middle) if pass_rate(moved[None])[0] > task.start else (middle, high)
    return logits + low * np.eye(ACTIONS)[0]


def probabilities(logits_BHA: np.ndarray) -> np.ndarray:
    exps = np.exp(logits_BHA - logits_BHA.max(-1, keepdims=True))
    return exps / exps.sum(-1, keepdims=True)


def pass_rate(logits_BHA: np.ndarray) -> np.ndarray:
    return probabilities(logits_BHA)[..., 0].prod(-1)


def exact_gradient(logits_BHA: np.ndarray) -> np.ndarray:
    """d pass rate / d logits."""
    p_BHA = probabilities(logits_BHA)
    return p_BHA[..., 0].prod(-1)[:, None, None] * (np.eye(ACTIONS)[0] - p_BHA)


def to_go(p_BHA: np.ndarray) -> np.ndarray:
    """(B, H): the chance that a chain that is on its way after step h ends right."""
    rest = np.ones(p_BHA.shape[:2])
    rest[:, :-1] = np.cumprod(p_BHA[:, :0:-1, 0], axis=1)[:, ::-1]
    return rest


def turned(chance: np.ndarray, flip: float) -> np.ndarray:
    """The chance of a verdict `correct` where the truth is right with `chance`."""
    return flip + (1 - 2 * flip) * chance


def fan(p_BHA: np.ndarray, task: Task, rng: np.random.Generator) -> Drawn:
    """Groups of GROUP chains from the prompt."""
    trees = max(1, ROUND // (GROUP * task.length))
    shape = (len(p_BHA), trees * GROUP, task.length)
    return _judged(_draw(p_BHA, shape[1], slice(None), rng), shape[1] * task.length, task, rng)


def even(p_BHA: np.ndarray, task: Task, rng: np.random.Generator) -> Drawn:
    """Trees whose states at the ends of LEVELS pieces are continued twice each; each leaf with its whole path."""
    cuts = level_cuts(task.length)
    per_tree = sum(2 ** (k + 1) * (cuts[k + 1] - cuts[k]) for k in range(LEVELS))
    trees = max(1, ROUND // per_tree)
    pieces = []
    for k in range(LEVELS):
        drawn = _draw(p_BHA, trees * 2 ** (k + 1), slice(cuts[k], cuts[k + 1]), rng)
        pieces.append(np.repeat(drawn, 2 ** (LEVELS - 1 - k), axis=1))
    return _judged(np.concatenate(pieces, axis=2), trees * per_tree, task, rng)


def level_cuts(length: int) -> list[int]:
    return [round(length * k / LEVELS) for k in range(LEVELS + 1)]


def _draw(p_BHA: np.ndarray, num: int, where: slice, rng: np.random.Generator) -> np.ndarray:
    cumulated = p_BHA[:, where].cumsum(-1)[:, None]
    u = rng.random((len(p_BHA), num, cumulated.shape[2]))
    return sum((u > cumulated[..., a]).astype(np.int8) for a in range(ACTIONS - 1))  # pyright: ignore[reportReturnType]


def _judged(actions_BNH: np.ndarray, tokens: int, task: Task, rng: np.random.Generator) -> Drawn:
    on_BNH = np.logical_and.accumulate(actions_BNH == 0, axis=-1)
    is_turned = rng.random(on_BNH.shape[:2]) < task.flip
    return Drawn(actions_BNH, on_BNH, (on_BNH[..., -1] ^ is_turned).astype(float), tokens)


# advantages: what was drawn, and a critic's values where there is one → (B, N, H), or (B, N, 1) for whole chains
Advantage = Callable[[Drawn, Values | None], np.ndarray]


def rloo(drawn: Drawn, values: Values | None) -> np.ndarray:
    r = _groups(drawn)
    return ((r - r.mean(-1, keepdims=True)) * GROUP / (GROUP - 1)).reshape(drawn.reward_BN.shape)[..., None]


def grpo(drawn: Drawn, values: Values | None) -> np.ndarray:
    r = _groups(drawn)
    standard = (r - r.mean(-1, keepdims=True)) / (r.std(-1, ddof=1, keepdims=True) + EPSILON)
    return standard.reshape(drawn.reward_BN.shape)[..., None]


def sibling_loo(drawn: Drawn, values: Values | None) -> np.ndarray:
    """Of a leaf's return, at each piece of its path, the mean of what the piece's sibling led to is taken."""
    batch, num, length = drawn.actions_BNH.shape
    cuts = level_cuts(length)
    found = np.empty((batch, num, length))
    for k in range(LEVELS):
        below = 2 ** (LEVELS - 1 - k)  # leaves of a piece
        means = drawn.reward_BN.reshape(batch, -1, 2, below).mean(-1)[..., ::-1]
        found[..., cuts[k] : cuts[k + 1]] = (
            drawn.reward_BN - np.repeat(means, below, axis=-1).reshape(batch, num)
        )[..., None]
    return found


def step_ppo(drawn: Drawn, values: Values | None) -> np.ndarray:
    """Generalised advantages over steps at lambda = LAM; a judged outcome is terminal."""
    assert values is not None
    after = values.after_BNH.copy()
    after[..., -1] = drawn.reward_BN  # V there is 0, and the reward is paid
    found = np.empty_like(after)
    running = np.zeros(drawn.reward_BN.shape)
    for h in reversed(range(after.shape[-1])):
        before = after[..., h - 1] if h else values.start_B[:, None]
        running = after[..., h] - before + LAM * running
        found[..., h] = running
    return found


def _groups(drawn: Drawn) -> np.ndarray:
    return drawn.reward_BN.reshape(len(drawn.reward_BN), -1, GROUP)


def gradient(drawn: Drawn, advantages: np.ndarray, p_BHA: np.ndarray) -> np.ndarray:
    """The surrogate's gradient (B, H, A), mean over chains: at the first update no ratio is clipped."""
    a_BNH = np.broadcast_to(advantages, drawn.actions_BNH.shape)
    place = np.arange(a_BNH.shape[2]) * ACTIONS + drawn.actions_BNH
    return (_added(place, a_BNH, p_BHA.shape) - p_BHA * a_BNH.sum(1)[..., None]) / a_BNH.shape[1]


class Exact:
    """The values of the policy as it is, under the verifier as it is: nobody has them, they bound what credit can give.

    With `error` a PRM that knows them but for an error, fixed for each step, its action and whether the chain is on
    its way; values stay within 0 and 1.
    """

    tokens_B: np.ndarray | float = 0.0

    def __init__(self, logits_BHA: np.ndarray, task: Task, rng: np.random.Generator, budget: int, error=0.0):
        self.task = task
        self.error = rng.normal(size=_table(logits_BHA)) * error if error else None

    def __call__(self, drawn: Drawn, p_BHA: np.ndarray) -> Values:
        rest_BH = to_go(p_BHA)
        after = turned(np.where(drawn.on_BNH, rest_BH[:, None], 0.0), self.task.flip)
        if self.error is not None:
            after = np.clip(after + _look_up(self.error, drawn), 0, 1)
        return Values(turned(rest_BH[:, 0] * p_BHA[:, 0, 0], self.task.flip), after)

    def learn(self, drawn: Drawn) -> None:
        """What it knows needs no learning."""


class Labelled:
    """A PRM learned once, before the policy is trained, from Monte-Carlo labels; their tokens are charged.

    Chains of the starting policy are drawn for LABEL_SHARE of the budget; at STATES random steps of each, SAMPLES
    continuations are drawn and judged. The PRM is the mean label of each (step, action, on its way or not).
    """

    def __init__(self, logits_BHA: np.ndarray, task: Task, rng: np.random.Generator, budget: int):
        p_BHA, length = probabilities(logits_BHA), task.length
        chains = max(1, int(LABEL_SHARE * budget / (length + STATES * SAMPLES * length / 2)))
        drawn = _judged(_draw(p_BHA, chains, slice(None), rng), 0, task, rng)
        # the steps whose ends are labelled
        at_BNS = rng.integers(0, length - 1, size=(*drawn.reward_BN.shape, STATES))
        on_BNS = np.take_along_axis(drawn.on_BNH, at_BNS, axis=2)
        flat_BM = at_BNS.reshape(len(p_BHA), -1)
        rest_BNS = np.take_along_axis(to_go(p_BHA), flat_BM, axis=1).reshape(at_BNS.shape)
        right_BNS = rng.binomial(SAMPLES, turned(np.where(on_BNS, rest_BNS, 0.0), task.flip))
        self.tokens_B = chains * length + SAMPLES * (length - 1 - at_BNS).sum((1, 2))
        self.start_B = drawn.reward_BN.mean(1)
        place = (at_BNS * 2 + on_BNS) * ACTIONS + np.take_along_axis(drawn.actions_BNH, at_BNS, axis=2)
        total = _added(place, right_BNS, _table(logits_BHA))
        count = _added(place, np.full(at_BNS.shape, SAMPLES), _table(logits_BHA))
        prior = right_BNS.mean((1, 2)) / SAMPLES
        self.table = (total + prior[:, None, None, None]) / (count + 1)

    def __call__(self, drawn: Drawn, p_BHA: np.ndarray) -> Values:
        return Values(self.start_B, _look_up(self.table, drawn))

    def learn(self, drawn: Drawn) -> None:
        """It stays as it was labelled while the policy moves on."""


class Learned:
    """A critic that learns the outcomes of each round after it, older rounds weighing less and less."""

    tokens_B: np.ndarray | float = 0.0
    keeps = 0.9

    def __init__(self, logits_BHA: np.ndarray, task: Task, rng: np.random.Generator, budget: int):
        self.total, self.count = np.zeros(_table(logits_BHA)), np.zeros(_table(logits_BHA))
        self.start = np.full((2, len(logits_BHA)), [[0.5], [1.0]])  # sum and number

    def __call__(self, drawn: Drawn, p_BHA: np.ndarray) -> Values:
        start_B = self.start[0] / self.start[1]
        table = (self.total + start_B[:, None, None, None]) / (self.count + 1)
        return Values(start_B, _look_up(table, drawn))

    def learn(self, drawn: Drawn) -> None:
        place = _places(drawn)
        reward = np.broadcast_to(drawn.reward_BN[..., None], place.shape)
        self.total = self.keeps * self.total + _added(place, reward, self.total.shape)
        self.count = self.keeps * self.count + _added(place, np.ones(place.shape), self.count.shape)
        seen = np.stack([drawn.reward_BN.sum(1), np.full(len(place), place.shape[1])])
        self.start = self.keeps * self.start + seen


def _table(logits_BHA: np.ndarray) -> tuple[int, int, int, int]:
    return (*logits_BHA.shape[:2], 2, ACTIONS)


def _places(drawn: Drawn) -> np.ndarray:
    """Where the state after each step stands in a table of (step, on its way, action)."""
    steps = np.arange(drawn.actions_BNH.shape[2])
    return (steps * 2 + drawn.on_BNH) * ACTIONS + drawn.actions_BNH


def _look_up(table: np.ndarray, drawn: Drawn) -> np.ndarray:
    place = _places(drawn)
    flat = np.take_along_axis(table.reshape(len(table), -1), place.reshape(len(table), -1), axis=1)
    return flat.reshape(place.shape)


def _added(place: np.ndarray, numbers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A table of the sums of what falls on each of its places."""
    size = int(np.prod(shape[1:]))
    flat = (place.reshape(len(place), -1) + size * np.arange(len(place))[:, None]).ravel()
    return np.bincount(flat, weights=numbers.ravel(), minlength=size * len(place)).reshape(shape)


class Method(NamedTuple):
    """How a method draws, what it makes of it, and the critic that it reads."""

    draw: Callable[[np.ndarray, Task, np.random.Generator], Drawn]
    advantages: Advantage
    critic: Callable[..., Exact | Labelled | Learned] | None = None


def noisy(*args) -> Exact:
    return Exact(*args, error=PRM_ERROR)


METHODS: dict[str, Method] = {
    "GRPO": Method(fan, grpo),
    "RLOO": Method(fan, rloo),
    "tree": Method(even, sibling_loo),
    "step PPO, exact values": Method(fan, step_ppo, Exact),
    "step PPO, learned critic": Method(fan, step_ppo, Learned),
    "step PPO, labelled PRM": Method(fan, step_ppo, Labelled),
    "step PPO, noisy PRM": Method(fan, step_ppo, noisy),
}
