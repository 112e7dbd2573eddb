"""The slot's request loop: fork locked-down children, watch them, answer with what they did."""

import contextlib
import os
import secrets
import signal
import time

from verifiers.sandbox import children, frames, linux, suite, supervise, talk, values

_NONCE = 16
_FRAME_HEAD = _NONCE + 4 + 8
_RESULT_CAP = values.MAX_BYTES + _FRAME_HEAD + len(supervise.READY)
_RECYCLE_ASKS = 3000
_SERVER_GONE = "the child that answers has ended"

_RUNNERS = {
    "program": children.run_program,
    "call": children.run_call,
    "scored": children.run_scored,
    "candidate": suite.run_candidate,
    "tests": suite.run_tests,
}


def set_ruleset(setup) -> None:
    """Landlock's rules for the present box; they are bound to the mount, so a new box needs new ones."""
    jail = setup.jail
    try:
        if jail.box is not None:
            ruleset = linux.landlock_ruleset(["/"], [jail.box], ["/dev/null"])
        else:
            from verifiers.sandbox.jail import visible_paths

            ruleset = linux.landlock_ruleset(
                [*visible_paths(), "/dev/urandom", "/dev/zero"], [], ["/dev/null"]
            )
    except OSError as problem:
        setup.problems.append(f"landlock: {problem}")
        return
    if setup.ruleset >= 0:
        os.close(setup.ruleset)
    elif "landlock" not in setup.layers:
        setup.layers.append("landlock")
    setup.ruleset = ruleset


def requests(control: int, setup) -> None:
    """Serve until the socket closes."""
    server = talker = None
    while True:
        try:
            message = frames.read(control)
        except OSError:
            return
        if message is None:
            return
        header, blobs = message
        if header["kind"] == "ask":
            server, reply = _ask(server, setup, header, blobs)
        elif header["kind"] == "talk":
            talker, reply = talk.exchange(talker, setup, header, blobs[0])
        else:
            reply = _run(setup, header, blobs)
        frames.write(control, reply)


def _run(setup, header: dict, blobs: list[bytes]) -> bytes:
    """One request for fresh children; the first child's ending is the answer's."""
    _renew_box(setup)
    if setup.groups is not None:
        setup.groups.bound(header["limits"]["memory"] * (2 if header["kind"] == "suite" else 1))
    nonce = secrets.token_bytes(_NONCE)
    started = time.monotonic()
    if header["kind"] == "suite":
        to_candidate, to_tests = os.pipe(), os.pipe()
        links = {"tests": (to_tests[0], to_candidate[1]), "candidate": (to_candidate[0], to_tests[1])}
        # The tests' child answers; its nonce is unknown to the candidate's.
        watched = [
            _fork(setup, "tests", header, blobs[1:], nonce, links["tests"]),
            _fork(setup, "candidate", header, blobs[:1], secrets.token_bytes(_NONCE), links["candidate"]),
        ]
        for fd in (*to_candidate, *to_tests):
            os.close(fd)
    else:
        watched = [_fork(setup, header["kind"], header, blobs, nonce, None)]
    supervise.watch(watched, setup.jail.proc)
    killed = any(child.was_killed for child in watched)
    ran_out = killed and setup.groups is not None and setup.groups.ran_out()
    status, value, forged = _frame(bytes(watched[0].written["result"][len(supervise.READY) :]), nonce)
    ending, detail = supervise.ending_of(watched[0], status, ran_out)
    if forged and ending not in ("time_limit", "output_limit", "failed"):
        ending, detail = "security", "a second frame, or one that is none"
    candidate = watched[-1]
    if len(watched) > 1 and ending not in ("done", "failed"):
        ending, detail = _blame(candidate, ending, detail, ran_out)
    return frames.pack(
        {
            "ending": ending,
            "detail": detail,
            "cpu_ms": 1000 * sum(child.cpu_s for child in watched),
            "wall_ms": 1000 * (time.monotonic() - started),
            "peak_kb": max(child.peak_kb for child in watched),
        },
        bytes(candidate.written["stdout"]),
        bytes(candidate.written["stderr"]) or bytes(watched[0].written["stderr"]),
        value,
    )


def _blame(candidate, ending: str, detail: str, ran_out: bool) -> tuple[str, str]:
    """How a suite failed: by what its candidate's child met, where that says more."""
    own = supervise.ending_of(candidate, "", ran_out)
    if own[0] != "crashed" and not (candidate.stopped and not candidate.ending):
        return own
    return ending, detail


def _renew_box(setup) -> None:
    jail = setup.jail
    if jail.box is None:
        return
    before = jail._fresh
    jail.reset_box()
    if jail._fresh is not before and setup.ruleset >= 0:
        set_ruleset(setup)


def _fork(setup, kind: str, header: dict, blobs: list[bytes], nonce: bytes, link) -> supervise.Watched:
    """A child in a pid namespace of its own, behind all walls, about to run its runner."""
    out, err, result = os.pipe(), os.pipe(), os.pipe()
    stdin = os.memfd_create("stdin")
    if kind == "program":
        view = memoryview(blobs[1])
        while view:
            view = view[os.write(stdin, view) :]
        os.lseek(stdin, 0, os.SEEK_SET)
    if setup.jail.own_pids >= 0:
        linux.unshare(linux.CLONE_NEWPID)
    pid = linux.fork()
    if pid == 0:
        _child(setup, kind, header, blobs, nonce, (stdin, out[1], err[1], result[1], *(link or ())))
    if setup.jail.own_pids >= 0:
        linux.setns(setup.jail.own_pids, linux.CLONE_NEWPID)
    for fd in (stdin, out[1], err[1], result[1]):
        os.close(fd)
    limits = header["limits"]
    pipes = {
        out[0]: ("stdout", limits["stdout"]),
        err[0]: ("stderr", limits["stderr"]),
        result[0]: ("result", _RESULT_CAP),
    }
    return supervise.Watched(pid, os.pidfd_open(pid), limits, pipes)


def _child(setup, kind, header, blobs, nonce, fds) -> None:
    """In the child; never returns."""
    try:
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        setup.first_private_fd = len(fds)
        children.lock_down(header["limits"], setup)
        os.write(children.RESULT_FD, supervise.READY)
        _RUNNERS[kind](nonce, header, blobs)
    except BaseException as problem:
        os.write(2, f"sandbox: {type(problem).__name__}: {problem}\n".encode())
    finally:
        os._exit(70)


def _frame(written: bytes, nonce: bytes) -> tuple[str, bytes, bool]:
    """(status, value, forged) of what came over the result pipe."""
    if not written:
        return "", b"", False
    size = int.from_bytes(written[_NONCE : _NONCE + 4], "little")
    if written[:_NONCE] != nonce or len(written) != _FRAME_HEAD + size:
        return "", b"", True
    return written[_NONCE + 4 : _FRAME_HEAD].decode("latin-1").strip(), written[_FRAME_HEAD:], False


# --- a long-lived child for trusted code on hostile data ---


class _Server:
    """A child that answers asks until it is killed or has answered enough."""

    def __init__(self, setup, header: dict):
        self.asks = 0
        if setup.groups is not None:
            setup.groups.bound(header["limits"]["memory"])
        requests_, replies = os.pipe(), os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        if setup.jail.own_pids >= 0:
            linux.unshare(linux.CLONE_NEWPID)
        self.pid = linux.fork()
        if self.pid == 0:
            limits = {**header["limits"], "cpu_s": 3600}
            _serve_asks(setup, limits, header["entry"], (null, null, null, null, requests_[0], replies[1]))
        if setup.jail.own_pids >= 0:
            linux.setns(setup.jail.own_pids, linux.CLONE_NEWPID)
        self.pidfd = os.pidfd_open(self.pid)
        self.to, self.back = requests_[1], replies[0]
        os.close(requests_[0])
        os.close(replies[1])
        os.close(null)

    def end(self) -> int:
        """Kill, reap, close; how it ended, as wait() tells it."""
        with contextlib.suppress(ProcessLookupError):  # already dead, not yet reaped
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        for fd in (self.pidfd, self.to, self.back):
            os.close(fd)
        return status


def _serve_asks(setup, limits: dict, entry: str, fds) -> None:
    """In the child; never returns."""
    try:
        import importlib

        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        setup.first_private_fd = len(fds)
        children.lock_down(limits, setup)
        module, _, name = entry.partition(":")
        function = getattr(importlib.import_module(module), name)
        while (message := frames.read(children.LINK_IN)) is not None:
            frames.write(children.LINK_OUT, frames.pack(*_answer(function, message[1][0])))
    finally:
        os._exit(0)


def _answer(function, payload: bytes) -> tuple[dict, bytes]:
    try:
        return {"ending": "done"}, function(payload)
    except MemoryError:
        return {"ending": "memory_limit"}, b""
    except RecursionError:
        return {"ending": "crashed", "detail": "RecursionError"}, b""
    except Exception as problem:
        return {"ending": "crashed", "detail": f"{type(problem).__name__}: {problem}"[:300]}, b""


def _end_of_server(status: int, setup) -> str:
    """Why a long-lived child ended by itself. It answers whatever happens, so that only a signal is the question's."""
    if not os.WIFSIGNALED(status):
        return "failed"
    if os.WTERMSIG(status) == signal.SIGKILL:
        return "memory_limit" if setup.groups is not None and setup.groups.ran_out() else "failed"
    return "crashed"


def _ask(server, setup, header: dict, blobs: list[bytes]) -> tuple[_Server | None, bytes]:
    """One question to the long-lived child, killed where it takes too long; the next ask forks anew."""
    if server is None:
        server = _Server(setup, header)
    started = time.monotonic()
    child = supervise.Watched(server.pid, server.pidfd, header["limits"], {}, started=started)
    cpu_before = child.cpu_now()
    message = None
    try:
        frames.write(server.to, frames.pack({}, blobs[0]))
        ending = supervise.wait_for_reply(child, server.back, cpu_before, setup.jail.proc)
        if ending == "done":
            message = frames.read(server.back)
            if message is None:
                ending = "crashed"
    except OSError as problem:
        ending = "crashed"
        header["detail"] = str(problem)
    measured = {
        "cpu_ms": 1000 * (child.cpu_now() - cpu_before),
        "wall_ms": 1000 * (time.monotonic() - started),
    }
    server.asks += 1
    if ending != "done" or message is None:
        status = server.end()
        if ending == "crashed":
            ending = _end_of_server(status, setup)
        return None, frames.pack({"ending": ending, "detail": _SERVER_GONE, **measured}, b"", b"", b"")
    if server.asks >= _RECYCLE_ASKS or message[0]["ending"] == "memory_limit":
        server.end()
        server = None
    return server, frames.pack({"detail": "", **message[0], **measured}, b"", b"", message[1][0])
