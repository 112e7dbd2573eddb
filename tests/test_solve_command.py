"""reasoner solve on a folder: how the command line prompts, and where the answer ends."""

import json

import pytest
from families import save_family
from small_models import always, small_lm
from typer.testing import CliRunner

from reasoner.cli import app
from reasoner.policy.models import load_tokenizer
from reasoner.registry import UserError
from tests.engine.stand_in import StandIn, serve

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama-like chat model that answers 7 and ends its turn, whatever it is asked."""
    folder = save_family("llama", tmp_path_factory.mktemp("llama"))
    tokenizer = load_tokenizer(str(folder))
    lm = small_lm("llama", vocab_size=len(tokenizer))
    newline = tokenizer("\n\n").input_ids[-1]  # the prompt's last token, after which the answer begins
    seven, turn = tokenizer.convert_tokens_to_ids(["7", "<|eot_id|>"])
    always(lm, newline, seven, turn).save_pretrained(folder)
    (folder / "generation_config.json").unlink()  # what transformers wrote: the template has to tell the end
    return str(folder)


def solved(folder: str, *options: str) -> dict:
    result = RUNNER.invoke(app, ["solve", folder, "3 + 4?", "--json", "--method", "greedy", *options])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_an_answer_ends_with_its_turn(folder):
    answer = solved(folder)
    assert answer["text"] == "7"
    assert answer["counts"]["policy"]["decoded"] == 2  # the answer and the end of the turn


def test_how_the_command_line_prompts(folder):
    def prompt_tokens(*options: str) -> int:
        return solved(folder, "--max-tokens", "3", *options)["counts"]["policy"]["prefilled"]

    chat, plain = prompt_tokens(), prompt_tokens("--no-chat")
    tokenizer = load_tokenizer(folder)
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": "3 + 4?"}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    # the last token of a prompt is decoded from, not prefilled
    assert (chat, plain) == (len(turn) - 1, len(tokenizer("3 + 4?").input_ids) - 1)
    assert prompt_tokens("--system", "Think.") > chat
    assert prompt_tokens("--chat-template", "{% for m in messages %}{{ m['content'] }}{% endfor %}") < plain
    stopped = solved(folder, "--stop", "7")
    assert (stopped["text"], stopped["counts"]["policy"]["decoded"]) == ("7", 1)


def test_a_question_longer_than_the_model_reads_is_a_user_error(folder):
    with pytest.raises(UserError, match="expected room for an answer in 256"):
        solved(folder, "--template", "{prompt}" + " think" * 300)


def test_a_server_draws_what_the_engine_in_this_process_would(folder):
    server = StandIn(folder, 256)
    http = serve(server)
    try:
        found = solved(folder, "--engine", f"{{kind: vllm, urls: ['http://127.0.0.1:{http.server_port}']}}")
    finally:
        http.shutdown()
        http.server_close()
    assert (found["text"], found["answer"]) == ("7", solved(folder)["answer"])
    assert found["counts"]["policy"]["decoded"] == 2
    assert sum(body["temperature"] == 0 for body in server.asked) == 1  # beside what was asked to check it
    with pytest.raises(UserError, match=r"engine\.urls|did not answer"):
        solved(folder, "--engine", f"{{kind: vllm, urls: ['http://127.0.0.1:{http.server_port}']}}")
    with pytest.raises(UserError, match="expected either urls of servers or spawn"):
        solved(folder, "--engine", "{kind: vllm}")
