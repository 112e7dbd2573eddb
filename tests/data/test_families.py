"""Starts, ends, step borders and round trips with tokenizers in the shapes of Llama 3, Gemma, Phi 3 and Qwen 2.5."""

import json

import pytest
from families import FAMILIES, save_family

from reasoner.data.prompting import PromptConfig, Prompting, load_prompting
from reasoner.policy.models import load_tokenizer
from reasoner.policy.vocabulary import end_of_turn, generation_ends, opening, token_bytes
from reasoner.registry import UserError

TURNS = [{"role": "user", "content": "3 + 4 is?"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: save_family(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


def prompting_of(folders, name: str, **options) -> Prompting:
    return load_prompting(str(folders[name]), PromptConfig(**options))


def named(prompting: Prompting, ids) -> list[str]:
    return prompting.tokenizer.convert_ids_to_tokens(list(ids))


@pytest.mark.parametrize("name", FAMILIES)
def test_ends_are_the_tokenizers_the_generation_configs_and_the_yamls(folders, name, tmp_path):
    family = FAMILIES[name]
    expected = {family.eos, *family.ends}
    assert set(named(prompting_of(folders, name), prompting_of(folders, name).eos_ids)) == expected
    more = prompting_of(folders, name, stop=[family.specials[0], ";"])
    semicolons = {";"} if family.is_byte_level else {";", "<0x3B>"}
    assert set(named(more, more.eos_ids)) == {*expected, family.specials[0], *semicolons}
    # without a generation_config the chat template still tells what closes a turn
    bare = load_prompting(
        str(save_family(name, tmp_path, with_generation_config=False)), PromptConfig(chat=True)
    )
    assert set(named(bare, bare.eos_ids)) == {family.eos, family.turn}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_taught_answer_is_closed_as_the_template_closes_it(folders, name):
    family = FAMILIES[name]
    plain, chat = prompting_of(folders, name), prompting_of(folders, name, chat=True)
    assert named(plain, plain.completion_ids("7")[-1:]) == [family.eos]
    assert named(chat, chat.completion_ids("7")[-1:]) == [family.turn]
    assert chat.decode(chat.completion_ids("So 7.\n")) == "So 7.\n"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_beginning_of_text_is_the_tokenizers(folders, name):
    family = FAMILIES[name]
    tokenizer = load_tokenizer(str(folders[name]))
    plain = prompting_of(folders, name)
    assert plain.prompt_ids("3 + 4 is?") == tokenizer("3 + 4 is?").input_ids
    assert named(plain, plain.prompt_ids("3 + 4 is?")).count(family.bos) == family.opens
    chat = prompting_of(folders, name, chat=True)
    whole = tokenizer.apply_chat_template(TURNS, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert chat.prompt_ids("3 + 4 is?") == whole
    assert named(chat, whole).count(family.bos) == family.opens
    assert opening(tokenizer) == tokenizer("").input_ids
    if family.opens:  # written in the text around the problem, it does not come twice
        written = prompting_of(folders, name, template=family.bos + "{prompt}")
        assert named(written, written.prompt_ids("7")).count(family.bos) == 1
    assert named(plain, plain.encode("3 + 4")).count(family.bos) == 0
    assert plain.completion_ids("7")[:-1] == plain.encode("7")


@pytest.mark.parametrize("name", FAMILIES)
def test_system_message_and_another_template(folders, name, tmp_path):
    family = FAMILIES[name]
    if family.takes_system:
        asked = prompting_of(folders, name, chat=True, system="Think.").prompt_text("7?")
        assert asked.index("Think.") < asked.index("7?")
    else:
        with pytest.raises(
            UserError, match=r"System role not supported\); leave prompt.system empty"
        ) as told:
            prompting_of(folders, name, chat=True, system="Think.").prompt_text("7?")
        assert "\n" not in str(told.value)
    mine = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}[assistant]"
    chat = prompting_of(folders, name, chat=True, chat_template=mine, system="Think.")
    assert chat.prompt_text("7?") == f"[system] Think.{family.eos}[user] 7?{family.eos}[assistant]"
    assert named(chat, [chat.eos_id]) == [family.eos]
    file = tmp_path / "mine.jinja"
    file.write_text(mine)
    assert (
        prompting_of(folders, name, chat=True, chat_template=str(file)).prompt_text("7?").startswith("[user]")
    )
    with pytest.raises(UserError, match="neither Jinja nor a readable file"):
        prompting_of(folders, name, chat=True, chat_template=str(tmp_path / "none.jinja"))


def test_an_end_that_the_tokenizer_does_not_call_special_is_no_text(folders, tmp_path):
    save_family("phi", tmp_path)
    path = tmp_path / "tokenizer.json"
    raw = json.loads(path.read_text())
    for token in raw["added_tokens"]:
        token["special"] = token["content"] != "<|end|>"
    path.write_text(json.dumps(raw))
    prompting = load_prompting(str(tmp_path), PromptConfig(chat=True))
    ids = prompting.completion_ids("So 7.")
    assert (
        prompting.tokenizer.decode(ids, skip_special_tokens=True) == "So 7.<|end|>"
    )  # else this shows nothing
    assert prompting.decode(ids) == "So 7."


def test_a_class_default_is_nobodys_end(folders, tmp_path):
    save_family("qwen", tmp_path, with_generation_config=False)
    tokenizer = load_tokenizer(str(tmp_path))
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": 300}))  # an ordinary token
    assert generation_ends(str(tmp_path), tokenizer) == []
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": [1, 300]}))
    assert generation_ends(str(tmp_path), tokenizer) == [1]
    (tmp_path / "config.json").unlink()
    assert generation_ends(str(tmp_path), tokenizer) == []


def test_a_stop_that_is_no_token_is_a_user_error(folders):
    with pytest.raises(UserError, match=r"'zqx', which is no token of this tokenizer; expected one token"):
        prompting_of(folders, "qwen", stop=["zqx"])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("text", ["So it is 7.\n\nThen", "ки→😀 é 中.\n", "12+3;\n\n\n  x"])
def test_the_bytes_of_tokens_are_the_texts(folders, name, text):
    prompting = prompting_of(folders, name)
    pieces = token_bytes(prompting.tokenizer)
    joined = b"".join(pieces[i] for i in prompting.encode(text))
    assert joined.decode().removeprefix(" ") == text  # Phi's tokenizer puts a blank before a text
    assert prompting.decode(prompting.encode(text)) == text


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("delimiter", ["ки", "。", "\n\n", "→", " → ", "7."])
def test_any_delimiter_ends_a_step_at_the_token_of_its_last_byte(folders, name, delimiter):
    prompting = prompting_of(folders, name, delimiter=delimiter)
    texts = [f"a 7{delimiter}", f"bк 12 и{delimiter}", "c\n"]
    ids = prompting.encode("".join(texts))
    ends = prompting.mark_steps(ids)
    assert prompting.step_texts(ids, ends) == texts
    for end in ends[:-1]:
        assert ids[end] in prompting.step_stop_ids and prompting.is_step_end(ids[: end + 1])
        assert not prompting.is_step_end(ids[:end])


@pytest.mark.parametrize("name", FAMILIES)
def test_what_closes_a_turn(folders, name):
    tokenizer = load_tokenizer(str(folders[name]))
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == FAMILIES[name].turn
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert end_of_turn(tokenizer) is None
    tokenizer.chat_template = None
    assert end_of_turn(tokenizer) is None
