"""Assert suites across two children: the tests in one, the candidate in the other.

The tests' child holds expected values and decides; it sees the candidate's functions as `Remote`
objects, whose calls travel as plain data over a pipe. The candidate's child holds the candidate and
never a test. So an object that claims to equal everything stays where it was made: what arrives is
plain data, or a Remote, which equals nothing.
"""

import builtins
import os
import struct

from verifiers.sandbox import children, values

_LENGTH = struct.Struct("=I")
_MAX_ITEMS = 100_000
_MAX_HANDLES = 100_000


class Gone(Exception):
    """The other child does not answer any more."""


def _send(value, handle=None) -> None:
    data = values.encode(value, handle)
    view = memoryview(_LENGTH.pack(len(data)) + data)
    while view:
        view = view[os.write(children.LINK_OUT, view) :]


def _receive(handle=None):
    (size,) = _LENGTH.unpack(_exactly(_LENGTH.size))
    if size > values.MAX_BYTES:
        raise Gone(f"a message of {size} bytes")
    return values.decode(_exactly(size), handle)


def _exactly(size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = os.read(children.LINK_IN, size - len(parts))
        if not part:
            raise Gone("the candidate's process has ended")
        parts += part
    return parts


# --- the candidate's child ---


def run_candidate(nonce: bytes, job: dict, blobs: list[bytes]) -> None:
    """Execute the candidate, then answer requests about its names until the link closes."""
    code = blobs[0].decode("utf-8", "replace")
    module = children._fresh_main("solution.py", code)

    def action() -> bytes:
        failed = None
        try:
            exec(compile(code, "solution.py", "exec", dont_inherit=True), module.__dict__)
        except (Exception, SystemExit) as problem:
            children._report(skip=1)
            failed = ("raise", type(problem).__name__, str(problem)[:500])
        _serve(module.__dict__, failed)
        return b""

    children._guarded(nonce, action)


def _serve(names: dict, failed) -> None:
    kept: list = []

    def keep(value) -> int:
        if len(kept) >= _MAX_HANDLES:
            raise values.NotPlain("too many objects")
        kept.append(value)
        return len(kept) - 1

    while True:
        try:
            operation, target, arguments, named = _receive(kept.__getitem__)
        except Gone:
            return
        if failed is not None:
            _send(failed)
            continue
        try:
            result = _OPERATIONS[operation](names, target, arguments, named)
            reply = ("ok", result)
        except RecursionError:
            reply = ("raise", "RecursionError", "")
        except (Exception, SystemExit) as problem:
            children._report(skip=1)
            reply = ("raise", type(problem).__name__, str(problem)[:500])
        try:
            _send(reply, keep)
        except values.NotPlain as problem:
            _send(("raise", "TypeError", f"the result is {problem}"))


def _name(names, target, arguments, named):
    if target not in names:
        raise NameError(target)
    return names[target]


_OPERATIONS = {
    "name": _name,
    "call": lambda names, target, arguments, named: target(*arguments, **named),
    "get": lambda names, target, arguments, named: getattr(target, arguments),
    "set": lambda names, target, arguments, named: setattr(target, *arguments),
    "item": lambda names, target, arguments, named: target[arguments],
    "size": lambda names, target, arguments, named: len(target),
    "items": lambda names, target, arguments, named: _bounded(target),
}


def _bounded(iterable) -> list:
    taken = []
    for item in iterable:
        taken.append(item)
        if len(taken) > _MAX_ITEMS:
            raise OverflowError("more items than a test may take")
    return taken


# --- the tests' child ---


class Remote:
    """Something of the candidate's that is no plain data. Equal only to itself; of unknown truth."""

    __slots__ = ("_number",)

    def __init__(self, number: int):
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments, **named):
        return _ask("call", self, arguments, named)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _ask("get", self, name, {})

    def __setattr__(self, name, value):
        _ask("set", self, (name, value), {})

    def __getitem__(self, key):
        return _ask("item", self, key, {})

    def __len__(self):
        size = _ask("size", self, (), {})
        if type(size) is not int or not 0 <= size <= _MAX_ITEMS:
            raise TypeError("the candidate's object has no length")
        return size

    def __iter__(self):
        items = _ask("items", self, (), {})
        return iter(items if type(items) is list else [])

    def __bool__(self):
        raise TypeError("the candidate returned an object, expected plain data")


_remotes: dict[int, Remote] = {}


def _remote(number: int) -> Remote:
    # The same handle is the same object here, so that `is` and identity comparisons hold.
    return _remotes.setdefault(number, Remote(number))


def _number(value) -> int:
    if type(value) is not Remote:
        raise values.NotPlain(f"a test's value of type {type(value).__name__}")
    return object.__getattribute__(value, "_number")


def _ask(operation: str, target, arguments, named):
    _send((operation, target, arguments, named), _number)
    reply = _receive(_remote)
    if type(reply) is not tuple or not reply or reply[0] not in ("ok", "raise"):
        raise Gone("the candidate's process sent no reply")
    if reply[0] == "ok":
        return reply[1]
    kind = getattr(builtins, str(reply[1]), None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError
    raise kind(f"{reply[1]}: {reply[2]}")


class _Names(dict):
    """The tests' globals: what the tests do not define is the candidate's."""

    def __missing__(self, name):
        # A builtin is ours, unless the tests are about a function of that name.
        if hasattr(builtins, name) and name not in self["__entries__"]:
            raise KeyError(name)
        try:
            found = _ask("name", name, (), {})
        except NameError as problem:
            raise KeyError(name) from problem
        return found


def run_tests(nonce: bytes, job: dict, blobs: list[bytes]) -> None:
    """Execute prelude and tests; "done" says that every statement of them was reached.

    job: entries (names that are the candidate's even where the prelude or Python defines them).
    """
    prelude, tests = (blob.decode() for blob in blobs)
    children._fresh_main("tests.py", tests)
    names = _Names({"__name__": "tests", "__entries__": frozenset(job["entries"]), "__builtins__": builtins})

    def action() -> bytes:
        exec(compile(prelude, "prelude.py", "exec", dont_inherit=True), names)
        for entry in job["entries"]:
            names.pop(entry, None)
        exec(compile(tests, "tests.py", "exec", dont_inherit=True), names)
        return b"every test reached"

    children._guarded(nonce, action)
