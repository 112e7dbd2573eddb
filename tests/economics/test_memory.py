"""Predicted peaks of memory against live tensor bytes: training steps, a round of PPO, the engine's keys and values."""

import argparse
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.memory import (
    LORA,
    LiveBytes,
    five_models,
    make_base,
    plain_lora,
    policy_stage,
    reward_models,
)
from transformers import AutoConfig, AutoModelForCausalLM

from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.economics.hardware import Hardware
from reasoner.economics.memory import kv_cache_bytes, lora_parameters, training_memory
from reasoner.economics.policy_memory import decoding_copies, engine_memory, policy_memory
from reasoner.engine.kv import POSITIONS, ROWS, capacity
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request
from reasoner.planning.lengths import ProblemSet
from reasoner.planning.needs import need_of
from reasoner.planning.work import Work
from reasoner.policy.adapters import LoRA, load_peft
from reasoner.policy.logprobs import CHUNK_ELEMENTS
from reasoner.policy.models import load_tokenizer
from reasoner.stages.ppo import PPO
from reasoner.trainers import policy_reuse

CLOSE = 0.15
CPU = Hardware(memory_gb=64, bandwidth_gbs=1, tflops=1, dollars_per_hour=0, bits=32)
SMALL = argparse.Namespace(layers=4, width=384, vocab=2048, tokens=192, batch=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small model in a folder, and adapters of it in another."""
    folder = tmp_path_factory.mktemp("memory")
    make_base(folder / "base", SMALL)
    reward_models(folder / "base", folder / "adapters")
    return folder / "base", folder / "adapters"


def check_close(predicted: float, measured: float, what: str) -> None:
    print(f"{what}: predicted {predicted / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB, "
          f"{predicted / measured - 1:+.1%}")  # fmt: skip
    assert predicted == pytest.approx(measured, rel=CLOSE), what


def full_step(path: str, batch: int, tokens: int, checkpointing: bool) -> int:
    """Peak of two steps of AdamW on all weights."""
    with LiveBytes() as live:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        ids_BT = torch.randint(1, 300, (batch, tokens))
        for _ in range(2):
            model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    gc.collect()
    return live.peak


def check_steps(path: str, batch: int, tokens: int) -> None:
    config = AutoConfig.from_pretrained(path)
    args = argparse.Namespace(batch=batch, tokens=tokens)
    for checkpointing in (False, True):
        lora = plain_lora(path, args, checkpointing)
        gc.collect()
        full = full_step(path, batch, tokens, checkpointing)
        for trained, measured in (("lora", lora), ("full", full)):
            predicted = training_memory(
                config, batch * tokens, trained, LORA.r, checkpointing=checkpointing
            ).total
            check_close(predicted, measured, f"a step, {trained}, checkpointing {checkpointing}")


def check_policy(base, adapters, args, monkeypatch, trained: str) -> None:
    """Two rounds, so that the optimizers' moments are there: the sizes of the packed batch are the run's own."""
    shapes = []
    prepare = policy_reuse.prepare

    def noted(samples, *rest):
        batch = prepare(samples, *rest)
        shapes.append((*batch.packed.ids_BT.shape, len(batch.packed.source_N)))
        return batch

    monkeypatch.setattr(policy_reuse, "prepare", noted)
    config = AutoConfig.from_pretrained(base)
    is_lora = trained == "lora"
    for checkpointing in (False, True):
        shapes.clear()
        measured = five_models(base, adapters, args, checkpointing, 2, LORA if is_lora else None)
        gc.collect()
        assert len(shapes) in (2, 3, 4)  # in each of two rounds both trees packed together, or each alone
        rows, longest, sampled = max(shapes, key=lambda shape: shape[0] * shape[1])
        engine = engine_memory(config, args.batch, args.tokens, 4, rows * longest, lora=is_lora)
        predicted = policy_memory(
            config, rows * longest, longest, engine, trained, LORA.r, checkpointing=checkpointing, sampled=sampled,
            micro_batches=1 if len(shapes) == 2 else 2,
        )  # fmt: skip
        check_close(predicted.total, measured, f"five models, {trained}, checkpointing {checkpointing}")
        planned = planned_policy(base, args, checkpointing, LORA if is_lora else None)
        print(f"the same by its config: {planned / 2**20:.0f} MiB")
        # answers that end before max_tokens take less than what is planned
        assert planned > (1 - CLOSE) * measured


def planned_policy(base, args, checkpointing: bool, lora) -> float:
    """What a plan says of the same stage by its config alone, before anything is drawn."""
    prompting = Prompting(load_tokenizer(str(base)), PromptConfig())
    given = policy_stage(prompting, args, checkpointing, 2, lora).model_dump()
    stage = PPO.model_validate({**given, "kind": "ppo", "model": str(base), "prm": "prm", "orm": "orm"})
    prompt = args.tokens - stage.max_tokens
    sets = ProblemSet(args.batch, 0, prompt, prompt, 0)
    work = Work(sequence=float(args.tokens))
    need = need_of(stage, AutoConfig.from_pretrained(base), sets, CPU, work)
    assert need is not None
    return need.total


def check_engine(path: str) -> None:
    """Slots are taken as sequences grow, finished prefixes kept, and some weights laid out anew: within 5 %."""
    config = AutoConfig.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)
    prompts, tokens = [list(range(10 * i + 1, 10 * i + 31)) for i in range(6)], 70
    with LiveBytes() as live:
        engine = LocalEngine(model, [], num_slots=64, max_context=2048)
        engine.submit(Request(i, p, tokens, i) for i, p in enumerate(prompts))
        done: list = []
        while len(done) < len(prompts):
            done += engine.poll()
    kept = sum(30 + len(c.token_ids) - 1 for c in done)
    assert engine.prefixes.num_bytes == kv_cache_bytes(config, kept, 1, 4)
    rows, longest = capacity(len(prompts), 64, ROWS), capacity(29 + tokens, 2048, POSITIONS)
    assert (rows, longest) == (8, 128)
    assert engine.cache.nbytes == kv_cache_bytes(config, longest, rows, 4)
    weights = sum(p.nbytes for p in model.parameters())
    expected = engine_memory(config, rows, longest, 4, kept)
    print(f"the engine: {expected}, measured {live.peak - weights}")
    assert expected.total == pytest.approx(live.peak - weights, rel=0.05)
    engine.release()
    gc.collect()
    assert live.now - weights < 0.01 * expected.total


def check_sharded(path: str, batch: int, tokens: int, out: Path) -> None:
    """Both of two processes over which the weights are cut."""
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(Path(__file__).parent / "sharded_step.py"), path, str(batch), str(tokens), str(out)],
        check=True, env={**os.environ, "PYTHONPATH": paths}, timeout=300,
    )  # fmt: skip
    found = [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [f["world"] for f in found] == [2, 2]
    predicted = training_memory(
        AutoConfig.from_pretrained(path),
        batch * tokens,
        shards=2,
        longest=tokens,
        logit_elements=CHUNK_ELEMENTS,
    ).total
    for one in found:
        check_close(predicted, one["peak"], "a step, cut over two processes")


def four_bit_step(path: str, batch: int, tokens: int, checkpointing: bool) -> int:
    """Peak of two updates of an adapter on a base in 4 bits, once it is loaded."""
    with LiveBytes() as live:
        model = load_peft(path, LoRA(r=LORA.r, alpha=LORA.alpha, four_bit=True))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
        gc.collect()
        live.peak = live.now
        ids_BT = torch.randint(1, 300, (batch, tokens))
        for _ in range(2):
            model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return live.peak


def check_four_bits(path: str, batch: int, tokens: int) -> None:
    config = AutoConfig.from_pretrained(path)
    for checkpointing in (False, True):
        predicted = training_memory(config, batch * tokens, "4bit", LORA.r, checkpointing=checkpointing).total
        measured = four_bit_step(path, batch, tokens, checkpointing)
        check_close(predicted, measured, f"a step on 4 bits, checkpointing {checkpointing}")


def test_training_steps_of_a_small_model(base):
    check_steps(str(base[0]), 2, 192)


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["lora", "full"])
def test_rounds_of_ppo_on_a_small_model(base, monkeypatch, trained):
    check_policy(*base, SMALL, monkeypatch, trained)


def test_the_engine_on_a_small_model(base):
    check_engine(str(base[0]))


@pytest.mark.parametrize("lora", [False, True])
def test_weights_laid_out_for_decoding_are_those_of_the_decoder(base, lora):
    from reasoner.engine.decoder import Decoder

    model = AutoModelForCausalLM.from_pretrained(base[0], dtype=torch.float32)
    if lora:
        model = load_peft(str(base[0]), LORA).get_base_model()
    own = {p.data_ptr() for p in model.parameters()}
    linears = [w for b in Decoder(model, 64).blocks for w in (b.qkv, b.out, b.gate_up, b.down)]
    copied = sum(w.weight.nbytes for w in linears if w.weight.data_ptr() not in own)
    assert copied == decoding_copies(model.config, 4, lora) > 0


def test_adapters_of_named_layers():
    config = AutoConfig.for_model(
        "llama", num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64,
    )  # fmt: skip
    assert lora_parameters(config, 4, ["q_proj", "v_proj"]) == 2 * 4 * (32 + 32 + 32 + 16)
    assert lora_parameters(config, 4, "up_proj") == 2 * 4 * (32 + 48)
    assert lora_parameters(config, 4, ["query"]) == 0


@pytest.mark.real
def test_training_steps_of_a_real_model(real_model):
    check_steps(real_model, 1, 192)


@pytest.mark.real
@pytest.mark.parametrize("trained", ["lora", "full"])
def test_rounds_of_ppo_on_a_real_model(real_model, tmp_path, monkeypatch, trained):
    reward_models(real_model, tmp_path)
    args = argparse.Namespace(tokens=192, batch=2)
    check_policy(real_model, tmp_path, args, monkeypatch, trained)


@pytest.mark.real
def test_the_engine_on_a_real_model(real_model):
    check_engine(real_model)


@pytest.mark.slow
def test_a_step_of_a_small_model_cut_over_two_processes(base, tmp_path):
    check_sharded(str(base[0]), 2, 192, tmp_path)


@pytest.mark.real
def test_a_step_of_a_real_model_cut_over_two_processes(real_model, tmp_path):
    check_sharded(real_model, 1, 192, tmp_path)


@pytest.mark.real
def test_a_step_of_a_real_model_in_4_bits(real_model):
    pytest.importorskip(
        "bitsandbytes", reason="bitsandbytes is not installed (pip install 'reasoner[qlora]')"
    )
    check_four_bits(real_model, 1, 192)
