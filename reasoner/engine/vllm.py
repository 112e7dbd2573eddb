"""vLLM's HTTP interface: token ids in and out through /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasoner.engine.dialect import Ask, Call, Dialect, Reply
from reasoner.engine.protocol import Request
from reasoner.registry import UserError

ID_PREFIX = "token_id:"
MOST_STOPS = 4  # stop strings in a request; a completion is cut at the others when it is there
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the choices of --max-lora-rank in vLLM 0.32


def _ask(request: Request, ask: Ask) -> Call:
    sampling = request.sampling
    return Call(
        "/v1/completions",
        {
            "model": ask.model,
            "prompt": list(request.prefix_ids),
            "max_tokens": request.max_tokens,  # 16 where it is left out
            "seed": ask.seed,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "ignore_eos": True,  # the ends are ours, all of them in stop_token_ids
            "stop_token_ids": list(ask.stop_ids),
            "stop": list(request.stop_strings[:MOST_STOPS]) or None,
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "logprobs": ask.num_top,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        },
    )


def _read(answer: dict[str, Any]) -> Reply:
    choice = answer["choices"][0]
    logprobs = choice.get("logprobs") or {}
    top = tuple(
        {int(key.removeprefix(ID_PREFIX)): value for key, value in place.items()}
        for place in logprobs.get("top_logprobs") or ()
        if place is not None
    )
    return Reply(
        tuple(choice["token_ids"]), tuple(logprobs["token_logprobs"]), choice["finish_reason"] or "abort", top
    )


def _ask_score(token_ids: Sequence[int], model: str) -> Call:
    body = {
        "model": model,
        "prompt": list(token_ids),
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 0,
        "return_token_ids": True,
        "ignore_eos": True,
    }
    return Call("/v1/completions", body)


def _read_score(answer: dict[str, Any]) -> list[float]:
    choice = answer["choices"][0]
    ids = choice["prompt_token_ids"]
    places = choice["prompt_logprobs"]
    return [place[str(token)]["logprob"] for token, place in zip(ids[1:], places[1:], strict=True)]


def _room_for(rank: int) -> int:
    """The least of the ranks that a server makes room for and that holds an adapter of this one."""
    found = next((of for of in LORA_RANKS if of >= rank), None)
    if found is None:
        raise UserError(
            f"lora.r is {rank}, and vLLM serves adapters of rank {LORA_RANKS[-1]} at most; lower lora.r"
        )
    return found


def _command(
    model: str, port: int, max_context: int, dtype: str, logprobs: str, lora_rank: int, executable: str, address: str,
    gpus: int,
) -> tuple[list[str], dict[str, str]]:  # fmt: skip
    arguments = [
        executable, "serve", model, "--host", address, "--port", str(port), "--served-model-name", "policy",
        "--dtype", dtype, "--max-model-len", str(max_context), "--logprobs-mode", f"{logprobs}_logprobs",
    ]  # fmt: skip
    if not gpus:
        # vLLM 0.32 rewinds the generator of a seeded request whose prompt was cut, which CPU generators cannot: it dies
        arguments += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(max(max_context, 2048))]
    if gpus > 1:
        arguments += ["--tensor-parallel-size", str(gpus)]
    if lora_rank:
        arguments += ["--enable-lora", "--max-lora-rank", str(_room_for(lora_rank))]
    environment = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    return arguments, environment


DIALECT = Dialect(
    name="vllm",
    ask=_ask,
    read=_read,
    ask_score=_ask_score,
    read_score=_read_score,
    health=Call("/health", method="GET"),
    describe=Call("/v1/models", method="GET"),
    read_models=lambda told: {m["id"]: m.get("max_model_len") for m in told["data"]},
    tokenize=lambda text, model: Call(
        "/tokenize", {"model": model, "prompt": text, "add_special_tokens": False}
    ),
    pause=[Call("/pause?mode=wait")],
    resume=[Call("/resume")],
    reset_cache=[Call("/reset_prefix_cache")],
    reload=lambda folder: [
        Call("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}})
    ],
    load_adapter=lambda name, folder: [
        Call("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})
    ],
    unload_adapter=lambda name: [Call("/v1/unload_lora_adapter", {"lora_name": name})],
    command=_command,
    needs={
        "/collective_rpc": "VLLM_SERVER_DEV_MODE=1",
        "/reset_prefix_cache": "VLLM_SERVER_DEV_MODE=1",
        "/v1/load_lora_adapter": "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora",
    },
)
