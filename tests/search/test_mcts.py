"""Monte-Carlo tree search: statistics typed by hand, and what selection prefers on a reasoner with known values."""

import math
from dataclasses import replace

import pytest
from markov import BAD, RIGHT, MarkovEngine, judge, mark_steps, markov_trees, state_of
from small_models import CORRECT, ERROR, WRONG, branching_tree, make_tree, small_lm
from test_grow import PROMPTS, shape
from test_grow import mark_steps as marks_below_16

from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Sampling
from reasoner.registry import UserError
from reasoner.search.chain import fan
from reasoner.search.grow import Branch, Growth, StepStop, grow
from reasoner.search.mcts import (
    Edge,
    MCTSConfig,
    _select,
    mcts,
    most_visited,
    outcome_or_score,
    puct,
    search_graph,
    uct,
)
from reasoner.tree import ROOT, Node, Problem, Tree, counts

STEP = StepStop(frozenset({RIGHT, BAD}))


def graph_of(tree):
    value = outcome_or_score()
    return search_graph(tree, [None, *(value(tree, i) for i in range(1, len(tree.nodes)))])


def judged_tree():
    tree = branching_tree()
    tree.verdicts[3] = CORRECT  # a node that goes on in another has no verdict of its own in real trees
    return tree


def test_visits_and_values_of_every_state():
    graph = graph_of(judged_tree())
    # evaluations: 1 right, 2 wrong, 3 right, 4 right, 5 our error, 6 wrong
    assert graph.visits == {
        (0, 3): 5, (1, 2): 4, (1, 3): 4, (1, 4): 2, (1, 6): 1, (2, 1): 1, (2, 3): 1,
        (3, 2): 1, (4, 1): 2, (4, 3): 1, (5, 1): 0, (6, 2): 1,
    }  # fmt: skip
    assert graph.sums == {
        (0, 3): 3, (1, 2): 3, (1, 3): 3, (1, 4): 2, (1, 6): 1, (2, 1): 0, (2, 3): 0,
        (3, 2): 1, (4, 1): 1, (4, 3): 1, (5, 1): 0, (6, 2): 0,
    }  # fmt: skip
    assert graph.children == {
        (0, 3): [(1, 2), (2, 1)],
        (1, 2): [(1, 3)],  # the branch inside a step is a state of its own
        (1, 3): [(1, 4), (4, 1)],
        (1, 4): [(1, 6), (3, 2)],
        (2, 1): [(2, 3)],
        (3, 2): [(5, 1)],
        (4, 1): [(4, 3), (6, 2)],
    }
    assert graph.value((1, 3)) == 3 / 4 and graph.value((5, 1)) == 0
    # an unvisited child is taken for as good as its parent
    assert graph.edges((3, 2)) == [Edge((5, 1), 0, 1.0, 1.0)]


def test_rules_by_hand():
    edge = Edge((1, 2), n=3, q=0.5, prior=0.25)
    assert puct(edge, 16, 2.0) == pytest.approx(0.5 + 2 * 0.25 * 4 / 4)
    assert uct(edge, 16, 2.0) == pytest.approx(0.5 + 2 * math.sqrt(2 * math.log(16) / 3))
    assert uct(edge._replace(n=0), 16, 2.0) == math.inf


def test_prior_is_the_steps_probability_per_token():
    tree = make_tree([1])
    tree.add(Node(0, 1, (5, 6, 7), logprobs_full=(-1.0, -2.0, -4.0), step_ends=(1, 2)))
    graph = search_graph(tree, [None, 0.0])
    assert graph.priors == {(1, 2): pytest.approx(math.exp(-1.5)), (1, 3): pytest.approx(math.exp(-4))}


@pytest.mark.parametrize("reason", ["length", "nan", "context"])
def test_failures_lower_their_ancestors(reason):
    tree = make_tree([1], (0, 1, [5, 6], [0, 1]), (1, 1, [7], [0]))
    tree.verdicts[1] = CORRECT
    tree.nodes[2] = replace(tree.nodes[2], stop_reason=reason)
    graph = graph_of(tree)
    assert (graph.visits[1, 1], graph.value((1, 1)), graph.value(graph.root)) == (2, 0.5, 0.5)
    tree.verdicts[2] = ERROR  # our own failure counts neither way
    assert (graph_of(tree).visits[1, 1], graph_of(tree).value((1, 1))) == (1, 1.0)


def test_selection_by_hand():
    # prompt ┬ a (2 of 2 right), a| and aa are states;  ┴ b (0 of 1)
    tree = make_tree([1], (0, 1, [5, 6, 7], [0, 1, 2]), (0, 1, [8, 9], [0, 1]), (1, 1, [4], [0]))
    tree.verdicts.update({1: CORRECT, 2: WRONG, 3: CORRECT})
    greedy = MCTSConfig(exploration=0)
    # (1, 1) was expanded and is best; of its children (3, 1) is an end, so the remainder's step is next
    assert _select(graph_of(tree), puct, greedy, 1) == [(1, 2)]
    # with it closed, what is left below (1, 1) is nothing, and b comes
    assert _select(graph_of(tree), puct, greedy, 5) == [(1, 2), (2, 1)]
    curious = MCTSConfig(exploration=9, select="uct")
    assert _select(graph_of(tree), uct, curious, 1) == [(2, 1)]
    assert _select(graph_of(tree), puct, MCTSConfig(exploration=0, max_depth=1), 1) == [(2, 1)]


def test_most_visited_path_breaks_ties_by_prior():
    tree = make_tree([1])
    for tokens, logprob in (((5, 6), -2.0), ((7, 6), -1.0), ((8, 6), -3.0)):
        tree.add(Node(0, 1, tokens, logprobs_full=(logprob, 0.0), step_ends=(0, 1)))
    tree.verdicts.update({1: CORRECT, 2: WRONG, 3: CORRECT})
    assert most_visited(graph_of(tree)) == [(0, 1), (2, 1), (2, 2)]
    tree.add(Node(3, 1, (9,), step_ends=(0,)))
    tree.verdicts[4] = WRONG
    assert most_visited(graph_of(tree))[1] == (3, 1)


def grown(config, count=6, error=0.25, recovery=0.05, **options):
    engine = MarkovEngine(6, error, recovery)
    trees = markov_trees(count)
    growth = Growth(mark_steps, 20, step_stop=STEP, **options)

    def observe(ready):
        judge(ready)
        for tree in ready:
            of_tree = tree.scores.setdefault("exact", {})
            for i in range(1, len(tree.nodes)):
                of_tree[i] = [engine.value(*state_of(tree, i, len(tree.nodes[i].token_ids)))]

    grow(trees, engine, mcts(config, outcome_or_score("exact")), growth, observe=observe)
    return trees


@pytest.mark.parametrize("select", ["puct", "uct"])
@pytest.mark.parametrize("evaluate", ["rollout", "score"])
@pytest.mark.parametrize("num_parallel", [1, 3])
def test_every_expansion_has_its_children(select, evaluate, num_parallel):
    config = MCTSConfig(
        select=select, evaluate=evaluate, num_simulations=7, num_children=3, num_parallel=num_parallel
    )
    for tree in grown(config):
        states = {(n.parent, n.offset) for n in tree.nodes[1:]}
        assert len(tree.nodes) == 1 + 7 * 3 and len(states) == 7
        assert all(len(tree.children(*state)) == 3 for state in states)
        whole = evaluate == "rollout"
        assert all(n.is_finished == whole or n.token_ids[-1] == 0 for n in tree.nodes[1:])
        if whole:  # rollouts from a state are independent draws
            assert all(counts(tree, *state).n == 3 for state in states)


def test_search_with_exact_values_finds_the_right_end():
    """Six steps, each wrong with probability 1/2, never mended: one sample in 64 is right, the search nearly always is."""
    config = MCTSConfig(evaluate="score", num_simulations=24, num_children=4, exploration=0.01)
    assert MarkovEngine(6, 0.5, 0.0).value(0, True) == 1 / 64
    trees = grown(config, count=40, error=0.5, recovery=0.0)
    solved = sum(any(v.status == "correct" for v in t.verdicts.values()) for t in trees)
    assert solved >= 30  # 96 tokens a tree, for which 14 samples of 7 tokens would solve 8 of 40


@pytest.mark.parametrize("evaluate", ["rollout", "score"])
def test_same_search_whatever_else_is_under_way(evaluate):
    lm = small_lm("qwen2")
    config = MCTSConfig(evaluate=evaluate, num_simulations=5, num_children=2)

    def search(numbers, num_slots):
        trees = [Tree.of_prompt(Problem(f"problem {i}", "", "math", {}), PROMPTS[i]) for i in numbers]
        growth = Growth(marks_below_16, 14, step_stop=StepStop(frozenset(range(16))))
        value = lambda tree, i: (sum(tree.nodes[i].token_ids) % 7) / 7  # noqa: E731
        grow(trees, LocalEngine(lm, [0, 20], num_slots, max_context=64), mcts(config, value), growth)
        return [shape(t) for t in trees]

    whole = search(range(5), 8)
    assert search(range(5), 3) == whole
    assert search([3], 8) == [whole[3]]
    assert any(n[4] == "open" for t in whole for n in t) == (evaluate == "score")


def test_a_value_must_come_from_somewhere():
    tree = make_tree([1], (0, 1, [5], [0]))
    tree.nodes[1] = replace(tree.nodes[1], stop_reason="open")
    with pytest.raises(UserError, match="no value for node 1"):
        outcome_or_score()(tree, 1)
    tree.scores["prm"] = {1: [0.25]}
    assert outcome_or_score("prm")(tree, 1) == 0.25
    assert tree.leaves() == []  # a paused step ends no trajectory


@pytest.mark.parametrize("max_tokens", [9, 14])
def test_a_step_goes_on_over_delimiters_that_end_nothing(max_tokens):
    """A step that is stopped and taken up again draws what one request would have drawn."""
    lm = small_lm("qwen2")

    def search(policy, stop):
        trees = [Tree.of_prompt(Problem(f"problem {i}", "", "math", {}), p) for i, p in enumerate(PROMPTS)]
        growth = Growth(marks_below_16, max_tokens, Sampling(1.0), step_stop=stop)
        grow(trees, LocalEngine(lm, [0, 20], 4, max_context=64), policy, growth)
        return trees

    def one_step(tree, wave):
        return [Branch(ROOT, len(tree.nodes[ROOT].token_ids), one_step=True)] * 3 if wave == 0 else []

    with pytest.raises(UserError, match=r"set prompt\.steps\.rule"):
        search(one_step, StepStop())
    never = search(one_step, StepStop(frozenset(range(30)), is_end=lambda ids: False))
    assert [shape(t) for t in never] == [shape(t) for t in search(fan(3), StepStop())]
    third = search(one_step, StepStop(frozenset(range(30)), is_end=lambda ids: len(ids) >= 3))
    nodes = [n for t in third for n in t.nodes[1:]]
    assert {n.stop_reason for n in nodes} >= {"open"}
    assert all(len(n.token_ids) >= 3 and n.token_ids[-1] < 30 for n in nodes if n.stop_reason == "open")
    short = search(one_step, StepStop(max_tokens=4))
    assert all(len(n.token_ids) == 4 for t in short for n in t.nodes[1:] if n.stop_reason == "open")
