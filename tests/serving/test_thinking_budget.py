"""A budget of thinking in `reasoner chat` and over OpenAI's protocol: what is answered, counted and refused."""

import json

import pytest
from small_models import save_small_qwen, writes_after
from starlette.testclient import TestClient
from tokenizers import AddedToken
from typer.testing import CliRunner

from reasoner.cli import app
from reasoner.evals.load import load
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.registry import UserError
from reasoner.search.samples import OfSamples
from reasoner.serving.answerer import Answerer
from reasoner.serving.app import application

CHAT = "{% for m in messages %}{{ m.content }}\n{% endfor %}A:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that opens its thoughts, thinks h m h m … without end, and answers 7 behind their end."""
    folder = save_small_qwen(tmp_path_factory.mktemp("thinks"), ["h m 7 A: 3 + 4\n\n\n" * 4], 300)
    tokenizer, lm = load_tokenizer(str(folder)), load_model(str(folder))
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    tokenizer.chat_template = CHAT
    lm.resize_token_embeddings(len(tokenizer))
    asked, opened, ended, h, m, seven = (
        tokenizer(text).input_ids[-1] for text in ("A:", "<think>", "\n</think>\n\n", "h", "m", "7")
    )
    model = writes_after(
        lm, {asked: opened, opened: h, h: m, m: h, ended: seven, seven: tokenizer.eos_token_id}
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def client(folder: str, **options) -> TestClient:
    method = OfSamples.model_validate({"name": "majority", "num_samples": 2, "temperature": 0})
    answerer = Answerer(load(folder), method, max_tokens=24, **options)
    return TestClient(application(answerer, "m"), base_url="http://localhost")


def asked(client: TestClient, **given):
    body = {"messages": [{"role": "user", "content": "3 + 4"}], **given}
    return client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("name", ["thinking_token_budget", "thinking_budget"])  # vLLM's word and Qwen's
def test_a_request_has_a_budget_and_is_charged_what_was_drawn(folder, name):
    told = asked(client(folder), **{name: 3}).json()
    (choice,) = told["choices"]
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("7", "hmh")
    assert choice["finish_reason"] == "stop" and told["reasoner"]["votes"] == {"7": 2.0}
    # of each of two chains: the opening tag and three thoughts, the answer and the end of the turn
    assert told["usage"]["completion_tokens"] == 2 * (1 + 3 + 2)
    assert told["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2 * (1 + 3 + 2) - 2}


def test_without_a_budget_it_thinks_until_it_is_cut_off(folder):
    for given in ({}, {"thinking_token_budget": -1}, {"thinking_budget": None}):
        told = asked(client(folder), max_tokens=9, **given).json()
        (choice,) = told["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
        assert choice["message"]["reasoning_content"] == "hm" * 4
        assert told["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2 * 9


def test_the_servers_own_budget_holds_for_all_and_a_request_may_ask_for_less(folder):
    server = client(folder, thinking_budget=4)
    thoughts = [
        asked(server, **given).json()["choices"][0]["message"].get("reasoning_content", "")
        for given in (
            {},
            {"thinking_token_budget": 9},
            {"thinking_token_budget": 1},
            {"thinking_token_budget": 0},
        )
    ]
    assert thoughts == ["hmhm", "hmhm", "h", ""]


def test_a_stream_and_a_plain_completion_have_it_too(folder):
    server = client(folder)
    lines = asked(server, stream=True, thinking_token_budget=2).text.splitlines()
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line.startswith("data: {")]
    assert [("".join(d.get(name, "") for d in deltas)) for name in ("reasoning_content", "content")] == [
        "hm",
        "7",
    ]
    told = server.post("/v1/completions", json={"prompt": "3\nA:", "thinking_token_budget": 1}).json()
    assert told["choices"][0]["text"] == "<think>h\n</think>\n\n7"


@pytest.mark.parametrize("value", [-2, True, 1.5, "many"])
def test_what_is_no_budget_is_refused_by_name(folder, value):
    refused = asked(client(folder), thinking_budget=value)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "thinking_budget"
    assert "expected a whole number of tokens" in refused.json()["error"]["message"]


def test_a_model_without_think_tags_is_told_in_one_line(tmp_path):
    folder = save_small_qwen(tmp_path, ["h m 7 A: 3 + 4 ####\n" * 4], 300)
    refused = asked(client(str(folder)), thinking_budget=3)
    assert refused.status_code == 400 and "expected --end-think TEXT" in refused.json()["error"]["message"]
    assert asked(client(str(folder))).status_code == 200
    said = client(str(folder), end_think="####")  # the user knows how it ends
    assert asked(said, thinking_budget=3).status_code == 200
    for given in ([], ["--end-think", ""]):
        done = CliRunner().invoke(app, ["chat", str(folder), "--thinking-budget", "3", *given])
        assert isinstance(done.exception, UserError) and "\n" not in str(done.exception)
        assert "expected --end-think TEXT" in str(done.exception)


def test_a_method_that_takes_none_is_told_before_the_model_is_loaded():
    given = ["--thinking-budget", "3", "--method", "budget", "--budget", "0"]
    done = CliRunner().invoke(app, ["chat", "no/such/model", *given])
    assert isinstance(done.exception, UserError) and "has max_thinking of its own" in str(done.exception)


def test_a_chat_keeps_the_budget_and_shows_the_thoughts_that_there_were(folder):
    options = ["--thinking-budget", "3", "--thinking", "--method", "greedy", "--budget", "0"]
    done = CliRunner().invoke(app, ["chat", folder, *options], input="3 + 4\n\n")
    assert done.exit_code == 0, done.exception
    assert done.stdout.splitlines()[0].endswith("hmh") and done.stdout.splitlines()[1] == "7"
    assert "6 tokens drawn" in done.stdout
