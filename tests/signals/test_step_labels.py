"""Monte-Carlo step labels: hand-typed counts, and a Markov chain whose values are known in closed form."""

import math
import random

import pytest
from small_models import CORRECT, ERROR, WRONG, make_tree

from reasoner.signals.step_labels import StepLabelConfig, step_labels
from reasoner.tree import ROOT, Node, Problem, Tree

NAN = pytest.approx(float("nan"), nan_ok=True)


def decode(ids) -> str:
    return " ".join(map(str, ids))


def continued_tree() -> Tree:
    """A chain of three steps, continued four times after the first and twice after the second."""
    return make_tree(
        [1, 2],
        (0, 2, [5, 6, 7, 8, 9], [1, 3, 4]),
        *[(1, 2, [20 + i, 30], [1]) for i in range(4)],
        *[(1, 4, [40 + i], [0]) for i in range(2)],
        verdicts={1: CORRECT, 2: WRONG, 3: CORRECT, 4: ERROR, 5: WRONG, 6: WRONG, 7: WRONG},
    )


def labels_of(tree: Tree, **options) -> list[list[float]]:
    return [record.labels for record in step_labels([tree], StepLabelConfig(**options), decode)]


def test_soft_and_hard_labels_are_given_once_per_state():
    # state after the first step: 1 of 3 judged; after the second: 0 of 2; the last step is the verdict itself
    assert labels_of(continued_tree()) == [
        [pytest.approx(1 / 3), 0, 1], [NAN, 0], [NAN, 1], [NAN, 0], [NAN, NAN, 0], [NAN, NAN, 0],
    ]  # fmt: skip
    hard = labels_of(continued_tree(), kind="hard")
    assert hard == [[1, 0, 1], [NAN, 0], [NAN, 1], [NAN, 0], [NAN, NAN, 0], [NAN, NAN, 0]]


def test_min_continuations():
    assert labels_of(continued_tree(), min_continuations=3)[0] == [pytest.approx(1 / 3), NAN, 1]
    assert labels_of(continued_tree(), min_continuations=4)[0] == [NAN, NAN, 1]


def test_record():
    first, second = list(step_labels([continued_tree()], StepLabelConfig(), decode))[:2]
    assert (first.prompt, first.completions) == ("1 2", ["5 6", "7 8", "9"])
    assert (first.prompt_ids, first.completion_ids) == ([1, 2], [5, 6, 7, 8, 9])
    assert (first.step_ends, first.n, first.c) == ([1, 3, 4], [3, 2, 1], [1, 0, 1])
    assert (second.completions, second.step_ends) == (["5 6", "20 30"], [1, 3])
    assert (first.problem_id, first.kind, first.source, first.licence) == ("p", "soft", "hand", "cc0")


def test_a_state_is_labelled_although_its_own_chain_was_not_judged():
    tree = continued_tree()
    tree.verdicts[1] = ERROR
    assert labels_of(tree) == [[pytest.approx(1 / 3), 0], [NAN, 1], [NAN, 0], [NAN, 0, 0], [NAN, NAN, 0]]


def test_a_chain_without_continuations_is_labelled_at_its_end_alone():
    tree = make_tree([1], (0, 1, [5, 6, 7], [0, 2]), verdicts={1: CORRECT})
    assert labels_of(tree) == [[NAN, 1]]


def test_a_branch_inside_a_step_labels_no_step():
    tree = make_tree([1], (0, 1, [5, 6, 7], [1, 2]), (1, 1, [8], [0]), verdicts={1: CORRECT, 2: WRONG})
    assert labels_of(tree) == [[NAN, 1], [0]]


def test_steps_that_a_search_chose_do_not_count():
    tree = continued_tree()
    tree.verdicts[tree.add(Node(1, 2, (50,), step_ends=(0,), drawn="search"))] = CORRECT
    assert labels_of(tree)[0] == [pytest.approx(1 / 3), 0, 1]


# A chain of thought as a two-state Markov chain: a step turns right into wrong with probability E and wrong
# into right with probability R; the answer is the state after NUM_STEPS steps.
E, R, NUM_STEPS, NUM_DRAWS, NUM_TREES = 0.3, 0.1, 4, 3, 2500


def simulated_trees() -> list[Tree]:
    """Per tree a chain, and NUM_DRAWS continuations of each inner step; a token is the state, 1 for right."""
    rng = random.Random(0)

    def run(state: int, steps: int) -> list[int]:
        states = []
        for _ in range(steps):
            state = int(rng.random() >= E) if state else int(rng.random() < R)
            states.append(state)
        return states

    trees = []
    for number in range(NUM_TREES):
        tree = Tree.of_prompt(Problem(str(number), "", "math", {}), [9])
        first = run(rng.randint(0, 1), NUM_STEPS)
        rows = [(ROOT, 1, first)]
        rows += [
            (1, m, run(first[m - 1], NUM_STEPS - m)) for m in range(1, NUM_STEPS) for _ in range(NUM_DRAWS)
        ]  # fmt: skip
        for parent, offset, states in rows:
            node = tree.add(Node(parent, offset, tuple(states), step_ends=tuple(range(len(states)))))
            tree.verdicts[node] = CORRECT if states[-1] else WRONG
        trees.append(tree)
    return trees


def value(m: int, right: int) -> float:
    """Probability that the answer is right given the state after m steps."""
    pi, lam = R / (E + R), 1 - E - R
    return pi + (right - pi) * lam ** (NUM_STEPS - m)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_labels_of_a_markov_chain(kind):
    found: dict[tuple[int, int], list[float]] = {}
    for record in step_labels(simulated_trees(), StepLabelConfig(kind=kind), decode):
        for m, (label, state) in enumerate(zip(record.labels, record.completion_ids, strict=True), start=1):
            if m < NUM_STEPS and not math.isnan(label):
                found.setdefault((m, state), []).append(label)
    assert sum(map(len, found.values())) == NUM_TREES * (NUM_STEPS - 1)
    assert len(found) == 2 * (NUM_STEPS - 1)
    for (m, state), labels in found.items():
        v = value(m, state)
        if kind == "soft":
            mean, deviation = v, math.sqrt(v * (1 - v) / NUM_DRAWS)
        else:
            mean = 1 - (1 - v) ** NUM_DRAWS
            deviation = math.sqrt(mean * (1 - mean))
        # beyond 4 standard errors by chance once in 16 000
        assert abs(sum(labels) / len(labels) - mean) < 4 * deviation / math.sqrt(len(labels))


def test_an_empty_completion_has_no_steps_to_label():
    tree = make_tree([1], (0, 1, [], []), (0, 1, [5], [0]), verdicts={1: WRONG, 2: CORRECT})
    assert labels_of(tree) == [[1]]
