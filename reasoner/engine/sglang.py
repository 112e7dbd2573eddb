"""SGLang's native HTTP interface: token ids in and out through /generate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasoner.engine.dialect import Ask, Call, Dialect, Reply
from reasoner.engine.protocol import Request


def _ask(request: Request, ask: Ask) -> Call:
    sampling = request.sampling
    body = {
        "input_ids": list(request.prefix_ids),
        "sampling_params": {
            "max_new_tokens": request.max_tokens,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k or -1,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "sampling_seed": ask.seed % (1 << 31),
            "ignore_eos": True,  # the ends are ours, all of them in stop_token_ids
            "stop_token_ids": list(ask.stop_ids),
            "stop": list(request.stop_strings) or None,
            "no_stop_trim": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        },
        "return_logprob": True,
        "top_logprobs_num": ask.num_top,
    }
    return Call("/generate", body if ask.model in ("", "policy") else {**body, "lora_path": ask.model})


def _read(answer: dict[str, Any]) -> Reply:
    meta = answer["meta_info"]
    drawn = meta["output_token_logprobs"]
    top = tuple({t: p for p, t, *_ in place} for place in meta.get("output_top_logprobs") or () if place)
    why = meta["finish_reason"]
    why = why["type"] if isinstance(why, dict) else why
    return Reply(tuple(t for _, t, *_ in drawn), tuple(p for p, *_ in drawn), why or "abort", top)


def _ask_score(token_ids: Sequence[int], model: str) -> Call:
    body = {
        "input_ids": list(token_ids),
        "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
        "return_logprob": True,
        "logprob_start_len": 0,
    }
    return Call("/generate", body if model in ("", "policy") else {**body, "lora_path": model})


def _command(
    model: str, port: int, max_context: int, dtype: str, logprobs: str, lora_rank: int, executable: str, address: str,
    gpus: int,
) -> tuple[list[str], dict[str, str]]:  # fmt: skip
    arguments = [
        executable, "-m", "sglang.launch_server", "--model-path", model, "--host", address, "--port", str(port),
        "--served-model-name", "policy", "--dtype", dtype, "--context-length", str(max_context),
    ]  # fmt: skip
    if gpus > 1:
        arguments += ["--tensor-parallel-size", str(gpus)]
    if lora_rank:
        arguments += ["--enable-lora", "--max-lora-rank", str(lora_rank)]
    return arguments, {}


DIALECT = Dialect(
    name="sglang",
    ask=_ask,
    read=_read,
    ask_score=_ask_score,
    read_score=lambda answer: [p for p, *_ in answer["meta_info"]["input_token_logprobs"][1:]],
    health=Call("/health", method="GET"),
    describe=Call("/v1/models", method="GET"),
    read_models=lambda told: {m["id"]: m.get("max_model_len") for m in told["data"]},
    tokenize=None,
    pause=[Call("/pause_generation", {})],
    resume=[Call("/continue_generation", {})],
    reset_cache=[Call("/flush_cache", {})],
    reload=lambda folder: [Call("/update_weights_from_disk", {"model_path": folder, "flush_cache": True})],
    load_adapter=lambda name, folder: [Call("/load_lora_adapter", {"lora_name": name, "lora_path": folder})],
    unload_adapter=lambda name: [Call("/unload_lora_adapter", {"lora_name": name})],
    command=_command,
    needs={"/update_weights_from_disk": "a current SGLang", "/load_lora_adapter": "--enable-lora"},
)
