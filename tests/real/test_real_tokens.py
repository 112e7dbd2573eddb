"""A real chat model's tokenizer: its template, the end of its turns, and steps at borders of its tokens."""

import pytest

from reasoner.data.prompting import PromptConfig, Prompting, load_prompting
from reasoner.policy.vocabulary import token_bytes

pytestmark = pytest.mark.real

QUESTION = "Tom has 3 apples and buys 4 more.\n\nHow many has he?"
SOLUTION = "He starts with 3.\n\nHe buys 4.\n\n3 + 4 = 7.\n\n#### 7"


@pytest.fixture(scope="module")
def chat(real_model) -> Prompting:
    return load_prompting(real_model, PromptConfig(chat=True, delimiter="\n\n", system="Think."))


def test_chat_template_round_trip(chat):
    turns = [{"role": "system", "content": "Think."}, {"role": "user", "content": QUESTION}]
    ids = chat.prompt_ids(QUESTION)
    asked = chat.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
    assert ids == asked["input_ids"]
    assert chat.tokenizer.decode(ids) == chat.prompt_text(QUESTION) == (
        "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\n" + QUESTION
        + "<|im_end|>\n<|im_start|>assistant\n"
    )  # fmt: skip
    # prompt and answer by themselves are the conversation as the template writes it
    whole = chat.tokenizer.apply_chat_template(
        [*turns, {"role": "assistant", "content": SOLUTION}], return_dict=True
    )["input_ids"]
    mine = ids + chat.completion_ids(SOLUTION)
    assert mine == whole[: len(mine)] and chat.tokenizer.decode(whole[len(mine) :]) == "\n"
    assert chat.decode(chat.completion_ids(SOLUTION)) == SOLUTION


def test_a_turn_ends_with_im_end_which_is_also_the_padding(chat):
    end = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert chat.eos_ids == [end] and chat.eos_id == chat.tokenizer.pad_token_id == end
    padded = chat.tokenizer([QUESTION, "7"], padding=True, add_special_tokens=False)
    real = [sum(mask) for mask in padded["attention_mask"]]
    assert real == [len(chat.encode(QUESTION)), len(chat.encode("7"))] and real[0] > real[1]


def test_steps_end_at_the_borders_of_real_tokens(chat):
    ids = chat.encode(SOLUTION)
    ends = chat.mark_steps(ids)
    assert chat.step_texts(ids, ends) == [
        "He starts with 3.\n\n",
        "He buys 4.\n\n",
        "3 + 4 = 7.\n\n",
        "#### 7",
    ]
    assert all(ids[e] in chat.step_stop_ids for e in ends[:-1])
    newlines = chat.encode("\n\n")
    assert len(newlines) == 1 and newlines[0] in chat.step_stop_ids  # one token in this vocabulary
    one = chat.encode("\n")
    assert len(one) == 1 and one[0] in chat.step_stop_ids  # may be the second of two


@pytest.mark.parametrize(
    "text", [QUESTION, SOLUTION, "ки→😀 é 中\u200b\n\t x²+2x ≤ ⅔", "a" * 400, " \n \n  "]
)
def test_bytes_and_text_round_trip(chat, text):
    ids = chat.encode(text)
    pieces = token_bytes(chat.tokenizer)
    assert b"".join(pieces[i] for i in ids) == text.encode()
    assert chat.decode(ids) == text


@pytest.mark.parametrize("delimiter", ["ки", "。", "→", "7.\n"])
def test_any_delimiter_ends_a_step(real_model, delimiter):
    prompting = load_prompting(real_model, PromptConfig(delimiter=delimiter))
    texts = [f"один и два{delimiter}", f" so кi 4.{delimiter}", " end"]
    ids = prompting.encode("".join(texts))
    assert prompting.step_texts(ids, prompting.mark_steps(ids)) == texts
