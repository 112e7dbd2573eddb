"""What a check finds, how bad it is, and where in the config it stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from reasoner.store import no_utf8

SEVERITIES = ("note", "warning", "error")  # the exit code is 0, 1 or 2 by the worst of them


class Finding(NamedTuple):
    """`key` is the dotted key that it is about, empty where it is about none; `remedy` says what to do."""

    check: str
    severity: str
    key: str
    text: str
    remedy: str


def exit_code(found: Sequence[Finding]) -> int:
    return max((SEVERITIES.index(f.severity) for f in found), default=0)


def line_of(path: Path | None, key: str, overrides: Sequence[str] = ()) -> str:
    """Where a key stands: the line of the file, of its nearest parent where it has its default, or the command line."""
    if any(o.partition("=")[0].strip() == key for o in overrides):
        return "command line"
    if path is None or not key:
        return ""
    data = path.read_bytes()
    if no_utf8(data):
        return ""
    node = yaml.compose(data.decode("utf-8-sig"), yaml.SafeLoader)
    line = None
    for part in key.split("."):
        found = _child(node, part)
        if found is None:
            break
        line, node = found
    return f"{path}, line {line}" if line is not None else ""


def _child(node: yaml.Node | None, part: str) -> tuple[int, yaml.Node] | None:
    """(line, node) of a key or list index below a node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
        value = node.value[int(part)]
        return value.start_mark.line + 1, value
    return None
