"""The engine on servers: a stand-in over a model of two layers answers what the engine in this process draws."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from small_models import save_small_qwen
from stand_in import StandIn, serve

from reasoner.engine import servers
from reasoner.engine.asking import ServerGone, seed_of
from reasoner.engine.connect import DIALECTS, EngineConfig, check_server
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, Sampling, place_key
from reasoner.engine.remote import RemoteEngine
from reasoner.engine.servers import free_port
from reasoner.engine.stopping import StopStrings
from reasoner.engine.weights import Sender, await_weights
from reasoner.policy.adapters import LoRA, SharedBase
from reasoner.policy.models import load_model, load_tokenizer, save
from reasoner.registry import UserError
from reasoner.search.chain import fan
from reasoner.search.grow import Growth, grow
from reasoner.tree import Problem, Tree

GREEDY = Sampling(temperature=0.0)
EOS = 7
ROOM = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_small_qwen(
        tmp_path_factory.mktemp("model"), ["one two three four five\nsix 7 + 8 = 15\n"] * 4, 300
    )


@pytest.fixture
def standing(folder, request):
    """A stand-in and its address; its dialect by indirect parameter, vllm without one."""
    kind = getattr(request, "param", "vllm")
    server = StandIn(str(folder), ROOM)
    http = serve(server, kind=kind)
    yield server, f"http://127.0.0.1:{http.server_port}", kind
    http.shutdown()
    http.server_close()


def engine_on(folder, urls, kind="vllm", **options) -> RemoteEngine:
    tokenizer = load_tokenizer(str(folder))
    size = load_model(str(folder), "float32").config.vocab_size
    options = {"patience": 20.0, **options}
    return RemoteEngine(DIALECTS[kind], urls, [EOS], size, ROOM, StopStrings(tokenizer, size), **options)


def asked(number: int, sampling: Sampling = GREEDY, **options) -> list[Request]:
    prefixes = [[*[5, 9, 2, 33, 7, 7, 41, 12][: 2 + i % 5], 10 + i] for i in range(number)]
    return [
        Request(i, p, 12, place_key(0, 0, str(i), [(len(p), 0)]), sampling, tree=f"t{i % 4}", **options)
        for i, p in enumerate(prefixes)
    ]


@pytest.mark.parametrize("standing", ["vllm", "sglang"], indirect=True)
def test_greedy_tokens_and_numbers_are_the_local_engines(folder, standing):
    server, url, kind = standing
    local = LocalEngine(load_model(str(folder), "float32"), [EOS], 8, ROOM, tokenizer=server.tokenizer)
    engine = engine_on(folder, [url], kind)
    many = ("zq", "zw", "zx", "zy", "e", "or")
    for options in (
        {},
        {"stop_ids": frozenset({20, 30, 40})},
        {"stop_strings": ("e", "or")},
        {"stop_strings": many},
    ):
        ours, theirs = local.sample(asked(10, **options)), engine.sample(asked(10, **options))
        assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
        assert [c.stop_reason for c in ours] == [c.stop_reason for c in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(torch.tensor(a.logprobs_full), torch.tensor(b.logprobs_full), atol=1e-4)
            assert a.logprobs == b.logprobs == (0.0,) * len(a.token_ids)
    assert sum(path in ("/v1/completions", "/generate") for path in server.calls) == 40
    texts = [[5, 9, 2, 33], [7, 7, 41, 12, 3]]
    for a, b in zip(local.score(texts), engine.score(texts), strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    engine.close()


def test_one_distribution_and_the_other_are_both_right_or_refused(folder, standing):
    server, url, _ = standing
    way = Sampling(temperature=0.6, top_k=12)
    engine = engine_on(folder, [url])
    with pytest.raises(UserError, match="processed_logprobs"):
        engine.sample(asked(2, way))
    engine.close()
    server.processed = True
    engine = engine_on(folder, [url], processed=True)
    seeds = [seed_of(r) for r in asked(6, way)]
    local = LocalEngine(load_model(str(folder), "float32"), [EOS], 8, ROOM)
    same_noise = [Request(r.id, r.prefix_ids, 12, s, way) for r, s in zip(asked(6, way), seeds, strict=True)]
    for a, b in zip(local.sample(same_noise), engine.sample(asked(6, way)), strict=True):
        assert a.token_ids == b.token_ids
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
        assert a.logprobs_full == pytest.approx(b.logprobs_full, abs=1e-4)
    engine.close()


def test_a_seed_belongs_to_the_place_and_to_where_its_tokens_begin():
    one = Request(0, [1, 2, 3], 5, 99)
    assert seed_of(one) == seed_of(Request(7, [4, 5, 6], 9, 99))  # neither to time nor to company
    assert len({seed_of(one), seed_of(Request(0, [1, 2], 5, 99)), seed_of(Request(0, [1, 2, 3], 5, 98))}) == 3


def test_requests_that_no_server_could_answer_are_not_sent(folder, standing):
    server, url, _ = standing
    engine = engine_on(folder, [url])
    bad = [
        Request(0, [], 5, 0),
        Request(1, [1] * ROOM, 5, 0),
        Request(2, [10**6], 5, 0),
        Request(3, [1], 0, 0),
    ]
    assert [c.stop_reason for c in engine.sample(bad)] == ["empty", "context", "vocabulary", "length"]
    assert server.asked == []
    engine.close()


def test_trees_stay_on_one_server_of_two_and_both_work(folder):
    servers = [StandIn(str(folder), ROOM), StandIn(str(folder), ROOM)]
    https = [serve(s) for s in servers]
    engine = engine_on(folder, [f"http://127.0.0.1:{h.server_port}" for h in https])
    engine.sample(asked(24))
    by_server = [{tuple(body["prompt"]) for body in s.asked} for s in servers]
    trees = [
        {i % 4 for i, r in enumerate(asked(24)) if tuple(r.prefix_ids) in prompts} for prompts in by_server
    ]
    assert trees[0] & trees[1] == set() and trees[0] | trees[1] == {0, 1, 2, 3}
    assert all(trees)
    engine.close()
    for http in https:
        http.shutdown()


def test_a_server_that_fails_is_asked_again_for_the_same_place(folder, standing):
    server, url, _ = standing
    engine = engine_on(folder, [url])
    undisturbed = engine.sample(asked(4))
    server.asked.clear()
    server.fails = 3
    again = engine.sample(asked(4))
    assert [c.token_ids for c in again] == [c.token_ids for c in undisturbed]
    assert len(server.asked) == 7  # three failed, and every body came with its place's own seed
    assert len({body["seed"] for body in server.asked}) == 4
    engine.close()


def test_a_4xx_ends_the_run_with_the_servers_own_words(folder, standing):
    engine = engine_on(folder, [standing[1]], served="somebody")
    with pytest.raises(UserError, match=r"answered 404.*no model somebody"):
        engine.sample(asked(3))
    engine.close()


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_gets_the_weights_before_requests(folder, tmp_path):
    port = free_port()
    command = [
        sys.executable,
        str(Path(__file__).with_name("stand_in.py")),
        "serve",
        str(folder),
        "--port",
        str(port),
    ]

    def started() -> subprocess.Popen:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    first = started()
    engine = engine_on(folder, [f"http://127.0.0.1:{port}"], patience=120.0)
    lm, tokenizer = load_model(str(folder), "float32"), load_tokenizer(str(folder))
    sender = Sender(engine, lm, lambda to: save(lm, tokenizer, to), tmp_path, [5, 9, 2, 33])
    engine.install, engine.sync = sender.install, sender.restore
    torch.manual_seed(1)
    with torch.no_grad():
        for p in lm.parameters():
            p.add_(0.2 * torch.randn_like(p))
    engine.load_weights(1)
    expected = [c.token_ids for c in engine.sample(asked(6))]
    first.kill()
    first.wait()
    engine.submit(asked(6))
    time.sleep(1.0)
    second = started()
    done = {c.id: c for c in engine.poll()}
    while len(done) < 6:
        done |= {c.id: c for c in engine.poll()}
    assert [done[i].token_ids for i in range(6)] == expected  # by the new weights, not by those of the folder
    engine.close()
    second.kill()
    second.wait()


@pytest.mark.slow
@pytest.mark.parametrize("as_adapter", [False, True], ids=["weights", "adapter"])
def test_a_server_of_the_runs_own_that_is_killed_is_started_again_within_the_run(
    folder, tmp_path, as_adapter
):
    """In the middle of drawing trees, and between two rounds: the present weights come before requests."""
    command = [sys.executable, str(Path(__file__).with_name("stand_in.py")), "serve"]
    dialect = replace(
        DIALECTS["vllm"], command=lambda model, port, *_: ([*command, model, "--port", str(port)], {})
    )
    fleet = servers.start(dialect, str(folder), 1, tmp_path / "servers", ROOM, restarts=2)
    engine, tokenizer = engine_on(folder, fleet.urls), load_tokenizer(str(folder))
    engine.fleet = fleet
    if as_adapter:
        lm = SharedBase(str(folder), LoRA(r=2)).view("policy")
        write = lm.save_pretrained
    else:
        lm = load_model(str(folder), "float32")
        write = partial(save, lm, tokenizer)
    sender = Sender(engine, lm, write, tmp_path / "weights", [5, 9, 2, 33], as_adapter)
    engine.install, engine.sync = sender.install, sender.restore

    def moved_to(version: int) -> None:
        torch.manual_seed(version)
        with torch.no_grad():
            for p in lm.parameters():
                p.add_(0.2 * torch.randn_like(p))
        engine.load_weights(version)

    def kill() -> int:
        (process,) = fleet.processes
        os.kill(process.pid, signal.SIGKILL)
        return process.pid

    def drawn(at: int = -1) -> tuple[list, list[int]]:
        """What is in the trees; the process that was killed when so many continuations had come."""
        trees = [Tree.of_prompt(Problem(f"p{i}", "", "", {}), [5, 9, 2 + i]) for i in range(8)]
        came, killed = [], []

        def on_node(t, number, node) -> None:
            came.append(number)
            if len(came) == at:
                killed.append(kill())

        grow(trees, engine, fan(3), Growth(lambda ids, *_: [len(ids) - 1], 12), on_node=on_node)
        return [[(n.token_ids, n.weights_version) for n in t.nodes] for t in trees], killed

    moved_to(1)
    undisturbed, _ = drawn()
    disturbed, (first,) = drawn(at=6)
    assert disturbed == undisturbed and all(len(nodes) == 4 for nodes in disturbed)
    assert fleet.processes[0].pid != first
    second = kill()
    moved_to(2)
    assert fleet.processes[0].pid not in (first, second)
    local = LocalEngine(lm, [EOS], 8, ROOM, tokenizer=tokenizer)
    ours, theirs = local.sample(asked(6)), engine.sample(asked(6))
    assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
    kill()
    with pytest.raises(UserError, match="no more times"):
        engine.sample(asked(6))
    engine.close()


def test_a_process_that_sends_nothing_waits_for_what_is_drawn_from(folder, standing):
    server, url, _ = standing
    engine = engine_on(folder, [url], served="policy-3")
    waiting = threading.Thread(target=await_weights, args=(engine, engine.servers[0]))
    waiting.start()
    waiting.join(1.0)
    assert waiting.is_alive() and server.calls
    server.engines["policy-3"] = server.engines["policy"]
    waiting.join(10.0)
    assert not waiting.is_alive()
    engine.close()


def test_no_server_for_longer_than_patience_is_one_clear_error(folder):
    engine = engine_on(folder, [f"http://127.0.0.1:{free_port()}"], patience=1.0)
    with pytest.raises(ServerGone, match=r"answered for 1 s"):
        engine.sample(asked(2))
    engine.close()


def test_new_weights_are_proven_and_a_server_that_keeps_the_old_ones_is_named(folder, standing, tmp_path):
    server, url, _ = standing
    engine = engine_on(folder, [url])
    lm, tokenizer = load_model(str(folder), "float32"), load_tokenizer(str(folder))
    sender = Sender(engine, lm, lambda to: save(lm, tokenizer, to), tmp_path, [5, 9, 2, 33])
    engine.install = sender.install
    engine.load_weights(1)
    assert server.calls[-5:-1] == ["/pause", "/collective_rpc", "/reset_prefix_cache", "/resume"]
    with torch.no_grad():
        lm.model.norm.weight.mul_(1.001)  # too little for the tolerance, and yet told apart
    server.ignores_updates = True
    with pytest.raises(UserError, match="still answers with the weights before these"):
        engine.load_weights(2)
    with torch.no_grad():
        lm.model.norm.weight.mul_(3.0)
    with pytest.raises(UserError, match=r"differ from the trainer's by up to"):
        engine.load_weights(3)
    server.ignores_updates = False
    engine.load_weights(4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["policy-4"]
    assert engine.sample(asked(1))[0].weights_version == 4
    engine.close()


def test_nothing_of_a_round_that_failed_comes_back_in_the_next(folder, standing):
    server, url, _ = standing
    engine = engine_on(folder, [url], patience=0.5)
    undisturbed = engine.sample(asked(6))
    server.fails = 1 << 30
    with pytest.raises(ServerGone, match=r"no server of .* answered for"):
        engine.sample(asked(6))
    assert engine.poll() == []
    server.fails = 0
    assert engine.sample(asked(6)) == undisturbed
    engine.close()


def test_a_cancelled_request_comes_back_as_such(folder, standing):
    server, url, _ = standing
    engine = engine_on(folder, [url])
    with server.lock:
        engine.submit(asked(3))
        time.sleep(0.2)
        engine.cancel([0, 1])
        came: dict = {}
        while len(came) < 2:  # the third waits for the lock
            came |= {c.id: c.stop_reason for c in engine.poll()}
        assert came == {0: "cancelled", 1: "cancelled"}
    assert [c.id for c in engine.poll()] == [2]
    assert engine.poll() == []
    engine.close()


@pytest.mark.parametrize(
    "config, fault, words",
    [
        ({"served": "mine"}, None, "serves policy; expected 'mine'"),
        ({}, lambda s: setattr(s, "max_context", 64), "context of 64 tokens and the run needs 128"),
        ({}, lambda s: setattr(s, "gives_logprobs", False), "gives no log-probabilities"),
        ({"logprobs": "processed"}, None, "gives raw log-probabilities and engine.logprobs is processed"),
        (
            {},
            lambda s: setattr(s, "processed", True),
            "gives processed log-probabilities and engine.logprobs is raw",
        ),
    ],
)
def test_what_does_not_fit_is_found_before_the_first_request(folder, standing, config, fault, words):
    server, url, _ = standing
    if fault is not None:
        fault(server)
    options = EngineConfig(kind="vllm", urls=[url], **config)
    engine = engine_on(folder, [url], served=options.served)
    with pytest.raises(UserError, match=words):
        check_server(engine, engine.servers[0], load_tokenizer(str(folder)), options)
    engine.close()


def test_a_server_with_another_tokenizer_is_named(folder, standing, tmp_path):
    other = load_tokenizer(str(save_small_qwen(tmp_path, ["zz yy xx ww vv"] * 4, 280)))
    engine = engine_on(folder, [standing[1]])
    options = EngineConfig(kind="vllm", urls=[standing[1]])
    with pytest.raises(UserError, match="trainer's tokenizer into"):
        check_server(engine, engine.servers[0], other, options)
    engine.close()


def test_an_engine_comes_from_one_source_only():
    for bad in (
        {"kind": "vllm"},
        {"kind": "vllm", "urls": ["http://x"], "spawn": 1},
        {"urls": ["http://x"]},
        {"kind": "vllm", "urls": ["http://x"], "arguments": ["--seed", "1"]},
    ):
        with pytest.raises(ValueError, match="expected"):
            EngineConfig(**bad)
