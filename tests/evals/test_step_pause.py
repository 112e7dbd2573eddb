"""A test-time method that goes step by step pauses where the rule for steps says, also between two tokens."""

import torch
from families import save_family
from small_models import always, small_lm

from reasoner.data.prompting import PromptConfig, load_prompting
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Sampling
from reasoner.evals.tools import Solver, tools_of
from reasoner.ledger import Ledger
from reasoner.search.grow import Branch
from reasoner.search.method import extend, from_root
from reasoner.tree import Problem, Tree


def test_a_step_ends_with_the_second_of_two_newline_tokens(tmp_path):
    prompting = load_prompting(str(save_family("llama", tmp_path)), PromptConfig(delimiter="\n\n"))
    a, newline, b = prompting.encode("a") + prompting.encode("\n") + prompting.encode("b")
    assert prompting.encode("a\n\n") == [a, newline, newline]  # else this test shows nothing
    lm = small_lm("llama", vocab_size=len(prompting.tokenizer))
    step = LocalEngine(always(lm, a, newline), prompting.eos_ids, 2, 64)
    solver = Solver("policy", step, prompting, Ledger())
    tree = Tree.of_prompt(Problem("p", "", "math", {"answer": "1"}), [b, newline])
    tools = tools_of(solver, 12, seed=0)
    # a newline alone stops the engine, ends no step, and the engine is asked to go on
    (nodes,) = extend([tree], [from_root(tree, 1)], tools, Sampling(0.0), one_step=True)
    assert tree.nodes[nodes[0]].token_ids == (a, newline) * 6
    assert tree.nodes[nodes[0]].stop_reason == "length"
    # behind the first "a" of that chain two newlines follow each other: the second of them ends the step
    weights = always(lm, a, newline).state_dict()
    weights["lm_head.weight"][[a, newline], 1] = torch.tensor([0.0, 1.0])  # what follows a newline is another
    solver.engine.load_weights(1, weights)
    (forced,) = extend([tree], [[Branch(nodes[0], 1)]], tools, Sampling(0.0), one_step=True)
    assert (tree.nodes[forced[0]].token_ids, tree.nodes[forced[0]].stop_reason) == ((newline, newline), "open")
