"""Test-time methods on a small random model: determinism, limits, equivalences, and what each is charged."""

import math

import pytest
from pydantic import TypeAdapter
from small_models import small_lm

from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Sampling
from reasoner.ledger import Ledger
from reasoner.registry import UserError
from reasoner.scoring.aggregate import AGGREGATES
from reasoner.scoring.token_measures import first_tokens, measure_tokens
from reasoner.search.confidence import lowest_group
from reasoner.search.early_stop import lead, lead_probability
from reasoner.search.grow import Growth, StepStop
from reasoner.search.method import Tools, extend, from_end, from_root, is_finished
from reasoner.search.methods import METHODS, MethodConfig, answer
from reasoner.search.switch import beats
from reasoner.tree import ROOT, Problem, Tree

PROMPTS = [[3, 1, 4, 1, 5], [2, 7, 1, 8], [1, 6, 1], [3, 1, 4, 1, 6, 6]]
CONFIG = TypeAdapter(MethodConfig)
ENDS = (0, 20, 33, 50, 60)
STEP_IDS = frozenset(range(1, 24)) - set(ENDS)


@pytest.fixture(scope="module")
def lm():
    return small_lm("qwen2")


def mark_steps(tokens, logprobs=(), before=()) -> list[int]:
    return [i for i, t in enumerate(tokens) if t in STEP_IDS or i == len(tokens) - 1]


def decode(ids) -> str:
    """A text whose final answer is the last token but the end's, by eight classes."""
    words = [str(t % 8) for t in ids if t not in ENDS]
    return " ".join(words) + (f"\n#### {words[-1]}" if words and ids[-1] in ENDS else "")


def step_scores(tree: Tree) -> None:
    """A made-up PRM: a number that the tokens of the path determine."""
    scores = tree.scores.setdefault("prm", {})
    for i, node in enumerate(tree.nodes):
        if i and node.step_ends and i not in scores:
            scores[i] = [(sum(tree.completion_ids(i, e + 1)) * 37 % 101 + 1) / 103 for e in node.step_ends]


def tools_for(lm, num_slots=8, ledger=None, with_models=True) -> Tools:
    engine = LocalEngine(lm, ENDS, num_slots, max_context=64, ledger=ledger)

    def prm(trees):
        for tree in trees:
            step_scores(tree)

    def orm(trees):
        return [
            {leaf: (sum(t.completion_ids(leaf)) * 53 % 97 + 1) / 99 for leaf in t.leaves()} for t in trees
        ]

    return Tools(
        engine=engine, growth=Growth(mark_steps, 16, seed=3, step_stop=StepStop(STEP_IDS)), decode=decode,
        encode=lambda text: [30 + len(text) % 8, 40],
        prm=prm if with_models else None, orm=orm if with_models else None,
        measure=lambda trees, name: measure_tokens(lm, trees, name),
        first_tokens=lambda prompts, k: first_tokens(lm, prompts, k), aggregates=AGGREGATES,
    )  # fmt: skip


def trees_of(numbers=range(4)) -> list[Tree]:
    return [Tree.of_prompt(Problem(f"problem {i}", "", "math", {"answer": "1"}), PROMPTS[i]) for i in numbers]


def run(lm, config: dict, numbers=range(4), **options):
    trees = trees_of(numbers)
    return trees, answer(trees, tools_for(lm, **options), CONFIG.validate_python(config))


ALL = [
    {"name": "greedy"},
    {"name": "majority", "num_samples": 6},
    {"name": "weighted_majority", "num_samples": 6},
    {"name": "best_of", "num_samples": 6, "scorer": "orm"},
    {"name": "borda", "num_samples": 6},
    {"name": "deepconf", "num_samples": 6, "measure": "top_k"},
    {"name": "early_stop", "num_samples": 8},
    {"name": "deepconf_online", "num_samples": 8, "chunk": 5, "window": 3},
    {"name": "beam", "num_samples": 6, "branching": 3},
    {"name": "dvts", "num_samples": 6, "branching": 3},
    {"name": "mcts", "num_samples": 12},
    {"name": "mcts", "num_samples": 12, "final": "visits", "search": {"select": "uct", "evaluate": "score"}},
    {"name": "switch", "num_samples": 12, "num_rollouts": 3},
    {"name": "switch", "num_samples": 12, "judge": "orm"},
    {"name": "cot_decoding", "num_samples": 4},
    {"name": "retry", "num_samples": 3},
    {"name": "budget", "max_thinking": 6, "answer_tokens": 4},
    {"name": "budget", "min_thinking": 12},
    {"name": "self_critique", "num_samples": 3},
    {"name": "self_critique", "num_samples": 3, "judge": "words", "revise": "words"},
]


def test_every_method_is_tried():
    assert {c["name"] for c in ALL} | {"adaptive"} == set(METHODS)


@pytest.mark.parametrize("config", ALL, ids=lambda c: "-".join(map(str, c.values())))
def test_same_choice_in_any_batch_and_order(lm, config):
    trees, choices = run(lm, config)
    for tree, choice in zip(trees, choices, strict=True):
        assert choice.leaf is not None and 0 < choice.leaf < len(tree.nodes)
        assert 0 <= choice.confidence <= 1
        if is_finished(tree, choice.leaf):
            assert (choice.answer or "") == decode(tree.completion_ids(choice.leaf)).rpartition("#### ")[2]
    # alone and last of two, through another number of slots
    _, reversed_choices = run(lm, config, [2, 0], num_slots=3)
    for found, expected in zip(reversed_choices, [choices[2], choices[0]], strict=True):
        assert (found.leaf, found.answer, found.drawn) == (expected.leaf, expected.answer, expected.drawn)
        assert found.confidence == pytest.approx(expected.confidence, abs=1e-4)


def test_adaptive_does_not_depend_on_order(lm):
    config = {"name": "adaptive", "num_samples": 4, "first": 2, "wave": 2}
    trees, choices = run(lm, config)
    _, turned = run(lm, config, [3, 2, 1, 0], num_slots=3)
    assert turned[::-1] == choices
    num = [len(t.nodes) - 1 for t in trees]
    assert sum(num) <= 16 and min(num) == 2 and max(num) > 2


def test_early_stop_draws_what_majority_draws(lm):
    whole, _ = run(lm, {"name": "majority", "num_samples": 8})
    some, _ = run(lm, {"name": "early_stop", "num_samples": 8, "first": 3, "wave": 1})
    for a, b in zip(whole, some, strict=True):
        tokens = [n.token_ids for n in b.nodes[1:]]
        assert 3 <= len(tokens) <= 8
        assert tokens == [n.token_ids for n in a.nodes[1 : len(tokens) + 1]]


def test_beam_of_width_one_is_greedy_step_search(lm):
    """Against a loop that takes the best scored of three next steps until the end."""
    trees, choices = run(lm, {"name": "beam", "num_samples": 3, "branching": 3})
    tools = tools_for(lm)
    for number, (tree, choice) in enumerate(zip(trees, choices, strict=True)):
        (slow,) = trees_of([number])
        at = ROOT
        while at == ROOT or not is_finished(slow, at):
            if len(slow.completion_ids(at)) >= 16:
                break
            (new,) = extend([slow], [from_end(slow, at, 3)], tools, Sampling(), one_step=True)
            step_scores(slow)
            at = max(new, key=lambda n: (slow.scores["prm"][n][-1], -n))
        assert tree.completion_ids(choice.leaf) == slow.completion_ids(at)


def test_mcts_of_one_simulation_is_greedy_by_prior(lm):
    config = {
        "name": "mcts",
        "num_samples": 3,
        "final": "visits",
        "search": {"num_children": 3, "evaluate": "score"},
    }
    trees, choices = run(lm, config)
    for tree, choice in zip(trees, choices, strict=True):
        steps = [i for i in range(1, len(tree.nodes)) if tree.nodes[i].parent == ROOT]
        assert len(steps) == 3
        likeliest = max(
            steps, key=lambda i: math.fsum(tree.nodes[i].logprobs_full) / len(tree.nodes[i].token_ids)
        )
        assert tree.completion_ids(choice.leaf)[: len(tree.nodes[likeliest].token_ids)] == list(
            tree.nodes[likeliest].token_ids
        )


def test_dvts_keeps_every_subtree_apart(lm):
    trees, choices = run(lm, {"name": "dvts", "num_samples": 9, "branching": 3})
    for tree in trees:
        firsts = [i for i in range(1, len(tree.nodes)) if tree.nodes[i].parent == ROOT]
        assert len(firsts) == 9
        continued = {tree.nodes[i].parent for i in range(1, len(tree.nodes))} - {ROOT}
        for start in (0, 3, 6):
            group = firsts[start : start + 3]
            assert len(continued & set(group)) <= 1
    assert all(c.drawn == "tree" for c in choices)


def test_votes_over_one_prompt_prefill_it_once(lm):
    ledger = Ledger()
    tools = tools_for(lm, num_slots=3, ledger=ledger)
    trees = trees_of([0])
    with ledger.stage("votes"):
        answer(trees, tools, CONFIG.validate_python({"name": "majority", "num_samples": 7}))
    counts = ledger.counts["votes"]["policy"]
    prompt = len(PROMPTS[0]) - 1
    assert (counts["prefilled"], counts["reused"]) == (prompt, 6 * prompt)
    assert counts["decoded"] == sum(len(n.token_ids) for n in trees[0].nodes[1:])


def test_a_budget_cuts_thinking_and_asks_for_the_answer(lm):
    trees, choices = run(lm, {"name": "budget", "max_thinking": 6, "answer_tokens": 4})
    cut = 0
    for tree, choice in zip(trees, choices, strict=True):
        first = tree.nodes[1]
        assert len(first.token_ids) <= 6
        if first.stop_reason == "eos":
            assert choice.leaf == 1
            continue
        cut += 1
        assert (tree.nodes[2].drawn, tree.nodes[2].logprobs) == ("forced", ())
        assert 1 <= len(tree.nodes[choice.leaf].token_ids) <= 4
    assert cut


def test_a_minimum_of_thinking_suppresses_the_end(lm):
    config = {"name": "budget", "min_thinking": 12, "num_waits": 1, "temperature": 1.0}
    trees, choices = run(lm, config)
    waited = 0
    for tree, choice in zip(trees, choices, strict=True):
        first = tree.nodes[1]
        if first.stop_reason == "eos" and len(first.token_ids) < 12:
            waited += 1
            assert tree.nodes[2].offset == len(first.token_ids) - 1  # the end itself is left out
            assert not set(tree.completion_ids(choice.leaf)[:-1]) & set(ENDS)
    assert waited


@pytest.mark.parametrize("config", [
    {"name": "beam"}, {"name": "best_of"}, {"name": "best_of", "scorer": "orm"}, {"name": "mcts"}, {"name": "self_critique"},
    {"name": "best_of", "scorer": "verifier"}, {"name": "switch", "judge": "orm"},
])  # fmt: skip
def test_a_missing_model_is_one_line(lm, config):
    with pytest.raises(UserError, match="but none is given"):
        run(lm, config, [0], with_models=False)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(0, 0, 0.5), (3, 0, 15 / 16), (4, 0, 31 / 32), (2, 2, 0.5), (2, 1, 11 / 16)],
)
def test_lead_probability(first, second, expected):
    assert lead_probability(first, second) == pytest.approx(expected)


def test_lead():
    assert lead([0, 1, None, 1, 2]) == (2, 1)
    assert lead([None]) == (0, 0)


def test_beats_is_the_probability_of_the_greater_beta():
    assert beats((3, 1), (3, 1)) == pytest.approx(0.5, abs=1e-9)
    # uniform against uniform with one success: P(x > y) for x ~ Beta(2, 1), y ~ Beta(1, 1) is E[x] = 2/3
    assert beats((1, 0), (0, 0)) == pytest.approx(2 / 3, abs=1e-4)


def test_lowest_group():
    assert lowest_group([1, 2, 3, 0, 2], 2) == 1.0
    assert lowest_group([1, 2, 3], 5) == 2.0
    assert lowest_group([], 2) == -math.inf
    assert lowest_group([math.nan, 4.0, 2.0], 2) == 3.0


def test_token_measures_equal_a_plain_forward_pass(lm):
    import torch

    (tree,) = trees_of([0])
    extend([tree], [from_root(tree, 2)], tools_for(lm), Sampling())
    extend([tree], [from_end(tree, 1, 1)] if not is_finished(tree, 1) else [[]], tools_for(lm), Sampling())
    for name in ("certainty", "margin", "top_k"):
        (measured,) = measure_tokens(lm, [tree], name)
        ids = tree.token_ids(2)
        with torch.inference_mode():
            logprobs = torch.log_softmax(lm(torch.tensor([ids])).logits[0].double(), -1)
        p = len(PROMPTS[0])
        two = logprobs.exp().topk(2).values
        expected = {
            "certainty": -logprobs.mean(-1) - math.log(64),
            "margin": two[:, 0] - two[:, 1],
            "top_k": -logprobs.topk(20).values.mean(-1),
        }[name][p - 1 : -1]
        assert measured[2] == pytest.approx(expected.tolist(), abs=1e-4)
        (best,) = first_tokens(lm, [PROMPTS[0]], 3)
        assert best == logprobs[p - 1].topk(3).indices.tolist()
