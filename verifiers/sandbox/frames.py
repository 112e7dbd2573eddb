"""Messages over a stream: a JSON header and byte blobs, both with their lengths first."""

import json
import os
import struct

MAX_FRAME = 64 << 20
_PREFIX = struct.Struct("=II")


def pack(header: dict, *blobs: bytes) -> bytes:
    """One message. Raises ValueError past MAX_FRAME."""
    head = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    total = len(head) + sum(map(len, blobs))
    if total > MAX_FRAME:
        raise ValueError(f"message of {total} bytes, at most {MAX_FRAME}; send less")
    return b"".join((_PREFIX.pack(len(head), total), head, *blobs))


def write(fd: int, message: bytes) -> None:
    """All of the message. Raises OSError when the other side is gone."""
    view = memoryview(message)
    while view:
        view = view[os.write(fd, view) :]


def read(fd: int) -> tuple[dict, list[bytes]] | None:
    """The next message (header, blobs), None at the end of the stream."""
    prefix = _read_exactly(fd, _PREFIX.size)
    if prefix is None:
        return None
    head_size, total = _PREFIX.unpack(prefix)
    if total > MAX_FRAME or head_size > total:
        raise ValueError(f"message of {total} bytes, at most {MAX_FRAME}")
    body = _read_exactly(fd, total)
    if body is None:
        return None
    header = json.loads(body[:head_size])
    blobs = []
    at = head_size
    for size in header.pop("blobs"):
        blobs.append(body[at : at + size])
        at += size
    return header, blobs


def _read_exactly(fd: int, size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
