"""Imported steps in tokens: whole texts tokenised once, steps at the token of their last character, labels once each."""

import math

import pytest

from reasoner.data.files import LeftOut
from reasoner.data.importers.step_tree import chain, new_tree
from reasoner.data.importers.tokens import encode, outcome_labels, preference_pairs, step_ends, step_labels
from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.policy.models import train_tokenizer

NAN = math.nan


@pytest.fixture(scope="module")
def prompting():
    texts = ["one plus one is two.\n\nso the answer is two.\n\n", "ёж\n\n"] * 20
    return Prompting(train_tokenizer(texts, 320), PromptConfig(template="{prompt}\n", delimiter="\n\n"))


def spelled(prompting, ids):
    return prompting.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_step_ends_are_the_last_tokens_of_the_last_characters():
    # tokens ab|c|é é|d: the two tokens of é start at the same character
    assert step_ends(["abc", "é", "d"], [0, 2, 3, 3, 4]) == [1, 3, 4]
    assert step_ends(["a", "bc"], [0, 1]) == [0, 1]


def test_steps_end_with_the_delimiter_and_solutions_with_the_end_of_text(prompting):
    tree = chain(new_tree("q", "human"), ["one plus one is two.", "ёж", "so 2"], [1.0, 0.5, 0.0])
    (encoded,) = encode(tree, prompting, 1000)
    assert encoded.texts == ["one plus one is two.\n\n", "ёж\n\n", "so 2"]
    assert spelled(prompting, encoded.prompt_ids) == "q\n"
    ids, ends = encoded.completion_ids, encoded.step_ends
    assert ids[:-1] == prompting.encode("".join(encoded.texts)) and ids[-1] == prompting.eos_id
    cuts = [
        spelled(prompting, ids[a:b])
        for a, b in zip([0, *(e + 1 for e in ends)], [e + 1 for e in ends], strict=False)
    ]
    assert cuts == ["one plus one is two.\n\n", "ёж\n\n", "so 2<|endoftext|>"]
    assert ends == prompting.mark_steps(ids)  # where a policy's own steps end


def test_a_step_that_ends_no_solution_ends_with_the_delimiter(prompting):
    tree = new_tree("q", "human")
    tree.add(-1, "one", 0.0)
    (encoded,) = encode(tree, prompting, 1000)
    assert spelled(prompting, encoded.completion_ids) == "one\n\n"
    assert encoded.step_ends == [len(encoded.completion_ids) - 1]


def test_pieces_join_as_they_are(prompting):
    tree = new_tree("q", "soft", is_pieces=True)
    tree.add(tree.add(-1, " one plus", 0.5), " one is two.", 0.25)
    (encoded,) = encode(tree, prompting, 1000)
    assert spelled(prompting, encoded.completion_ids) == " one plus one is two."
    assert spelled(prompting, encoded.completion_ids[: encoded.step_ends[0] + 1]) == " one plus"


def test_each_label_counts_once(prompting):
    tree = new_tree("q", "human")
    a = tree.add(-1, "one", 1.0)
    tree.add(a, "two", 0.0)
    tree.add(tree.add(a, "plus", 0.5), "is", 1.0, is_end=True, outcome=1.0)
    tree.add(-1, "so", NAN)
    encoded = encode(tree, prompting, 1000)
    records = list(step_labels(encoded))
    assert [r.completions for r in records] == [["one\n\n", "two\n\n"], ["one\n\n", "plus\n\n", "is"]]
    assert repr([r.labels for r in records]) == repr([[1.0, 0.0], [NAN, 0.5, 1.0]])
    assert {(r.kind, r.problem_id) for r in records} == {("human", tree.problem_id)}
    (outcome,) = outcome_labels(encoded)
    assert outcome.label is True and outcome.completion == "one\n\nplus\n\nis"


def test_what_is_longer_than_the_context_is_named(prompting):
    tree = chain(new_tree("q", "human"), ["one plus one is two."], [1.0])
    tree.lines.append(7)
    tree = chain(tree, ["two"], [1.0])
    tree.lines.append(8)
    size = len(prompting.prompt_ids("q")) + len(prompting.completion_ids("one plus one is two."))
    found = encode(tree, prompting, size - 1)
    assert found[0] == LeftOut("", 7, f"{size} tokens, more than the context of {size - 1}")
    assert found[1].texts == ["two"] and encode(tree, prompting, size)[0].texts == ["one plus one is two."]


def test_pairs_share_the_prefix_as_tokens(prompting):
    tree = new_tree("q", "preference", is_pieces=True)
    before = tree.add(-1, "one plus one\n")
    for text, label in (("is two.", 1.0), ("is one.", 0.0)):
        tree.add(before, text, label)
    (pair,) = preference_pairs(encode(tree, prompting, 1000))
    assert (pair.prompt, pair.chosen, pair.rejected, pair.is_whole) == (
        "qone plus one\n",
        "is two.",
        "is one.",
        False,
    )
    assert spelled(prompting, pair.prompt_ids) == "q\none plus one\n"
    assert spelled(prompting, pair.chosen_ids) == "is two."
