"""Coq's XML protocol, as coqidetop 8.16 speaks it: calls out, values and messages in.

All that a candidate can make Coq say is escaped inside the answer, so that no message is a value.
"""

import html
import re
from typing import NamedTuple

END = "</value>"
_TAG = re.compile(r"<[^>]*>")
_VALUE = re.compile(r'<value val="(good|fail)"([^>]*)>(.*)</value>', re.S)
_STATE = re.compile(r'<state_id val="(\d+)"/>')
_MESSAGE = re.compile(
    r'<feedback object="\w+" route="(\d+)">(?:(?!</feedback>).)*?<message_level val="(\w+)"/>'
    r"(?:(?!</feedback>).)*?<richpp>(.*?)</richpp>",
    re.S,
)
_GOAL = re.compile(r"<goal><string>[^<]*</string>(.*?)</goal>", re.S)
_RICH = re.compile(r"<richpp>(.*?)</richpp>", re.S)
ROUTE = 1  # of our own questions; what tactics print goes to route 0


class Value(NamedTuple):
    """An answer: is it good, the state that it names (0: none), an error's text, and the whole."""

    good: bool
    state: int
    error: str
    body: str
    whole: str


def init() -> bytes:
    """Start; the answer names the root state."""
    return b'<call val="Init"><option val="none"/></call>'


def add(sentence: str, state: int) -> bytes:
    """Parse the first sentence of a text behind a state; it is run when something is asked of it."""
    text = html.escape(sentence)
    return (
        f'<call val="Add"><pair><pair><pair><pair><string>{text}</string><int>-1</int></pair><pair><state_id val="{state}"/>'
        '<bool val="true"/></pair></pair><int>0</int></pair><pair><int>0</int><int>0</int></pair></pair></call>'
    ).encode()


def goal() -> bytes:
    """Run all that was added; the goals that are left."""
    return b'<call val="Goal"><unit/></call>'


def back_to(state: int) -> bytes:
    """Forget all behind a state."""
    return f'<call val="Edit_at"><state_id val="{state}"/></call>'.encode()


def query(command: str, state: int) -> bytes:
    """A command of ours that changes nothing; what it says comes as messages of ROUTE."""
    return (
        f'<call val="Query"><pair><route_id val="{ROUTE}"/><pair><string>{html.escape(command)}</string>'
        f'<state_id val="{state}"/></pair></pair></call>'
    ).encode()


def value(answer: bytes) -> Value:
    """The value of an answer. Raises ValueError where there is none."""
    text = answer.decode("utf-8", "replace")
    start = text.rfind("<value ")
    match = _VALUE.match(text, start) if start >= 0 else None
    if match is None:
        raise ValueError(f"Coq answered without a value: {text[-200:]!r}")
    state = _STATE.search(match[3])
    error = _plain(match[3]) if match[1] == "fail" else ""
    return Value(match[1] == "good", int(state[1]) if state else 0, error, match[3], text)


def messages(whole: str) -> list[str]:
    """What our own query said: notices of ROUTE."""
    return [_plain(m[3]) for m in _MESSAGE.finditer(whole) if m[1] == str(ROUTE) and m[2] == "notice"]


def goals(body: str) -> list[str]:
    """Each goal in focus as "hypotheses |- conclusion"."""
    found = []
    for match in _GOAL.finditer(body):
        texts = [_plain(rich) for rich in _RICH.findall(match[1])]
        if texts:
            found.append(f"{', '.join(texts[:-1])} |- {texts[-1]}".strip())
    return found


def has_goals(body: str) -> bool:
    """Is any goal left: in focus, behind a bullet, shelved or given up?"""
    return "<goal>" in body


def is_in_proof(body: str) -> bool:
    """Is a proof open?"""
    return 'val="some"' in body[:40]


def _plain(rich: str) -> str:
    return html.unescape(_TAG.sub("", rich)).replace("\xa0", " ").strip()
