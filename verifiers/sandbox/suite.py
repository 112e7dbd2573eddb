"""Assert suites across two children: the tests in one, the candidate in the other.

The tests' child holds expected values and decides; it sees the candidate's functions as `Remote`
objects, whose calls travel as plain data over a pipe. The candidate's child holds the candidate and
never a test. So an object that claims to equal everything stays where it was made: what arrives is
plain data, or a Remote, which equals nothing. A function that a test passes on is called back where it
was made. What tests call beside the candidate's names is Python's own, also where the candidate has a name like it.
"""

import ast
import builtins
import importlib
import os
import struct
import sys

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
    try:
        return values.decode(_exactly(size), handle)
    except values.NotPlain as problem:
        raise Gone(str(problem)) from problem


def _exactly(size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(children.LINK_IN, size - len(parts))
        if not part:
            raise Gone("the candidate's process has ended")
        parts += part
    return bytes(parts)


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
        return b""  # not reached: the link's end ends the process

    children._guarded(nonce, action)


_kept: list = []


class _Lent:
    """A function of the tests' in the candidate's child; a call of it is made over there."""

    def __init__(self, number: int):
        self.number = number

    def __call__(self, *arguments, **named):
        _send(("callback", self.number, arguments, named), _keep)
        reply = _serve(sys.modules["__main__"].__dict__, None, until_reply=True)
        if reply[0] == "ok":
            return reply[1]
        raise _exception(reply)


def _keep(value) -> int:
    if type(value) is _Lent:
        return value.number
    if len(_kept) >= _MAX_HANDLES:
        raise values.NotPlain("too many objects")
    _kept.append(value)
    return len(_kept) - 1


def _given(number: int):
    return _Lent(number) if number < 0 else _kept[number]


def _serve(names: dict, failed, until_reply: bool = False):
    """Answer the tests' requests until the link closes, or until the reply to a call of theirs comes."""
    while True:
        try:
            message = _receive(_given)
        except Gone:
            os._exit(0)
        if until_reply and message[0] in ("ok", "raise"):
            return message
        operation, target, arguments, named = message
        if failed is not None:
            _send(failed)
            continue
        try:
            before = _contents(arguments) if operation == "call" else {}
            reply = ("ok", _OPERATIONS[operation](names, target, arguments, named))
            if before:
                after = _contents(arguments)
                changed = {i: arguments[i] for i, old in before.items() if after[i] != old}
                reply = (*reply, changed) if changed else reply
        except RecursionError:
            reply = ("raise", "RecursionError", "")
        except (Exception, SystemExit) as problem:
            children._report(skip=1)
            reply = ("raise", type(problem).__name__, str(problem)[:500])
        try:
            _send(reply, _keep)
        except values.NotPlain as problem:
            _send(("raise", "TypeError", f"the result is {problem}"))


def _contents(arguments) -> dict[int, bytes]:
    """What is in the arguments that a function can change."""
    return {i: values.encode(a, id) for i, a in enumerate(arguments) if type(a) in (list, dict, set)}


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
    "truth": lambda names, target, arguments, named: bool(target),
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
    """Something of the candidate's that is no plain data. Equal only to itself; as true as it says, which is no
    more than the candidate could have returned."""

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
        truth = _ask("truth", self, (), {})
        if type(truth) is not bool:
            raise TypeError("the candidate's object is neither true nor false")
        return truth


_remotes: dict[int, Remote] = {}
_lent: list = []
_pending: list = []  # (a test's object, what the candidate made of it) of the last call


def _remote(number: int):
    if number < 0:
        return _lent[-number - 1]
    # The same handle is the same object here, so that `is` and identity comparisons hold.
    return _remotes.setdefault(number, Remote(number))


def _number(value) -> int:
    if type(value) is Remote:
        return object.__getattribute__(value, "_number")
    if not callable(value) or len(_lent) >= _MAX_HANDLES:
        raise values.NotPlain(f"a test's value of type {type(value).__name__}")
    _lent.append(value)
    return -len(_lent)


def _ask(operation: str, target, arguments, named):
    _send((operation, target, arguments, named), _number)
    while True:
        reply = _receive(_remote)
        if not isinstance(reply, tuple) or len(reply) < 2 or reply[0] not in ("ok", "raise", "callback"):
            raise Gone("the candidate's process sent no reply")
        if reply[0] != "callback":
            break
        _send(_called_back(*reply[1:]), _number)
    if reply[0] == "raise":
        raise _exception(reply)
    _pending[:] = []
    if len(reply) > 2 and type(reply[2]) is dict:
        _pending[:] = [(arguments[i], changed) for i, changed in reply[2].items()]
        if reply[1] is None:
            _take_effects()
    return reply[1]


def _called_back(number: int, arguments, named) -> tuple:
    try:
        return ("ok", _lent[-number - 1](*arguments, **named))
    except Exception as problem:
        return ("raise", type(problem).__name__, str(problem)[:500])


def _exception(reply: tuple) -> Exception:
    """The exception of the other side, as the builtin of its name where that stops nothing but its caller."""
    kind = getattr(builtins, str(reply[1]), None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)) or kind in (
        StopIteration,
        StopAsyncIteration,
    ):
        kind = RuntimeError  # as in a generator (PEP 479): it would end map and zip in the tests
    return kind(f"{reply[1]}: {reply[2]}")


def _take_effects() -> None:
    """Change the tests' own objects as the candidate changed its copies. Only where the call's result is None or
    thrown away: a test that reads the result compares it with what it gave."""
    for own, changed in _pending:
        if type(own) is not type(changed):
            continue
        own.clear()
        own.extend(changed) if type(own) is list else own.update(changed)
    _pending[:] = []


class _Effects(ast.NodeTransformer):
    """Behind each call whose result is thrown away, what it did to its arguments is taken over."""

    def visit_Expr(self, node):
        call = node.value
        if not isinstance(call, ast.Call) or (
            isinstance(call.func, ast.Name) and hasattr(builtins, call.func.id)
        ):
            return node
        taken = ast.Expr(ast.Call(ast.Name("__take_effects__", ast.Load()), [], []))
        return [node, ast.fix_missing_locations(ast.copy_location(taken, node))]


# Names of Python's own that tests use without saying where from; modules are known by being asked for something.
_ALIASES = {"np": "numpy", "pd": "pandas", "sp": "sympy"}
_FUNCTIONS = {
    name: module
    for module, names in {
        "math": "isclose isnan isinf isfinite sqrt fabs floor ceil gcd lcm comb factorial log exp pi inf nan",
        "collections": "Counter OrderedDict defaultdict deque namedtuple",
        "itertools": "permutations combinations product chain",
        "functools": "reduce",
        "copy": "deepcopy",
        "fractions": "Fraction",
        "decimal": "Decimal",
    }.items()
    for name in names.split()
}


def _modules_in(tree: ast.AST) -> frozenset[str]:
    """The names that are asked for something and are Python's modules."""
    asked = {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    return frozenset(name for name in asked if name in sys.stdlib_module_names or name in _ALIASES)


class _Names(dict):
    """The tests' globals: what the tests do not define is the candidate's."""

    def __missing__(self, name):
        # A builtin or a module is ours, unless the tests are about a function of that name.
        if name not in self["__entries__"]:
            if hasattr(builtins, name):
                raise KeyError(name)
            if name in self["__modules__"]:
                return importlib.import_module(_ALIASES.get(name) or name)
            if name in _FUNCTIONS:
                return getattr(importlib.import_module(_FUNCTIONS[name]), name)
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
    names = _Names({
        "__name__": "tests", "__entries__": frozenset(job["entries"]), "__builtins__": builtins,
        "__modules__": frozenset(), "__take_effects__": _take_effects,
    })  # fmt: skip

    def action() -> bytes:
        exec(compile(prelude, "prelude.py", "exec", dont_inherit=True), names)
        for entry in job["entries"]:
            names.pop(entry, None)
        tree = ast.parse(tests)
        names["__modules__"] = _modules_in(tree)
        exec(compile(_Effects().visit(tree), "tests.py", "exec", dont_inherit=True), names)
        return b"every test reached"

    children._guarded(nonce, action)
