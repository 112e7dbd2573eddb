"""A small server that speaks vLLM's or SGLang's interface over a model of two layers: what real ones cannot be made to do.

It fails when it is told to: ignores new weights, answers with 5xx, gives no log-probabilities. `python stand_in.py
serve FOLDER --port PORT` runs one in a process of its own, as vLLM is started; `program` is such a vllm. The real one is
tried in test_vllm_server.py.
"""

import argparse
import contextlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Request, Sampling
from reasoner.policy.adapters import load_merged
from reasoner.policy.models import load_model, load_tokenizer


class StandIn:
    """State of one server: the engines by the name that requests call them, and its faults."""

    def __init__(self, folder: str, max_context: int = 128, processed: bool = False):
        self.tokenizer, self.max_context, self.processed = load_tokenizer(folder), max_context, processed
        self.engines = {"policy": self._engine(load_model(folder, "float32"))}
        self.lock = threading.Lock()
        self.ignores_updates, self.takes_updates = False, True
        self.gives_logprobs, self.fails = True, 0  # `fails`: so many draws end with a 503
        self.calls: list[str] = []
        self.asked: list[dict] = []

    def _engine(self, lm) -> LocalEngine:
        return LocalEngine(lm, [], 8, self.max_context, tokenizer=self.tokenizer)

    def draw(
        self, name: str, ids, max_tokens, sampling: Sampling, seed, stop_ids, stops
    ) -> tuple[list, list, str]:
        request = Request(0, ids, max_tokens, seed, sampling, frozenset(stop_ids), tuple(stops or ()))
        with self.lock:
            done = self.engines[name].sample([request])[0]
        said = done.logprobs if self.processed else done.logprobs_full
        return list(done.token_ids), list(said), "length" if done.stop_reason == "length" else "stop"

    def score(self, name: str, ids) -> list[float]:
        with self.lock:
            return self.engines[name].score([ids])[0]

    def reload(self, folder: str) -> None:
        if not self.ignores_updates:
            self.engines["policy"] = self._engine(load_model(folder, "float32"))


def vllm(server: StandIn, path: str, body: dict) -> tuple[int, dict]:
    """(status, answer) of one call in vLLM's interface."""
    if path == "/v1/models":
        names = [{"id": name, "max_model_len": server.max_context} for name in server.engines]
        return 200, {"data": names}
    if path == "/tokenize":
        return 200, {"tokens": server.tokenizer(body["prompt"], add_special_tokens=False).input_ids}
    if path == "/collective_rpc" and not server.takes_updates:  # without VLLM_SERVER_DEV_MODE
        return 404, {"detail": "Not Found"}
    if path == "/collective_rpc":
        server.reload(body["kwargs"]["weights_path"])
    elif path == "/v1/load_lora_adapter":
        server.engines[body["lora_name"]] = server._engine(load_merged(body["lora_path"], "float32"))
    elif path == "/v1/unload_lora_adapter":
        del server.engines[body["lora_name"]]
    elif path == "/v1/completions":
        return _vllm_completion(server, body)
    return 200, {}


def _vllm_completion(server: StandIn, body: dict) -> tuple[int, dict]:
    if "prompt_logprobs" in body:
        ids = body["prompt"]
        places = [
            None,
            *(
                {str(t): {"logprob": p}}
                for t, p in zip(ids[1:], server.score(body["model"], ids), strict=True)
            ),
        ]
        return 200, {"choices": [{"prompt_token_ids": ids, "prompt_logprobs": places}]}
    if len(body["stop"] or ()) > 4:  # as vLLM's
        return 400, {"error": {"message": "List should have at most 4 items after validation"}}
    sampling = Sampling(*(body[k] for k in ("temperature", "top_k", "top_p", "min_p")))
    ids, logprobs, why = server.draw(
        body["model"],
        body["prompt"],
        body["max_tokens"],
        sampling,
        body["seed"],
        body["stop_token_ids"],
        body["stop"],
    )
    told = {"token_logprobs": logprobs, "top_logprobs": None} if server.gives_logprobs else None
    return 200, {"choices": [{"token_ids": ids, "logprobs": told, "finish_reason": why}]}


def sglang(server: StandIn, path: str, body: dict) -> tuple[int, dict]:
    """(status, answer) of one call in SGLang's interface."""
    if path == "/v1/models":
        return 200, {"data": [{"id": "policy", "max_model_len": server.max_context}]}
    if path == "/update_weights_from_disk":
        server.reload(body["model_path"])
    elif path == "/generate":
        ids, p = body["input_ids"], body["sampling_params"]
        if "logprob_start_len" in body:
            told = [
                [None, ids[0], None],
                *([lp, t, None] for t, lp in zip(ids[1:], server.score("policy", ids), strict=True)),
            ]
            return 200, {"meta_info": {"input_token_logprobs": told}}
        sampling = Sampling(p["temperature"], max(0, p["top_k"]), p["top_p"], p["min_p"])
        new, logprobs, why = server.draw(
            "policy", ids, p["max_new_tokens"], sampling, p["sampling_seed"], p["stop_token_ids"], p["stop"]
        )
        pairs = [[lp, t, None] for t, lp in zip(new, logprobs, strict=True)]
        return 200, {
            "output_ids": new,
            "meta_info": {"output_token_logprobs": pairs, "finish_reason": {"type": why}},
        }
    return 200, {}


TALKS = {"vllm": vllm, "sglang": sglang}


def serve(
    server: StandIn, port: int = 0, kind: str = "vllm", address: str = "127.0.0.1"
) -> ThreadingHTTPServer:
    """Answer at an address of this machine in a thread of its own; the caller shuts it down."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._answer({})

        def do_POST(self):
            length = int(self.headers.get("Content-Length") or 0)
            self._answer(json.loads(self.rfile.read(length) or b"{}"))

        def _answer(self, body):
            path = self.path.split("?")[0]
            server.calls.append(path)
            is_draw = path in ("/v1/completions", "/generate")
            if is_draw:
                server.asked.append(body)
            if is_draw and server.fails > 0:
                server.fails -= 1
                status, told = 503, {"error": "told to fail"}
            elif is_draw and body.get("model", "policy") not in server.engines:
                status, told = 404, {"error": f"no model {body['model']}"}
            else:
                status, told = TALKS[kind](server, path, body)
            text = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # of a caller that has given up
                self.wfile.write(text)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # connections that come together; 5 by default, the others are reset
        daemon_threads = True

    http = Server((address, port), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    return http


def program(folder: Path) -> str:
    """A program in `folder` that is started as vLLM's is, for engine.executable."""
    path = folder / "vllm"
    path.write_text(f'#!/bin/sh\necho "asked: $@"\nexec {sys.executable} {__file__} "$@"\n')
    path.chmod(0o755)
    return str(path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = argparse.ArgumentParser()
    options.add_argument("serve")
    options.add_argument("model")
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int)
    options.add_argument("--max-model-len", type=int, default=128)
    options.add_argument("--logprobs-mode", default="raw_logprobs")
    given, _ = options.parse_known_args()
    standing = StandIn(given.model, given.max_model_len, given.logprobs_mode == "processed_logprobs")
    running = serve(standing, given.port, address=given.host)
    print("ready", flush=True)
    threading.Event().wait()
