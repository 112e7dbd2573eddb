"""Prompts, step ends and text from tokens."""

import pytest

from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.policy.models import END_OF_TEXT, train_tokenizer
from reasoner.registry import UserError

TEXTS = [
    f"First, {a} + {b} is right.\n\nThen {a * b}.\n\nSo it is {a}.\n\n" for a in range(9) for b in range(9)
]
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<reply>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 320)


def prompting_of(tokenizer, **options) -> Prompting:
    return Prompting(tokenizer, PromptConfig(**options))


def pieces(prompting: Prompting, text: str) -> list[str]:
    """The text of each step, by the marks on its tokens."""
    ids = prompting.encode(text)
    return prompting.step_texts(ids, prompting.mark_steps(ids))


def test_a_token_that_holds_the_delimiter_ends_a_step(tokenizer):
    prompting = prompting_of(tokenizer)
    dot = tokenizer(".\n\n", add_special_tokens=False).input_ids
    assert len(dot) == 1 and prompting.tokenizer.decode(dot) == ".\n\n"  # else this test shows nothing
    assert pieces(prompting, "It is right.\n\nThen 4.\n\nSo") == ["It is right.\n\n", "Then 4.\n\n", "So"]
    assert dot[0] in prompting.step_stop_ids


def test_marks_by_position(tokenizer):
    prompting = prompting_of(tokenizer)
    newline, a = prompting.encode("\n"), prompting.encode("a")
    assert len(newline) == len(a) == 1
    n, a = newline[0], a[0]
    assert prompting.mark_steps([a, n, a, a, n, a]) == [1, 4, 5]
    assert prompting.mark_steps([a, n, n, n, a, n]) == [1, 5]  # of several in a row the first ends it
    assert prompting.mark_steps([n, n, a]) == [2]
    assert prompting.mark_steps([a, a, a]) == [2]  # the last token always ends one
    assert prompting.mark_steps([n]) == [0]
    assert prompting.mark_steps([]) == []
    assert prompting.mark_steps([a, n, prompting.eos_id]) == [1, 2]


def test_delimiter_of_another_kind(tokenizer):
    prompting = prompting_of(tokenizer, delimiter=";")
    assert pieces(prompting, "a; b\n;c") == ["a;", " b\n;", "c"]


def test_tokens_beyond_the_tokenizer_end_no_step(tokenizer):
    prompting = prompting_of(tokenizer)
    assert prompting.mark_steps([len(tokenizer) + 5, len(tokenizer), 5]) == [2]


@pytest.mark.parametrize(
    "text", ["a\n\n\nb", "  x = 1 ;\n\ty", "12 + 34 = 46\nSo 46.", "don 't , n't .", "é 中\n😀", ""]
)
def test_round_trip(tokenizer, text):
    prompting = prompting_of(tokenizer)
    assert prompting.decode(prompting.encode(text)) == text
    assert "".join(pieces(prompting, text)) == text


def test_a_completion_ends_with_the_end_of_text_which_is_not_text(tokenizer):
    prompting = prompting_of(tokenizer)
    ids = prompting.completion_ids("a\nb")
    assert ids[-1] == tokenizer.convert_tokens_to_ids(END_OF_TEXT) and ids.count(ids[-1]) == 1
    assert prompting.decode(ids) == "a\nb"


def test_braces_in_the_problem_are_text(tokenizer):
    prompting = prompting_of(tokenizer, template="{{Q}}: {prompt}\nA {0}:")
    problem = "Let f = {x: {prompt} {} {0}} % %s \\frac{1}{2}"
    assert prompting.prompt_text(problem) == "{{Q}}: " + problem + "\nA {0}:"
    assert prompting.decode(prompting.prompt_ids(problem)) == prompting.prompt_text(problem)


def test_template_without_its_place_is_a_user_error(tokenizer):
    with pytest.raises(UserError, match=r"expected it to contain \{prompt\}"):
        prompting_of(tokenizer, template="Question:")


def test_chat_without_a_template_is_a_user_error(tokenizer):
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        prompting_of(tokenizer, chat=True)


def test_chat(tokenizer):
    tokenizer = train_tokenizer(TEXTS, 320)
    tokenizer.chat_template = CHAT
    plain = prompting_of(tokenizer, chat=True, template="Solve {prompt}")
    assert plain.prompt_text("1+1") == "<user>Solve 1+1<reply>"
    system = prompting_of(tokenizer, chat=True, system="Think {prompt}.")
    assert system.prompt_text("1+1") == "<system>Think {prompt}.<user>1+1<reply>"
    assert system.decode(system.prompt_ids("1+1")) == system.prompt_text("1+1")
    assert prompting_of(tokenizer, system="unused").prompt_text("1+1") == "1+1"  # without chat


def test_where_one_step_may_stop(tokenizer):
    prompting = prompting_of(tokenizer, delimiter="\n\n")
    newline = prompting.encode("\n")[0]
    assert newline in prompting.step_stop_ids
    whole, half = prompting.encode("It is right.\n\n"), prompting.encode("It is right.\n")
    assert prompting.is_step_end(whole) and not prompting.is_step_end(half)
    assert prompting.is_step_end([*half, newline])
    assert not prompting.is_step_end(prompting.encode("```It is right.\n\n"))
    fixed = prompting_of(tokenizer, steps={"rule": "count", "size": 3})
    assert fixed.step_stop_ids == frozenset() and fixed.step_stop_tokens == 3
    assert fixed.mark_steps([5] * 7) == [2, 5, 6]
    with pytest.raises(UserError, match="did you mean count"):
        prompting_of(tokenizer, steps={"rule": "counts"})
