"""A real server in a process of its own, asked by OpenAI's client: answers, streams, usage and errors."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from small_models import save_small_qwen

from reasoner import api
from tests import warm

ROOT = Path(__file__).parent.parent.parent
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model that thinks a little and answers 7, with a chat template."""
    folder = tmp_path_factory.mktemp("model")
    rows = [
        {"prompt": f"3 + {i}", "answer": "7", "solution": "<think>hm</think>The answer is 7"}
        for i in range(4)
    ]
    texts = [row["prompt"] + row["solution"] for row in rows] + [CHAT, "<user><assistant><system>"]
    start = save_small_qwen(folder / "start", texts * 4, 300)
    trained = api.train("sft", start, folder / "sft", problems=rows, max_steps=60, batch_size=4,
                        prompt={"chat": True, "chat_template": CHAT}, optimizer={"name": "muon", "lr": 0.02})  # fmt: skip
    (trained / "chat_template.jinja").write_text(CHAT)
    return trained


@pytest.fixture(scope="module")
def server(model):
    command = [sys.executable, "-m", "reasoner", "serve", str(model), "--budget", "4", "--port", "0",
               "--max-tokens", "32", "--max-context", "128"]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    said = next((line for line in process.stderr if line.startswith("http://")), "")
    assert process.poll() is None and "answers as model by majority" in said
    yield said.split()[0]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) is not None


@pytest.fixture(scope="module")
def client(server):
    return OpenAI(base_url=server, api_key="none", max_retries=0)


QUESTION = [{"role": "user", "content": "3 + 1"}]


def test_a_chat_is_answered_by_the_methods_choice_and_all_that_was_drawn_is_counted(client):
    (named,) = client.models.list().data
    told = client.chat.completions.create(model=named.id, messages=QUESTION)
    (choice,) = told.choices
    assert choice.message.content == "The answer is 7" and choice.message.role == "assistant"
    assert choice.message.reasoning_content == "hm"
    assert choice.finish_reason == "stop" and told.model == named.id
    votes = told.model_extra["reasoner"]["votes"]
    assert (
        sum(votes.values()) == 4
        and max(votes, key=votes.get) == told.model_extra["reasoner"]["answer"] == "7"
    )
    spent = told.usage
    assert spent.completion_tokens == told.model_extra["reasoner"]["counts"]["policy"]["decoded"]
    own = spent.completion_tokens - spent.completion_tokens_details.reasoning_tokens
    assert (
        3 * own < spent.completion_tokens < 4 * 32
        and spent.total_tokens == spent.prompt_tokens + spent.completion_tokens
    )


def test_the_same_request_has_the_same_answer_and_a_stream_says_it_too(client):
    whole = client.chat.completions.create(model="model", messages=QUESTION, seed=3)
    pieces = list(client.chat.completions.create(model="model", messages=QUESTION, seed=3, stream=True,
                                                 stream_options={"include_usage": True}))  # fmt: skip
    texts = [p.choices[0].delta for p in pieces if p.choices]
    assert "".join(d.content or "" for d in texts) == whole.choices[0].message.content
    assert "".join(getattr(d, "reasoning_content", "") or "" for d in texts) == "hm"
    assert pieces[-1].usage == whole.usage and pieces[-2].choices[0].finish_reason == "stop"


def test_a_text_is_continued_as_it_stands(client):
    told = client.completions.create(model="model", prompt="<user>3 + 1\n<assistant>", max_tokens=16)
    assert told.choices[0].text == "<think>hm</think>The answer is 7"
    cut = client.completions.create(model="model", prompt="<user>3 + 1\n<assistant>", max_tokens=2)
    assert cut.choices[0].finish_reason == "length"
    streamed = client.completions.create(model="model", prompt="<user>3 + 1\n<assistant>", stream=True)
    assert "".join(p.choices[0].text for p in streamed) == told.choices[0].text


def test_a_conversation_reaches_the_template(client):
    turns = [{"role": "system", "content": "s"}, *QUESTION, {"role": "assistant", "content": "7"}, *QUESTION]
    more = client.chat.completions.create(model="model", messages=turns).usage.prompt_tokens
    assert more > client.chat.completions.create(model="model", messages=QUESTION).usage.prompt_tokens + 10


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"messages": []}, ["messages"]),
        ({"messages": [{"role": "wizard", "content": "x"}]}, ["messages.0", "role"]),
        ({"messages": [{"role": "assistant", "content": "x"}]}, ["expected the user's"]),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, ["no text"]),
        ({"messages": QUESTION, "n": 2}, ["n other than 1"]),
        ({"messages": QUESTION, "max_tokens": 0}, ["max_tokens=0"]),
        ({"messages": [{"role": "user", "content": "3 + 1 " * 200}]}, ["expected room for an answer in 128"]),
    ],
)
def test_what_cannot_be_is_refused_by_name(client, given, parts):
    with pytest.raises(BadRequestError) as problem:
        client.chat.completions.create(model="model", **given)
    assert all(part in problem.value.body["message"] for part in parts), problem.value.body


def test_other_models_other_pages_and_broken_requests_are_refused(client, server):
    with pytest.raises(NotFoundError, match="expected 'model'"):
        client.chat.completions.create(model="gpt", messages=QUESTION)
    url, body = f"{server}/chat/completions", json.dumps({"messages": QUESTION})
    assert httpx.post(url, content=body, headers={"content-type": "text/plain"}).status_code == 415
    assert (
        httpx.post(
            url, content=body, headers={"content-type": "application/json", "host": "evil.example"}
        ).status_code
        == 400
    )
    as_json = {"content-type": "application/json"}
    assert httpx.post(url, content="[" * 100_000, headers=as_json).status_code == 400
    assert httpx.post(url, content="x" * (1 << 21), headers=as_json).status_code == 413
    assert httpx.post(url, content=body, headers=as_json).status_code == 200  # and the server still answers


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = warm.reasoner("serve", "no/such/model", "--port", taken.getsockname()[1], cwd=ROOT)
    assert done.returncode == 2 and "expected a free port" in done.stderr and "no/such" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "chat"])
def test_a_method_that_lacks_its_judge_is_told_before_the_model_is_loaded(command):
    given = ["--port", "0"] if command == "serve" else []
    done = warm.reasoner(command, "no/such/model", "--method", "best_of", *given, cwd=ROOT)
    said = [line for line in done.stderr.splitlines() if line.startswith("reasoner: ")]
    assert done.returncode == 2 and len(said) == 1 and "expected --prm FOLDER" in said[0], done.stderr


def test_a_chat_in_the_terminal_shows_answers_and_thinking_and_no_control_characters(model):
    command = [
        sys.executable,
        "-m",
        "reasoner",
        "chat",
        str(model),
        "--thinking",
        "--max-tokens",
        "32",
        "--max-context",
        "128",
    ]
    huge, hostile = b"x" * 10_000_000, b"\x1b[2J\x1b]0;t\x07\xff\xfe 3 + 1"
    said = b"\n".join([b"3 + 1", b"3 + 2", huge, hostile, b"", b""])
    done = subprocess.run(command, cwd=ROOT, input=said, capture_output=True, timeout=120)
    shown = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    assert shown.count("The answer is 7") >= 2 and shown.count("hm\n") >= 2
    assert shown.count("tokens drawn") == 3 and "\x1b" not in shown and len(shown) < 3_000
    assert "got 10,000,0" in shown and shown.count("starting anew") == 1
