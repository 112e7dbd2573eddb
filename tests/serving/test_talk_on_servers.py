"""reasoner chat and reasoner serve draw through servers: a stand-in for vLLM, in this process and in one that they start."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from small_models import save_small_qwen
from typer.testing import CliRunner

from reasoner.cli import app
from reasoner.commands import serve as commands
from reasoner.policy.models import load_model
from reasoner.registry import UserError
from tests import warm
from tests.engine import stand_in
from tests.engine.stand_in import StandIn
from tests.test_interrupt import children_of, runs, wait_until

ROOT = Path(__file__).parent.parent.parent
ROOM = 128
SIZES = ("--max-tokens", "8", "--max-context", str(ROOM))
GREEDY = ("--method", "greedy", "--budget", "0")
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}A:"
QUESTION = {"messages": [{"role": "user", "content": "3 + 4?"}]}


def save(folder: Path, texts: str) -> Path:
    save_small_qwen(folder, [texts] * 4, 300)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("model"), "one 3 + 4 two 7 three 8 four 15 A:\n?")


@contextmanager
def standing(folder: Path, room: int = ROOM):
    """A stand-in with its address."""
    server = StandIn(str(folder), room)
    http = stand_in.serve(server)
    try:
        yield server, f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()


def on(url: str, **options) -> tuple[str, str]:
    told = ", ".join([f"urls: ['{url}']", *(f"{key}: {value}" for key, value in options.items())])
    return "--engine", f"{{kind: vllm, {told}}}"


def chatted(model: Path, *options: str, said: str = "3 + 4?\n\n") -> str:
    """What a chat in the terminal showed, without the seconds that it took."""
    result = CliRunner().invoke(app, ["chat", str(model), *SIZES, *options], input=said)
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return re.sub(r"[\d.]+ s\b", "", result.stdout)


def chains(server: StandIn) -> list[dict]:
    """The draws that a server was asked for, beside those by which it is checked."""
    return [body for body in server.asked if body["max_tokens"] == 8 and body["top_k"] == 0]


def test_a_chat_through_a_server_says_what_the_engine_in_this_process_would(model):
    with standing(model) as (server, url):
        there = chatted(model, *GREEDY, *on(url), said="3 + 4?\n7 + 8?\n\n")
        assert [body["temperature"] for body in chains(server)] == [0, 0]
        first, second = (body["prompt"] for body in chains(server))
        assert len(second) > len(first) + 8 and "/collective_rpc" not in server.calls
    here = chatted(model, *GREEDY, said="3 + 4?\n7 + 8?\n\n")
    assert there == here and there.count("tokens drawn") == 2


@pytest.mark.parametrize("back", ["the same", "another"])
def test_a_chat_goes_on_when_its_server_is_there_again_with_the_same_weights(model, monkeypatch, back):
    """It is gone for the second question and back for the third, which is the same."""
    given = (model, "--budget", "3")
    with standing(model) as (undisturbed, url):
        chatted(*given, *on(url), said="3 + 4?\n7 + 8?\n\n")
    asked, answer = [], commands._answer

    def answered(answerer, console, ids, question, seed):
        asked.append(len(server.asked))
        server.fails = 1 << 30 if len(asked) == 2 else 0
        if back == "another" and len(asked) == 3:
            server.engines["policy"].model.model.norm.weight.data.mul_(3.0)
            server.engines["policy"].load_weights(1)
        return answer(answerer, console, ids, question, seed)

    monkeypatch.setattr(commands, "_answer", answered)
    with standing(model) as (server, url):
        given, said = (*given, *on(url, patience=0.5)), "3 + 4?\n7 + 8?\n7 + 8?\n\n"
        if back == "the same":
            shown = " ".join(chatted(*given, said=said).split())
        else:
            with pytest.raises(UserError, match=r"other weights.* serve the model that is asked for"):
                chatted(*given, said=said)
    before = len([body for body in server.asked[: asked[2]] if body in chains(server)])
    then = chains(server)[before:]
    if back == "another":
        assert then == [] and len(server.asked) > asked[2]  # it was asked for a proof alone
        return
    assert shown.count("tokens drawn") == 2 and shown.count("or ask again here") == 1
    assert "expected one within engine.patience: start it again" in shown
    first, second = chains(undisturbed)[:3], chains(undisturbed)[3:]
    assert [sorted(map(repr, bodies)) for bodies in (chains(server)[:3], then)] == [
        sorted(map(repr, bodies)) for bodies in (first, second)
    ]


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize(
    ("of", "options", "words"),
    [
        (
            "another model",
            (),
            "other weights.* serve the model .*or let it take these.*VLLM_SERVER_DEV_MODE=1",
        ),
        ("another tokenizer", (), "trainer's tokenizer into"),
        ("less room", (), r"context of 64 tokens and the run needs 128 .*chat and serve: --max-context"),
        ("none", (), r"did not answer .*correct engine\.urls"),
        (
            "none",
            ("temperature=0.7",),
            r"temperature=0\.7.* expected a server with --logprobs-mode processed",
        ),
    ],
)
@pytest.mark.parametrize("command", ["chat", "serve"])
def test_what_does_not_fit_is_told_before_the_first_question(
    model, tmp_path, command, of, options, words, port
):
    folder, room = model, ROOM
    if of == "another model":
        folder = save(tmp_path, "one 3 + 4 two 7 three 8 four 15 A:\n?")
        lm = load_model(str(folder), "float32")
        lm.model.norm.weight.data.mul_(3.0)
        lm.save_pretrained(folder)
    if of == "another tokenizer":
        folder = save(tmp_path, "zz yy xx ww vv")
    if of == "less room":
        room = 64
    more = ("--port", "0") if command == "serve" else ()
    with standing(folder, room) as (server, url):
        server.takes_updates = False
        given = on(f"http://127.0.0.1:{port}" if of == "none" else url)
        with pytest.raises(UserError, match=words) as problem:
            app([command, str(model), *SIZES, *more, *given, *options], standalone_mode=False)
        assert "\n" not in str(problem.value) and not chains(server)
        assert bool(server.calls) == (of != "none")
    if of == "none" and options:
        assert "did not answer" not in str(problem.value)


def test_a_server_that_dies_at_its_start_is_told_with_a_log_that_stays(model, tmp_path, monkeypatch):
    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh\necho no memory here; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError, match=r"ended with 3 .*no memory here") as problem:
        chatted(model, "--engine", f"{{kind: vllm, spawn: 1, executable: '{program}'}}")
    log = Path(str(problem.value).rpartition("see ")[2])
    assert log.read_text() == "no memory here\n"
    assert [path.name for path in log.parents[1].iterdir()] == [
        "servers"
    ]  # the weights that it was to read are gone


@pytest.fixture
def serving(model, tmp_path):
    """`reasoner serve` in a process of its own, on a server in this one: the server, the address, the words' file."""
    streams = [tmp_path / "out", tmp_path / "err"]
    streams[1].touch()
    with standing(model) as (server, url):
        process = warm.start(
            "serve", model, "--budget", "3", "--port", "0", *SIZES, *on(url, patience=0.5), cwd=ROOT,
            streams=streams,
        )  # fmt: skip
        wait_until(lambda: "answers as" in streams[1].read_text() or not process.is_alive())
        yield server, streams[1].read_text().split()[0], streams[1]
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 130


def test_requests_are_answered_through_a_server_and_one_that_is_gone_is_told(serving):
    server, url, words = serving
    whole = httpx.post(f"{url}/chat/completions", json=QUESTION, timeout=60).json()
    assert whole["usage"]["completion_tokens"] == whole["reasoner"]["counts"]["policy"]["decoded"] <= 3 * 8
    assert len(chains(server)) == 3 and len({body["seed"] for body in chains(server)}) == 3
    streamed = httpx.post(f"{url}/chat/completions", json={**QUESTION, "stream": True}, timeout=60).text
    assert "chat.completion.chunk" in streamed and streamed.endswith("data: [DONE]\n\n")
    seeds = [body["seed"] for body in chains(server)]
    assert sorted(seeds[3:]) == sorted(seeds[:3])  # the same request draws the same

    server.fails = 1 << 30
    gone = httpx.post(f"{url}/chat/completions", json=QUESTION, timeout=60)
    assert gone.status_code == 503 and "ask again later" in gone.json()["error"]["message"]
    cut = httpx.post(f"{url}/chat/completions", json={**QUESTION, "stream": True}, timeout=60).text
    assert "ask again later" in cut and "[DONE]" not in cut
    said = [line for line in words.read_text().splitlines() if "answered for" in line]
    assert len(said) == 2 and all("start it again" in line for line in said)
    assert "Traceback" not in words.read_text()

    server.fails = 0
    asked = len(chains(server))
    again = httpx.post(f"{url}/chat/completions", json=QUESTION, timeout=60).json()
    assert again["choices"] == whole["choices"] and len(chains(server)) == asked + 3


def test_who_does_not_wait_for_an_answer_leaves_nothing_of_it_to_the_next(serving):
    server, url, _ = serving
    expected = httpx.post(f"{url}/chat/completions", json=QUESTION, timeout=60).json()
    other, told = {"messages": [{"role": "user", "content": "7 + 8?"}], "stream": True}, []
    with server.lock:  # nothing is drawn
        with (
            pytest.raises(httpx.ReadTimeout),
            httpx.stream("POST", f"{url}/chat/completions", json=other, timeout=1) as coming,
        ):
            list(coming.iter_lines())
        next_one = threading.Thread(
            target=lambda: told.append(httpx.post(f"{url}/chat/completions", json=QUESTION, timeout=60))
        )
        next_one.start()
        time.sleep(1)
        assert len(chains(server)) == 3 + 3  # of the first two: the third waits until the engine is free
    next_one.join()
    assert told[0].json()["choices"] == expected["choices"] and len(chains(server)) == 3 * 3


@pytest.mark.parametrize("command", ["chat", pytest.param("serve", marks=pytest.mark.slow)])
def test_ctrl_c_ends_the_server_that_was_started(model, tmp_path, command):
    engine = f"{{kind: vllm, spawn: 1, executable: '{stand_in.program(tmp_path)}'}}"
    more = ("--port", "0") if command == "serve" else ()
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "reasoner", command, str(model), *SIZES, *more, *GREEDY, "--engine", engine],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")},
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    if command == "chat":
        process.stdin.write(b"3 + 4?\n")
        process.stdin.flush()
        told = next(line for line in process.stdout if b"tokens drawn" in line)
        assert told.startswith(b"8 tokens drawn")
    else:
        url = next(line for line in process.stderr if b"answers as" in line).split()[0].decode()
        told = httpx.post(f"{url}/chat/completions", json=QUESTION, timeout=60).json()
        assert told["usage"]["completion_tokens"] == 8
    started = children_of(process.pid)
    (folder,) = (tmp_path / "tmp").glob("reasoner-*")
    (record,) = (folder / "servers").glob("*.json")
    assert int(record.stem) in started and (folder / "servers" / "server-0.log").stat().st_size
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert b"stopped by Ctrl-C" in process.stderr.read()
    wait_until(lambda: not any(map(runs, started)), 30)
    assert list((tmp_path / "tmp").glob("reasoner-*")) == []
