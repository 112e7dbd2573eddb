"""Labelled solutions merged into trees: hand-typed tries, and no label lost or moved."""

import random
from dataclasses import replace

from reasoner.policy.labelled import Trie, all_tokens, from_outcomes, from_steps
from reasoner.records import OutcomeLabel, StepLabels
from reasoner.tree import Problem

NAN = float("nan")


def steps(ids: list[int], ends: list[int], labels: list[float], prompt=(1, 2), problem="p") -> StepLabels:
    return StepLabels(problem, "", [""] * len(ends), labels, list(prompt), ids, ends)


def test_equal_prefixes_become_the_same_nodes():
    trie = Trie(Problem("p", "", "", {}), [1, 2])
    assert trie.add([3, 4, 5]) == [(0, 2), (1, 1), (1, 2), (1, 3)]
    assert trie.add([3, 4, 6, 7]) == [(0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert trie.add([3, 4, 6, 8]) == [(0, 2), (1, 1), (1, 2), (2, 1), (3, 1)]
    assert trie.add([3, 4]) == [(0, 2), (1, 1), (1, 2)]
    assert trie.add([9]) == [(0, 2), (4, 1)]
    assert trie.add([3, 4, 5, 6]) == [(0, 2), (1, 1), (1, 2), (1, 3), (5, 1)]
    nodes = [(n.parent, n.offset, n.token_ids) for n in trie.tree.nodes[1:]]
    assert nodes == [(0, 2, (3, 4, 5)), (1, 2, (6, 7)), (2, 1, (8,)), (0, 2, (9,)), (1, 3, (6,))]
    assert trie.num_tokens == 10


def test_states_hold_the_sequence_and_equal_prefixes_share_a_state():
    rng = random.Random(0)
    trie = Trie(Problem("p", "", "", {}), [7, 7])
    state_of: dict[tuple[int, ...], tuple[int, int]] = {}
    for _ in range(200):
        ids = [rng.randint(0, 1) for _ in range(rng.randint(1, 6))]
        for length, (node, offset) in enumerate(trie.add(ids)):
            prefix = tuple(ids[:length])
            assert trie.tree.completion_ids(node, offset) == list(prefix) if length else node == 0
            assert state_of.setdefault(prefix, (node, offset)) == (node, offset)
    assert len(set(state_of.values())) == len(state_of)
    assert trie.num_tokens == 2 + len(state_of) - 1  # no prefix is stored twice


def test_labels_of_steps_stay_where_they_were_and_steps_of_one_prefix_are_a_group():
    records = [
        steps([3, 4, 5, 6], [1, 3], [1.0, 0.25]),
        steps([3, 4, 7], [1, 2], [NAN, 0.0]),  # the first step is labelled in the record before
        steps([8], [0], [NAN]),  # nothing to learn
        steps([3, 4], [0, 1], [0.5, 1.0], prompt=[9]),
        steps([3], [0], [0.75], problem="q"),
    ]
    first, second, third = from_steps(records, 100)
    assert (first.tree.problem.id, first.tree.nodes[0].token_ids) == ("p", (1, 2))
    assert first.states == [(1, 2), (1, 4), (2, 1)]
    assert first.labels == [1.0, 0.25, 0.0]
    assert first.groups == [(0, 2), (1, 2), (1, 2)]
    assert (first.num_solutions, second.num_solutions, third.num_solutions) == (2, 1, 1)
    assert second.labels == [0.5, 1.0] and second.groups == [(0, 1), (1, 1)]
    assert third.tree.problem.id == "q"


def test_labels_at_the_end_of_a_solution_are_told_apart():
    whole, cut = steps([3, 4, 5, 6], [1, 3], [1.0, 0.25]), steps([3, 4, 7, 8], [1, 2], [NAN, 0.0])
    prefix = replace(steps([3, 4, 9], [1, 2], [NAN, 0.75]), is_whole=False)
    (found,) = from_steps([whole, cut, prefix], 100, end_weight=0.25)
    assert found.labels == [1.0, 0.25, 0.0, 0.75]
    assert found.ends == {1}  # the second breaks off in a step, the third is a prefix with its next step
    assert [found.weight(i) for i in range(4)] == [1.0, 0.25, 1.0, 1.0]


def test_a_prompt_with_too_many_solutions_is_several_trees():
    records = [steps([i, i, i], [2], [float(i % 2)]) for i in range(5)]
    found = from_steps(records, 8)  # the prompt of two tokens and two solutions of three
    assert [d.num_solutions for d in found] == [2, 2, 1]
    assert [d.labels for d in found] == [[0, 1], [0, 1], [0]]
    assert from_steps(records[:1], 1)[0].num_solutions == 1  # one solution is never cut


def test_outcomes_are_labelled_at_their_ends_or_at_every_token():
    def outcome(ids: list[int], label: bool) -> OutcomeLabel:
        return OutcomeLabel("p", "", "", label, [1], ids)

    (found,) = from_outcomes([outcome([3, 4], True), outcome([3, 5], False), outcome([], True)], 100)
    assert (found.states, found.labels, found.num_solutions) == ([(1, 2), (2, 1)], [1, 0], 2)
    every = all_tokens(found)
    assert every.states == [(1, 1), (1, 2), (1, 1), (2, 1)]
    assert every.labels == [1, 1, 0, 0] and every.groups == [(0, 1)] * 4
