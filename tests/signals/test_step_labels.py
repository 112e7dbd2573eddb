"""Monte-Carlo step labels: hand-typed counts, and a Markov chain whose values are known in closed form."""

import math
import random
from dataclasses import replace

import pytest
from small_models import CORRECT, ERROR, WRONG, make_tree

from reasoner.records import StepLabels
from reasoner.registry import UserError
from reasoner.signals.consensus import agrees, arithmetic, with_votes, working
from reasoner.signals.step_labels import (
    NO_ERROR,
    UNDECIDED,
    StepLabelConfig,
    chains_only,
    first_error,
    is_from_prompt,
    is_stale,
    step_labels,
    until_error,
    with_neutral,
)
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
    """The labels of every chain, those of the estimating continuations' ends among them."""
    return labels_by_default(tree, ends="all", **options)


def labels_by_default(tree: Tree, **options) -> list[list[float]]:
    return [record.labels for record in step_labels([tree], StepLabelConfig(**options), decode)]


def test_soft_and_hard_labels_are_given_once_per_state():
    # state after the first step: 1 of 3 judged; after the second: 0 of 2; the last step is the verdict itself
    assert labels_of(continued_tree()) == [
        [pytest.approx(1 / 3), 0, 1], [NAN, 0], [NAN, 1], [NAN, 0], [NAN, NAN, 0], [NAN, NAN, 0],
    ]  # fmt: skip
    hard = labels_of(continued_tree(), kind="hard")
    assert hard == [[1, 0, 1], [NAN, 0], [NAN, 1], [NAN, 0], [NAN, NAN, 0], [NAN, NAN, 0]]


def test_the_ends_that_are_labelled_are_those_of_chains_from_the_prompt():
    """Of the six continuations nothing but their counts is learned, unless asked for."""
    inside = [pytest.approx(1 / 3), 0]
    assert labels_by_default(continued_tree()) == [[*inside, 1]]
    assert labels_by_default(continued_tree(), ends="none") == [[*inside, NAN]]
    assert len(labels_by_default(continued_tree(), ends="all")) == 6  # one of seven was not judged
    # a state that only a continuation's record can tell of keeps its label, without that continuation's verdict
    tree = continued_tree()
    tree.verdicts[1] = ERROR
    assert labels_by_default(tree) == [[pytest.approx(1 / 3), NAN], [NAN, 0, NAN]]
    # a chain that was drawn node by node, each from its parent's end, is one from the prompt
    steps = make_tree([1], (0, 1, [5], [0]), (1, 1, [6], [0]), verdicts={2: WRONG})
    assert is_from_prompt(steps, 2) and labels_by_default(steps) == [[0, 0]]
    with pytest.raises(UserError, match="choice of chain ends"):
        labels_by_default(tree, ends="some")


def test_min_continuations():
    assert labels_of(continued_tree(), min_continuations=3)[0] == [pytest.approx(1 / 3), NAN, 1]
    assert labels_of(continued_tree(), min_continuations=4)[0] == [NAN, NAN, 1]


def test_record():
    tree = continued_tree()
    tree.problem = replace(tree.problem, prompt="one and two")
    first, second = list(step_labels([tree], StepLabelConfig(ends="all"), decode))[:2]
    assert (first.prompt, first.completions) == ("one and two", ["5 6", "7 8", "9"])  # without the template
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


def test_posterior_labels():
    assert labels_of(continued_tree(), kind="posterior")[0] == [pytest.approx(2 / 5), 1 / 4, 1]


def test_labels_spread_along_the_chain():
    """A chain of five steps and a wrong answer; probes after the second (2 of 2 right) and the fourth (0 of 3)."""
    tree = make_tree(
        [1],
        (0, 1, [5, 6, 7, 8, 9], [0, 1, 2, 3, 4]),
        *[(1, 2, [20 + i, 21], [0, 1]) for i in range(2)],
        *[(1, 4, [40 + i], [0]) for i in range(3)],
        verdicts={1: WRONG, 2: CORRECT, 3: CORRECT, 4: WRONG, 5: WRONG, 6: WRONG},
    )
    first, right, *_ = step_labels([tree], StepLabelConfig(kind="spread", ends="all"), decode)
    assert first.labels == [1, 1, NAN, 0, 0]
    assert first.first_errors == [UNDECIDED]
    # the right continuation's own two steps are shown good by its verdict; the first two are labelled above
    assert right.labels == [NAN, NAN, 1, 1] and right.first_errors == [NO_ERROR]
    # by default that verdict labels nothing: the continuation was drawn to tell of the state that it begins in
    assert labels_by_default(tree, kind="spread") == [first.labels]
    # with the fourth step judged too seldom, only the verdict at the end is left
    assert labels_of(tree, kind="spread", min_continuations=4)[0] == [1, 1, NAN, NAN, 0]
    # one more probe, of the third step, finds the first error
    for i in range(2):
        tree.verdicts[tree.add(Node(1, 3, (50 + i,), step_ends=(0,)))] = WRONG
    found = next(iter(step_labels([tree], StepLabelConfig(kind="spread"), decode)))
    assert found.labels == [1, 1, 0, 0, 0] and found.first_errors == [2]
    assert labels_of(tree, kind="spread", drop_after_error=True)[0] == [1, 1, 0, NAN, NAN]


def test_a_chain_without_continuations_spreads_its_verdict():
    right = make_tree([1], (0, 1, [5, 6, 7], [0, 1, 2]), verdicts={1: CORRECT})
    wrong = make_tree([1], (0, 1, [5, 6, 7], [0, 1, 2]), verdicts={1: WRONG})
    assert labels_of(right, kind="spread") == [[1, 1, 1]]
    assert labels_of(wrong, kind="spread") == [[NAN, NAN, 0]]


def test_nothing_is_labelled_after_the_first_error():
    tree = continued_tree()
    assert labels_of(tree, drop_after_error=True)[0] == [pytest.approx(1 / 3), 0, NAN]
    assert until_error([1, 0.5, 0, 1, 0]) == [1, 0.5, 0, NAN, NAN]
    assert until_error([1, float("nan"), 0.5]) == [1, NAN, 0.5]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([1, 0.2, 1], -1), ([1, 0, 0], 1), ([0], 0), ([1, float("nan"), 0], -2), ([], -1)],
)
def test_first_errors(labels, expected):
    assert first_error(labels) == expected


def test_only_problems_that_are_solved_sometimes():
    mixed = make_tree([1], (0, 1, [5], [0]), (0, 1, [6], [0]), verdicts={1: CORRECT, 2: WRONG})
    easy = make_tree([1], (0, 1, [5], [0]), (0, 1, [6], [0]), verdicts={1: CORRECT, 2: CORRECT})
    hopeless = make_tree([1], (0, 1, [5], [0]), (0, 1, [6], [0]), verdicts={1: WRONG, 2: ERROR})
    kept = list(step_labels([mixed, easy, hopeless], StepLabelConfig(only_mixed=True), decode))
    assert [r.labels for r in kept] == [[1], [0]]


def test_labels_of_an_older_policy_are_found_and_taken_off():
    tree = make_tree([1], (0, 1, [5, 6], [0, 1]), verdicts={1: WRONG})
    for version in (3, 1):
        tree.verdicts[tree.add(Node(1, 1, (7,), step_ends=(0,), weights_version=version))] = CORRECT
    first = next(iter(step_labels([tree], StepLabelConfig(), decode)))
    assert first.weights_version == 1  # the oldest that had a say
    assert is_stale(tree, 2) and not is_stale(tree, 1)
    bare = chains_only(tree)
    assert len(bare.nodes) == 2 and bare.verdicts == {1: WRONG} and not is_stale(bare, 9)


def test_neutral_ratings_count_as_one_chooses():
    human = StepLabels("p", "", ["a", "b"], [1.0, 0.5], [1], [2, 3], [0, 1], kind="human")
    soft = StepLabels("p", "", ["a", "b"], [1.0, 0.5], [1], [2, 3], [0, 1])
    for choice, expected in [("good", 1.0), ("half", 0.5), ("bad", 0.0), ("drop", NAN)]:
        assert [r.labels for r in with_neutral([human, soft], choice)] == [[1, expected], [1, 0.5]]
    with pytest.raises(UserError, match="goood"):
        list(with_neutral([human], "goood"))


def test_consensus_keeps_both_votes():
    prompt, right, slip = "2+3+4", ["2+3=5\n", "5+4=9\n", "#### 9"], ["2+3=6\n", "6+4=10\n", "#### 10"]
    assert arithmetic([prompt] * 2, [right, slip]) == [-1, 0]

    def record(steps, labels):
        ends = list(range(len(steps)))
        return StepLabels("p", prompt, steps, labels, [1], ends, ends, first_errors=[first_error(labels)])

    voted = list(
        with_votes(
            [record(right, [1, 1, 1]), record(slip, [0, 0, 0]), record(slip, [1, 0, 0]),
             record(slip, [float("nan"), 0, 0]), record(right, [1, 1, 0])], arithmetic)
    )  # fmt: skip
    assert [r.first_errors for r in voted] == [[-1, -1], [0, 0], [1, 0], [-2, 0], [2, -1]]
    assert [agrees(r) for r in voted] == [True, True, False, False, False]


def test_a_judge_reads_the_problem_and_not_the_template_around_it():
    """17+17=34 is a true calculation, and of 9+8+5 no step."""

    def text(ids):
        return bytes(ids).decode()

    answer = "9+8=17\n17+17=34\n#### 34"
    tree = Tree.of_prompt(Problem("p", "9+8+5", "math", {"answer": "22"}), list(b"9+8+5=\n"))
    tree.add(Node(0, 7, tuple(answer.encode()), step_ends=(6, 15, len(answer) - 1)))
    tree.verdicts[1] = WRONG
    (voted,) = with_votes(step_labels([tree], StepLabelConfig(kind="spread"), text), working)
    assert voted.first_errors == [-2, 1]  # nobody continued it, and the judge knows
    assert next(iter(with_votes([voted], arithmetic))).first_errors[-1] == -1
