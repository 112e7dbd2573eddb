"""The web application: two questions of OpenAI's protocol, one answer at a time."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Sequence

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from reasoner.engine.asking import ServerGone
from reasoner.registry import UserError
from reasoner.serving.answerer import Answer, Answerer
from reasoner.serving.protocol import BUDGETS, MAX_BYTES, Asked, Refused, pieces, read, whole

logger = logging.getLogger(__name__)

LOCAL = ("127.0.0.1", "localhost", "[::1]")
SIGN_OF_LIFE_S = 10.0  # between comments in a stream whose answer is not chosen yet


def application(answerer: Answerer, model: str, hosts: Sequence[str] = ()) -> Starlette:
    """Routes /v1/models, /v1/chat/completions and /v1/completions for the model that is called `model`.

    The engine draws for one request at a time; others wait their turn. hosts: names beside the local ones by which it
    may be called.
    """
    turn = asyncio.Lock()
    born = int(time.time())

    async def answer(asked: Asked, ids: list[int]) -> Answer:
        async with turn:
            drawing = asyncio.ensure_future(
                run_in_threadpool(
                    answerer.answer, ids, asked.question, asked.max_tokens, asked.seed,
                    thinking_budget=asked.thinking_budget,
                )
            )  # fmt: skip
            try:
                return await asyncio.shield(drawing)
            except asyncio.CancelledError:  # nobody listens any more, but the engine is not free yet
                await asyncio.wait({drawing})
                raise
            except ServerGone as problem:
                logger.error("%s", problem)
                raise Refused(503, "no server that draws for this one answers; ask again later") from problem

    async def ask(request: Request, is_chat: bool) -> Response:
        try:
            asked = read(await _body(request), model, is_chat)
            ids = _prompt_ids(answerer, asked)
            id, now = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}", int(time.time())
            if asked.stream:
                return StreamingResponse(
                    _stream(answer(asked, ids), asked, id, now), media_type="text/event-stream"
                )
            return JSONResponse(whole(asked, await answer(asked, ids), id, now))
        except Refused as problem:
            return JSONResponse(problem.body(), problem.status)

    async def failed(request: Request, problem: Exception) -> Response:
        return JSONResponse(Refused(500, "the server failed; its log says why").body(), 500)

    async def chat(request: Request) -> Response:
        return await ask(request, True)

    async def complete(request: Request) -> Response:
        return await ask(request, False)

    async def models(request: Request) -> Response:
        entry = {"id": model, "object": "model", "created": born, "owned_by": "reasoner"}
        return JSONResponse({"object": "list", "data": [entry]})

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", complete, methods=["POST"]),
        ],
        # a page in the user's browser may neither post here nor come by another name for this machine
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, *hosts])],
        exception_handlers={Exception: failed},
    )


async def _body(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "the request is no application/json; expected that as its content-type")
    found = bytearray()
    try:
        async for part in request.stream():
            found += part
            if len(found) > MAX_BYTES:
                raise Refused(413, f"the request has more than {MAX_BYTES:,} bytes; expected fewer")
    except ClientDisconnect as problem:
        raise Refused(400, "the request was not sent to its end") from problem
    return bytes(found)


def _prompt_ids(answerer: Answerer, asked: Asked) -> list[int]:
    try:
        answerer.thinking(asked.thinking_budget)
    except UserError as problem:
        raise Refused(400, str(problem), BUDGETS[0]) from problem
    try:
        if asked.is_chat:
            return answerer.prompt_ids(asked.messages)
        ids = answerer.solver.prompting.encode(asked.prompt)
        answerer.check_room(ids)
        return ids
    except UserError as problem:
        code = "context_length_exceeded" if "room for an answer" in str(problem) else None
        raise Refused(400, str(problem), "messages" if asked.is_chat else "prompt", code) from problem


async def _stream(coming, asked: Asked, id: str, now: int) -> AsyncIterator[str]:
    """Server-sent events; a comment now and then while the answer is being chosen."""
    waiting = asyncio.ensure_future(coming)
    try:
        while not (await asyncio.wait({waiting}, timeout=SIGN_OF_LIFE_S))[0]:
            yield ": thinking\n\n"
        for piece in pieces(asked, waiting.result(), id, now):
            yield f"data: {json.dumps(piece)}\n\n"
        yield "data: [DONE]\n\n"
    except Refused as problem:
        yield f"data: {json.dumps(problem.body())}\n\n"
    except Exception:
        yield f"data: {json.dumps(Refused(500, 'the server failed; its log says why').body())}\n\n"
        raise
    finally:
        waiting.cancel()
