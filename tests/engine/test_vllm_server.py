"""A real vLLM server with a real model against the engine in this process: bash launch/test.sh -m server

Needs `bash launch/vllm.sh` and `bash launch/smollm2.sh`, and takes some minutes on two cores.
"""

import math
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from reasoner.engine import servers
from reasoner.engine.connect import EngineConfig, check_server
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, Sampling, place_key
from reasoner.engine.remote import RemoteEngine
from reasoner.engine.stopping import StopStrings
from reasoner.engine.vllm import DIALECT
from reasoner.engine.weights import Sender
from reasoner.policy.models import load_model, load_tokenizer, save
from reasoner.registry import UserError

pytestmark = pytest.mark.server

CACHE = Path.home() / ".cache" / "reasoner"
VLLM = Path(os.environ.get("REASONER_VLLM", CACHE / "vllm")) / "bin" / "vllm"
MODEL = Path(os.environ.get("REASONER_SMOLLM2", CACHE / "smollm2"))
ROOM = 512
GREEDY = Sampling(temperature=0.0)
ON_A_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


@pytest.fixture(scope="module")
def there():
    """The paths of program and model; skips with the command that brings what is lacking."""
    if not VLLM.is_file():
        pytest.skip(f"no vLLM at {VLLM}; run bash launch/vllm.sh, or set REASONER_VLLM")
    if not (MODEL / "config.json").is_file():
        pytest.skip(f"no model at {MODEL}; run bash launch/smollm2.sh, or set REASONER_SMOLLM2")
    if not torch.cuda.is_available():
        os.environ.update(ON_A_CPU)


def start(folder: Path, rank: int = 0, number: int = 1) -> servers.Fleet:
    fleet = servers.start(
        DIALECT, str(MODEL), number, folder, ROOM, "float32", lora_rank=rank, executable=str(VLLM)
    )  # fmt: skip
    assert len(fleet.urls) == number and all(p.poll() is None for p in fleet.processes)
    return fleet


@pytest.fixture(scope="module")
def tokenizer(there):
    return load_tokenizer(str(MODEL))


@pytest.fixture(scope="module")
def lm(there):
    return load_model(str(MODEL), "float32")


@pytest.fixture(scope="module")
def fleet(there, tmp_path_factory):
    running = start(tmp_path_factory.mktemp("servers"))
    yield running
    running.close()


def engine_on(fleet, tokenizer, lm, **options) -> RemoteEngine:
    size = lm.config.vocab_size
    eos = [tokenizer.eos_token_id]
    return RemoteEngine(
        DIALECT, fleet.urls, eos, size, ROOM, StopStrings(tokenizer, size), patience=240.0, **options
    )


def prompts(tokenizer, number: int) -> list[list[int]]:
    asked = [
        f"{name} has {a} {thing} and gives {b} away. How many {thing} are left?"
        for a in range(11, 31)
        for b, name, thing in ((3, "Ada", "apples"), (7, "Tom", "pens"), (4, "Mia", "books"), (9, "Leo", "coins"),
                               (2, "Zoe", "stones"))
    ][:number]  # fmt: skip
    chats = [[{"role": "user", "content": text}] for text in asked]
    return [
        tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=True)["input_ids"]
        for c in chats
    ]


def asked(prefixes, max_tokens: int, sampling=GREEDY, **options) -> list[Request]:
    return [
        Request(i, p, max_tokens, place_key(0, 0, str(i), [(len(p), 0)]), sampling, tree=i, **options)
        for i, p in enumerate(prefixes)
    ]


def test_the_server_fits_and_what_does_not_is_found(fleet, tokenizer, lm):
    engine = engine_on(fleet, tokenizer, lm)
    config = EngineConfig(kind="vllm", urls=fleet.urls)
    check_server(engine, engine.servers[0], tokenizer, config)
    engine.max_context = 4096
    with pytest.raises(UserError, match=f"context of {ROOM} tokens"):
        check_server(engine, engine.servers[0], tokenizer, config)
    engine.max_context = ROOM
    with pytest.raises(UserError, match="gives raw log-probabilities"):
        check_server(
            engine, engine.servers[0], tokenizer, config.model_copy(update={"logprobs": "processed"})
        )
    engine.close()


def test_greedy_tokens_over_200_prefixes_are_the_local_engines_but_for_ties(fleet, tokenizer, lm):
    """100 prompts, and 100 prefixes inside completions; a difference must be between two tokens that are as likely."""
    engine = engine_on(fleet, tokenizer, lm)
    local = LocalEngine(lm, [tokenizer.eos_token_id], 32, ROOM, tokenizer=tokenizer)
    first = prompts(tokenizer, 100)
    inside = [
        [*p, *c.token_ids[: 3 + i % 9]]
        for i, (p, c) in enumerate(zip(first, local.sample(asked(first, 12)), strict=False))
    ]
    prefixes = [*first, *inside]
    assert len(prefixes) == 200
    ours, theirs = local.sample(asked(prefixes, 24)), engine.sample(asked(prefixes, 24))
    engine.close()
    ties, furthest = [], 0.0
    for prefix, a, b in zip(prefixes, ours, theirs, strict=True):
        same = next(
            (i for i, (x, y) in enumerate(zip(a.token_ids, b.token_ids, strict=False)) if x != y), None
        )
        count = len(a.token_ids) if same is None else same
        gaps = [abs(p - q) for p, q in zip(a.logprobs_full[:count], b.logprobs_full[:count], strict=False)]
        furthest = max(furthest, *gaps, 0.0)
        if same is not None:
            with torch.inference_mode():
                logits = lm(torch.tensor([[*prefix, *a.token_ids[:same]]])).logits[0, -1]
            ties.append(abs(float(logits[a.token_ids[same]] - logits[b.token_ids[same]])))
        else:
            assert a.stop_reason == b.stop_reason
    print(f"200 prefixes: {len(ties)} near-ties {ties}, log-probabilities within {furthest:.2g}")
    assert all(gap < 1e-3 for gap in ties) and len(ties) <= 4
    assert furthest < 1e-3


def test_first_tokens_at_temperature_1_have_the_models_frequencies(fleet, tokenizer, lm):
    """Chi-square over the tokens that 600 draws meet at least five times, the others as one; limit of 1 in 10,000."""
    prefix = [*prompts(tokenizer, 1)[0], *tokenizer("The", add_special_tokens=False).input_ids]
    engine = engine_on(fleet, tokenizer, lm)
    requests = [
        Request(i, prefix, 1, place_key(0, 0, "chi", [(len(prefix), i)]), tree="chi") for i in range(600)
    ]
    drawn = Counter(c.token_ids[0] for c in engine.sample(requests))
    engine.close()
    with torch.inference_mode():
        p = torch.softmax(lm(torch.tensor([prefix])).logits[0, -1].double(), -1)
    often = [t for t in p.argsort(descending=True).tolist() if 600 * p[t] >= 5]
    expected = [600 * float(p[t]) for t in often] + [600 * (1 - float(p[often].sum()))]
    seen = [drawn[t] for t in often] + [600 - sum(drawn[t] for t in often)]
    chi = sum((s - e) ** 2 / e for s, e in zip(seen, expected, strict=True))
    freedom = len(seen) - 1
    assert freedom >= 3
    limit = freedom + 3.72 * math.sqrt(2 * freedom) + 8  # above the quantile at 1e-4 for any freedom
    assert chi < limit, (chi, freedom, seen, expected)


def test_a_stop_string_ends_a_completion_at_the_same_token_also_across_borders(fleet, tokenizer, lm):
    engine = engine_on(fleet, tokenizer, lm)
    local = LocalEngine(lm, [tokenizer.eos_token_id], 16, ROOM, tokenizer=tokenizer)
    prefixes = prompts(tokenizer, 24)
    whole = [tokenizer.decode(c.token_ids) for c in local.sample(asked(prefixes, 32))]
    stops = tuple({text[8:12] for text in whole if len(text) > 20})  # four characters, wherever tokens begin
    ours = local.sample(asked(prefixes, 32, stop_strings=stops))
    theirs = engine.sample(asked(prefixes, 32, stop_strings=stops))
    engine.close()
    assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
    assert Counter(c.stop_reason for c in theirs)["stop"] >= 20


def changed(lm):
    """The same model with weights that say something else, and still sense."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, p in lm.named_parameters():
            if name.endswith("down_proj.weight"):
                p.add_(0.02 * p.std() * torch.randn_like(p))


def test_weights_arrive_and_a_server_that_was_killed_gets_them_back(there, tokenizer, tmp_path):
    lm = load_model(str(MODEL), "float32")
    running = start(tmp_path / "servers")
    engine = engine_on(running, tokenizer, lm)
    probe = prompts(tokenizer, 1)[0]
    sender = Sender(
        engine, lm, lambda to: save(lm, tokenizer, to), tmp_path / "weights", probe, tolerance=0.01
    )
    engine.install, engine.sync = sender.install, sender.restore
    engine.load_weights(0)
    changed(lm)
    with pytest.raises(UserError, match=r"answers with other weights|with the weights before"):
        sender.prove(engine.servers[0])  # the trainer has moved, the server has not heard of it
    engine.load_weights(1)
    prefixes = prompts(tokenizer, 8)
    local = LocalEngine(lm, [tokenizer.eos_token_id], 8, ROOM)
    expected = [c.token_ids for c in local.sample(asked(prefixes, 16))]
    assert [c.token_ids for c in engine.sample(asked(prefixes, 16))] == expected
    server = running.processes[0]
    arguments = server.args
    engine.submit(asked(prefixes, 16))
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    assert isinstance(arguments, list)
    environment = {**os.environ, **DIALECT.command(str(MODEL), 1, ROOM, "", "raw", 0, "", "127.0.0.1", 0)[1]}
    with (tmp_path / "again.log").open("wb") as log:
        again = subprocess.Popen(arguments, stdout=log, stderr=log, env=environment, start_new_session=True)
    done: dict = {}
    while len(done) < len(prefixes):
        done |= {c.id: c for c in engine.poll()}
    assert [done[i].token_ids for i in range(len(prefixes))] == expected
    assert again.poll() is None
    engine.close()
    os.killpg(again.pid, signal.SIGTERM)
    again.wait(timeout=60)
    running.close()


def test_an_adapter_is_exchanged_between_two_rounds(there, tokenizer, tmp_path):
    running = start(tmp_path / "servers", rank=8)
    lm = get_peft_model(
        load_model(str(MODEL), "float32"), LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
    ).eval()
    plain = lm.get_base_model()
    engine = engine_on(running, tokenizer, plain)
    probe = prompts(tokenizer, 1)[0]
    sender = Sender(
        engine, plain, lambda to: lm.save_pretrained(str(to)), tmp_path / "weights", probe, as_adapter=True,
        tolerance=0.01,
    )  # fmt: skip
    engine.install = sender.install
    said = []
    prefixes = prompts(tokenizer, 6)
    for version in range(2):
        torch.manual_seed(version)
        with torch.no_grad():
            for name, p in lm.named_parameters():
                if "lora_B" in name:
                    p.normal_(0, 0.01 * (version + 1))
        engine.load_weights(version)
        local = LocalEngine(lm, [tokenizer.eos_token_id], 8, ROOM)
        said.append([c.token_ids for c in engine.sample(asked(prefixes, 12))])
        assert said[-1] == [c.token_ids for c in local.sample(asked(prefixes, 12))]
    assert said[0] != said[1]
    assert engine.served == "policy-1"
    engine.close()
    running.close()
