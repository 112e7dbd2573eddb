"""OpenAI's protocol: what a request may say, and what an answer, a piece of a stream and an error look like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reasoner.serving.answerer import Answer

ROLES = ("system", "developer", "user", "assistant")
MAX_BYTES = 1 << 20  # of a request
PIECE = 40  # characters of a streamed piece
# what a budget of thinking is called: by vLLM, and by Qwen's own service
BUDGETS = ("thinking_token_budget", "thinking_budget")


class Refused(Exception):
    """A request that is not answered: HTTP status, what was wrong, and the parameter at fault."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Asked:
    """What a request asks for; `messages` of a chat, or one `prompt` that is continued as it stands."""

    model: str
    messages: tuple[dict[str, str], ...]
    prompt: str
    max_tokens: int | None
    seed: int
    stream: bool
    with_usage: bool
    thinking_budget: int | None = None

    @property
    def is_chat(self) -> bool:
        return bool(self.messages)

    @property
    def question(self) -> str:
        return self.messages[-1]["content"] if self.messages else self.prompt


def read(body: bytes, model: str, is_chat: bool) -> Asked:
    """A request by its JSON. Raises Refused, with 400 for what cannot be and 404 for another model's name."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise Refused(400, f"the body is no JSON ({type(problem).__name__})") from problem
    if not isinstance(given, dict):
        raise Refused(400, "the body is no JSON object")
    if given.get("model", model) != model:
        raise Refused(
            404,
            f"got the model {str(given['model'])[:100]!r}; expected {model!r}",
            "model",
            "model_not_found",
        )
    if given.get("n", 1) != 1:
        raise Refused(400, "got n other than 1; expected 1: the method draws several and chooses", "n")
    longest = given.get("max_completion_tokens", given.get("max_tokens"))
    seed = given.get("seed") or 0
    stream = given.get("stream")
    called = next((name for name in BUDGETS if given.get(name) is not None), BUDGETS[0])
    thoughts = given.get(called)
    for name, value, is_fit, expected in (
        (
            "max_tokens",
            longest,
            longest is None or (_is_int(longest) and longest >= 1),
            "a whole number above 0",
        ),
        ("seed", seed, _is_int(seed), "a whole number"),
        (
            called,
            thoughts,
            thoughts is None or (_is_int(thoughts) and thoughts >= -1),
            "a whole number of tokens, or -1 for no limit",
        ),
        ("stream", stream, isinstance(stream, bool | None), "true or false"),
    ):
        if not is_fit:
            raise Refused(400, f"got {name}={json.dumps(value)[:100]}; expected {expected}", name)
    options = given.get("stream_options") or {}
    return Asked(
        model,
        _messages(given.get("messages")) if is_chat else (),
        "" if is_chat else _prompt(given.get("prompt")),
        longest,
        seed,
        bool(stream),
        isinstance(options, dict) and bool(options.get("include_usage")),
        None if thoughts == -1 else thoughts,
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _prompt(given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise Refused(400, "got no prompt; expected one text", "prompt")
    return given


def _messages(given: Any) -> tuple[dict[str, str], ...]:
    if not isinstance(given, list) or not given:
        raise Refused(400, "got no messages; expected a list of them", "messages")
    found = []
    for i, message in enumerate(given):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise Refused(400, f"messages.{i} has no role of {', '.join(ROLES)}", "messages")
        found.append(
            {"role": "system" if role == "developer" else role, "content": _text(message.get("content"), i)}
        )
    if found[-1]["role"] != "user":
        raise Refused(400, f"the last message is the {found[-1]['role']}'s; expected the user's", "messages")
    return tuple(found)


def _text(content: Any, i: int) -> str:
    """The text of a message; parts of text are joined."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    given = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    texts = [text for text in given if isinstance(text, str)]
    if not parts or len(texts) != len(parts):
        raise Refused(400, f"messages.{i} has content that is no text; expected text", "messages")
    return "".join(texts)


def usage(answer: Answer) -> dict[str, Any]:
    """Tokens spent on all that was drawn; what is not part of the answer itself counts as reasoning.

    What was put in to close thoughts was not drawn, and is not counted.
    """
    return {
        "prompt_tokens": answer.prompt,
        "completion_tokens": answer.drawn,
        "total_tokens": answer.prompt + answer.drawn,
        "completion_tokens_details": {"reasoning_tokens": max(0, answer.drawn - answer.own)},
    }


def whole(asked: Asked, answer: Answer, id: str, now: int) -> dict[str, Any]:
    """The body of an answer that is not streamed; `reasoner` tells votes, confidence and counts."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": _finish(answer), "logprobs": None}
    if asked.is_chat:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice["message"] = {**message, "reasoning_content": answer.thinking} if answer.thinking else message
    else:
        choice["text"] = answer.solved.text
    return {
        **_head(asked, id, now, ""),
        "choices": [choice],
        "usage": usage(answer),
        "reasoner": _told(answer),
    }


def pieces(asked: Asked, answer: Answer, id: str, now: int) -> Iterator[dict[str, Any]]:
    """The bodies of a stream: thinking, text, the reason of its end, and the usage where it was asked for."""
    head = _head(asked, id, now, ".chunk")
    texts = (
        [("reasoning_content", answer.thinking), ("content", answer.text)]
        if asked.is_chat
        else [("text", answer.solved.text)]
    )
    if asked.is_chat:
        yield {
            **head,
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        }
    for name, text in texts:
        for start in range(0, len(text), PIECE):
            part = {name: text[start : start + PIECE]}
            yield {
                **head,
                "choices": [
                    {"index": 0, **({"delta": part} if asked.is_chat else part), "finish_reason": None}
                ],
            }
    last = {"delta": {}} if asked.is_chat else {"text": ""}
    yield {
        **head,
        "choices": [{"index": 0, **last, "finish_reason": _finish(answer)}],
        "reasoner": _told(answer),
    }
    if asked.with_usage:
        yield {**head, "choices": [], "usage": usage(answer)}


def _head(asked: Asked, id: str, now: int, suffix: str) -> dict[str, Any]:
    kind = f"chat.completion{suffix}" if asked.is_chat else "text_completion"
    return {"id": id, "object": kind, "created": now, "model": asked.model}


def _finish(answer: Answer) -> str:
    return "stop" if answer.is_whole else "length"


def _told(answer: Answer) -> dict[str, Any]:
    choice = answer.solved.choice
    return {
        "answer": choice.answer, "votes": choice.votes, "confidence": choice.confidence,
        "counts": answer.solved.counts, "seconds": answer.solved.seconds,
    }  # fmt: skip
