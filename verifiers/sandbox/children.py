"""What runs inside a forked child: the walls come down, then the candidate's code, then one frame.

Nothing here knows an expected output. The frame carries a number used once, so that what a library
happens to print on the descriptor is no frame; a candidate that forges it says something about its
own output, which it could say anyway.
"""

import atexit
import gc
import io
import linecache
import os
import resource
import sys
import threading
import traceback
import types

from verifiers.sandbox import linux, values

RESULT_FD = 3  # where the completed frame goes
LINK_IN, LINK_OUT = 4, 5  # the other child of a suite


def lock_down(limits: dict, setup, ruleset: int | None = None, seccomp=None) -> None:
    """Give up, for good, all that the candidate must not have. `setup` is the slot's Setup, whose Landlock rules and
    filter stand where no others are given."""
    jail = setup.jail
    os.chdir(jail.box or "/")
    if setup.groups is not None:
        linux.first_to_be_killed(jail.proc)  # of the group: the slot itself has to live
    baseline = setup.address_space
    _limit(resource.RLIMIT_AS, baseline + limits["memory"])
    seconds = int(limits["cpu_s"]) + 2
    # The slot counts CPU time itself, finer; this one holds if the slot should fail to.
    _limit(resource.RLIMIT_CPU, seconds)
    _limit(resource.RLIMIT_FSIZE, limits["file_size"])
    _limit(resource.RLIMIT_NOFILE, limits["open_files"])
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_STACK, 64 << 20)
    _limit(resource.RLIMIT_MEMLOCK, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    if jail.uid is not None:
        _limit(resource.RLIMIT_NPROC, limits["threads"])
        os.setgroups([])
        os.setresgid(jail.uid, jail.uid, jail.uid)
        os.setresuid(jail.uid, jail.uid, jail.uid)  # from root to another: drops all capabilities too
    else:
        linux.drop_capabilities()
    linux.set_dumpable(False)
    linux.no_new_privileges()
    ruleset, seccomp = setup.ruleset if ruleset is None else ruleset, seccomp or setup.seccomp
    if ruleset >= 0:
        linux.landlock_restrict(ruleset)
    linux.close_from(setup.first_private_fd)
    if seccomp is not None:
        seccomp.load()


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def open_streams() -> None:
    """New text streams on descriptors 0, 1 and 2, made once in the slot: each child inherits them and
    puts its own files under the numbers, which is cheaper than making them there."""
    source, (end, sink) = os.memfd_create("stdin"), os.pipe()
    os.dup2(source, 0)  # streams remember whether they can seek: a file can, a pipe cannot
    os.dup2(sink, 1)
    reader = io.BufferedReader(io.FileIO(0, "r", closefd=False))
    writer = io.BufferedWriter(io.FileIO(1, "w", closefd=False))
    sys.stdin = io.TextIOWrapper(reader, encoding="utf-8", errors="replace")
    sys.stdout = io.TextIOWrapper(writer, encoding="utf-8", errors="surrogateescape")
    sys.stderr = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    for fd in (source, end, sink):
        os.close(fd)


def _fresh_main(name: str, code: str) -> types.ModuleType:
    """A new __main__."""
    sys.argv = [name]
    sys.set_int_max_str_digits(0)  # long numbers cost CPU time, which is bounded
    module = types.ModuleType("__main__")
    module.__file__ = name
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    # Tracebacks quote the candidate's line, not one of ours.
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    return module


def _finish(nonce: bytes, status: str, value: bytes = b"") -> None:
    """Flush, write the frame, leave without running anything else of the candidate's."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            status = "crashed"
    frame = nonce + len(value).to_bytes(4, "little") + status.encode().ljust(8) + value
    view = memoryview(frame)
    while view:
        view = view[os.write(RESULT_FD, view) :]
    os._exit(0)


def _report(skip: int) -> None:
    """The current exception on stderr, without our own frames."""
    kind, problem, trace = sys.exc_info()
    for _ in range(skip):
        trace = trace.tb_next if trace and trace.tb_next else trace
    try:
        sys.stderr.write("".join(traceback.format_exception(kind, problem, trace, limit=-8))[-4000:])
    except BaseException:
        sys.stderr.write("an exception that cannot be shown\n")


def _guarded(nonce: bytes, action) -> None:
    """Run `action() -> value bytes`, frame how it ended. SystemExit counts as an end of a program."""
    try:
        value = action()
    except SystemExit as leaving:
        clean = leaving.code is None or leaving.code == 0
        _finish(nonce, "exit" if clean else "crashed")
    except MemoryError:
        gc.collect()
        _finish(nonce, "memory")
    except values.NotPlain as problem:
        sys.stderr.write(f"the result is {problem}\n")
        _finish(nonce, "notplain")
    except BaseException:
        _report(skip=2)
        _finish(nonce, "crashed")
    _finish(nonce, "done", value)


def run_program(nonce: bytes, job: dict, blobs: list[bytes]) -> None:
    """The code as a script, with the input as its standard input."""
    code = blobs[0].decode("utf-8", "replace")
    module = _fresh_main("solution.py", code)

    def action() -> bytes:
        try:
            exec(compile(code, "solution.py", "exec", dont_inherit=True), module.__dict__)
        finally:
            # As at the end of any script: threads are waited for, exit functions run.
            threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
            atexit._run_exitfuncs()
        return b""

    _guarded(nonce, action)


def run_call(nonce: bytes, job: dict, blobs: list[bytes]) -> None:
    """The code, then one call of its function (or Solution method); the value goes into the frame."""
    code = blobs[0].decode("utf-8", "replace")
    arguments = values.decode(blobs[1])
    module = _fresh_main("solution.py", code)

    def action() -> bytes:
        exec(compile(code, "solution.py", "exec", dont_inherit=True), module.__dict__)
        return values.encode(_function(module, job["entry"])(*arguments))

    _guarded(nonce, action)


def _function(module: types.ModuleType, entry: str):
    owner, _, name = entry.rpartition(".")
    if owner:
        return getattr(module.__dict__[owner](), name)
    found = module.__dict__.get(name)
    # A name that only an import brought (search, of re) is not what the program was asked for.
    if getattr(found, "__module__", None) != "__main__" and hasattr(module.__dict__.get("Solution"), name):
        return getattr(module.__dict__["Solution"](), name)
    return module.__dict__[name]


def run_scored(nonce: bytes, job: dict, blobs: list[bytes]) -> None:
    """A function of ours or of a library, named "module:function", on plain arguments; for scorers
    that may execute what they score."""
    import importlib

    module, _, name = job["entry"].partition(":")
    arguments = values.decode(blobs[0])
    _fresh_main("scorer", "")

    def action() -> bytes:
        return values.encode(getattr(importlib.import_module(module), name)(*arguments))

    _guarded(nonce, action)
