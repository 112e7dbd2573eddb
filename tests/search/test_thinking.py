"""A budget of thinking: where it is closed, what is left alone, and that nothing else changes."""

from dataclasses import replace

import pytest
from pydantic import TypeAdapter
from small_models import small_lm, writes_after
from test_methods import ALL, lm, mark_steps, tools_for, trees_of  # noqa: F401  (lm is a fixture)

from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Sampling
from reasoner.registry import UserError
from reasoner.search.grow import Growth
from reasoner.search.method import Tools, extend, from_end, from_root
from reasoner.search.methods import MethodConfig, answer
from reasoner.search.thinking import Thinking, parted
from reasoner.tree import Problem, Tree

CONFIG = TypeAdapter(MethodConfig)
TEXTS = {
    0: "",
    1: "<think>",
    2: "Q",
    3: "P",
    5: "a",
    6: "b",
    7: "7",
    8: "so",
    9: "</think>",
    10: "\n",
    11: "\n\n",
}
# thoughts a b a b … never end by themselves; behind an end comes 7; P is answered so so so …, without a thought
FOLLOWING = {2: 1, 1: 5, 5: 6, 6: 5, 9: 7, 11: 7, 7: 0, 3: 8, 8: 8}


def decode(ids) -> str:
    return "".join(TEXTS[i] for i in ids)


def encode(text: str) -> list[int]:
    """The longest token first, as "\n\n" is one."""
    ids = []
    while text:
        ids.append(
            max((i for i, t in TEXTS.items() if t and text.startswith(t)), key=lambda i: len(TEXTS[i]))
        )
        text = text.removeprefix(TEXTS[ids[-1]])
    return ids


def drawn(prompt: list[int], budget: int | None, limit=14, room=64, **following) -> tuple[list[int], Tree]:
    model = writes_after(small_lm("qwen2"), {**FOLLOWING, **{int(k[1:]): v for k, v in following.items()}})
    tools = Tools(
        LocalEngine(model, [0], 4, max_context=room), Growth(mark_steps, limit), decode, encode,
        thinking=None if budget is None else Thinking(budget),
    )  # fmt: skip
    tree = Tree.of_prompt(Problem("p", "", "math", {"answer": "7"}), prompt)
    ((end, _),) = extend([tree], [from_root(tree, 2)], tools, Sampling(0.0))
    return tree.completion_ids(end), tree


CUT = [10, 9, 11]  # "\n</think>\n\n"


@pytest.mark.parametrize(
    ("prompt", "budget", "expected"),
    [
        ([2], 4, [1, 5, 6, 5, 6, *CUT, 7, 0]),  # the tag that opens thinking is no thought
        ([2, 1], 4, [5, 6, 5, 6, *CUT, 7, 0]),  # the prompt has opened it
        ([2, 1, 10], 0, [*CUT, 7, 0]),
        ([2], 0, [1, *CUT, 7, 0]),
        ([3], 2, [8] * 14),  # an answer without thoughts is not cut
        ([2, 1, 9], 2, [7, 0]),  # thinking that the prompt has opened and closed
        ([2, 1], 13, [5, 6] * 6 + [5]),  # no room behind what would be put in
        ([2, 1], None, [5, 6] * 7),
    ],
)
def test_thoughts_are_closed_at_the_budget_and_the_answer_follows(prompt, budget, expected):
    ids, tree = drawn(prompt, budget)
    assert ids == expected
    put_in = [n for n in tree.nodes if n.drawn == "forced"]
    assert [(n.token_ids, n.logprobs) for n in put_in] == [(tuple(CUT), ())] * 2 * (9 in expected)


def test_thoughts_that_end_themselves_are_left_alone():
    following = {"_5": 9}  # a thought of one token
    assert drawn([2], 6, **following)[0] == [1, 5, 9, 7, 0] == drawn([2], None, **following)[0]
    assert drawn([2], 2, **following)[0] == [1, 5, 9, 7, 0]  # the budget falls behind their end


def test_nothing_is_put_in_where_the_context_has_no_room():
    assert drawn([2, 1], 4, room=9)[0] == [5, 6, 5, 6]
    assert drawn([2, 1], 4, room=10)[0] == [5, 6, 5, 6, *CUT, 7]


def test_a_branch_in_the_midst_of_thoughts_has_what_is_left_of_the_budget():
    ids, tree = drawn([2, 1], 4, limit=3)
    assert ids == [5, 6, 5]  # the limit comes first
    model = writes_after(small_lm("qwen2"), FOLLOWING)
    tools = Tools(
        LocalEngine(model, [0], 4, 64), Growth(mark_steps, 14), decode, encode, thinking=Thinking(4)
    )
    ((end,),) = extend([tree], [from_end(tree, 1)], tools, Sampling(0.0))
    assert tree.completion_ids(end) == [5, 6, 5, 6, *CUT, 7, 0]
    ((end,),) = extend([tree], [from_end(tree, end - 2)], tools, Sampling(0.0))  # from where it was cut
    assert tree.completion_ids(end) == [5, 6, 5, 6, *CUT, 7, 0]


@pytest.mark.parametrize(
    "config",
    [c for c in ALL if c["name"] not in ("mcts", "budget")],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_every_method_of_chains_keeps_the_budget(lm, config):  # noqa: F811
    """A text that never comes ends thoughts here, so that each chain thinks until it is cut."""
    found = {}
    for budget in (6, 16, None):
        trees = trees_of()
        tools = replace(tools_for(lm), thinking=None if budget is None else Thinking(budget, "zz"))
        found[budget] = trees, answer(trees, tools, CONFIG.validate_python(config))
    assert [[n.token_ids for n in t.nodes] for t in found[16][0]] == [
        [n.token_ids for n in t.nodes] for t in found[None][0]
    ]
    closing, cut = tools_for(lm).encode("\nzz"), 0
    for tree, choice in zip(*found[6], strict=True):
        for leaf in {*tree.leaves(), choice.leaf}:
            ids = tree.completion_ids(leaf)
            if len(ids) > 6:
                cut += 1
                assert ids[6:8] == closing
    assert cut


@pytest.mark.parametrize("config", [{"name": "mcts"}, {"name": "budget"}], ids=lambda c: c["name"])
def test_a_method_of_its_own_thoughts_is_one_line(lm, config):  # noqa: F811
    with pytest.raises(UserError, match="expected no budget of thinking"):
        answer(trees_of([0]), replace(tools_for(lm), thinking=Thinking(4)), CONFIG.validate_python(config))


def test_thoughts_and_answer_are_told_apart():
    assert parted([1, 5, 6, 10, 9, 11, 7], "</think>", decode, encode) == ("ab", "7", 5)
    assert parted([5, 9, 6, 9, 7], "</think>", decode, encode) == ("a</think>b", "7", 4)  # by the last end
    assert parted([5, 6], "</think>", decode, encode) is None
    silent = {**TEXTS, 1: "", 9: ""}  # tags that a decoder leaves out
    assert parted([1, 5, 9, 7], "</think>", lambda ids: "".join(silent[i] for i in ids), encode) == (
        "a",
        "7",
        3,
    )
    assert parted([5, 9, 7], "", decode, encode) is None
