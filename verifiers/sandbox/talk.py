"""A long-lived program of a slot that answers questions: a proof checker, behind the walls of any other child.

It becomes the child by exec, after the walls are up, so that it is bounded and blind as a candidate's own code is. Each
question is written to its standard input; the answer ends with a mark that the program's own protocol cannot hold
inside a message. What it writes besides is nobody's: its stderr goes nowhere.
"""

import contextlib
import glob
import os
import select
import signal
import time

from verifiers.sandbox import children, frames, jail, linux, supervise

_POLL_S = 0.02  # between looks at the clocks once the least limit has passed


class Talker:
    """The program's process. `ask` it, then `end` it; one that broke a limit has to be ended."""

    def __init__(self, setup, header: dict):
        limits, program = header["limits"], header["program"]
        if setup.groups is not None:
            setup.groups.bound(limits["memory"])
        questions, answers = os.pipe(), os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        if setup.jail.own_pids >= 0:
            linux.unshare(linux.CLONE_NEWPID)
        self.pid = linux.fork()
        if self.pid == 0:
            _become(setup, limits, program, (questions[0], answers[1], null))
        if setup.jail.own_pids >= 0:
            linux.setns(setup.jail.own_pids, linux.CLONE_NEWPID)
        self.pidfd = os.pidfd_open(self.pid)
        self.to, self.back = questions[1], answers[0]
        os.set_blocking(self.to, False)
        for fd in (questions[0], answers[1], null):
            os.close(fd)
        self.proc = setup.jail.proc

    def ask(self, limits: dict, question: bytes, end: bytes) -> tuple[str, bytes, float]:
        """(ending, answer, CPU seconds). The answer is what came until the mark, with it."""
        child = supervise.Watched(self.pid, self.pidfd, limits, {}, started=time.monotonic())
        before = (child.cpu_now(), supervise.run_delay(child, self.proc))
        answer, left = bytearray(), memoryview(question)
        poller = select.poll()
        poller.register(self.back, select.POLLIN)
        poller.register(self.pidfd, select.POLLIN)
        poller.register(self.to, select.POLLOUT)
        least = min(limits["cpu_s"], limits["wall_s"])
        while True:
            wall = time.monotonic() - child.started
            ready = dict(poller.poll(1000 * (least - wall if wall < least else _POLL_S)))
            if self.to in ready and left:
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(self.to, left) :]
                if not left:
                    poller.unregister(self.to)
            if self.back in ready:
                part = os.read(self.back, 1 << 16)
                answer += part
                if end in answer[-len(part) - len(end) :]:
                    return "done", bytes(answer), child.cpu_now() - before[0]
                if len(answer) > limits["stdout"]:
                    return "output_limit", b"", child.cpu_now() - before[0]
                if part:
                    continue
            if self.pidfd in ready or self.back in ready:
                return "crashed", bytes(answer), 0.0
            ending = self._over_time(child, before)
            if ending:
                return ending, b"", child.cpu_now() - before[0]

    def _over_time(self, child: supervise.Watched, before: tuple[float, float]) -> str:
        """Which limit this question has broken; time spent waiting for a CPU is not the program's."""
        wall, limits = time.monotonic() - child.started, child.limits
        if child.cpu_now() - before[0] >= limits["cpu_s"]:
            return "time_limit"
        if wall < limits["wall_s"]:
            return ""
        if wall - (supervise.run_delay(child, self.proc) - before[1]) >= limits["wall_s"]:
            return "time_limit"
        return "starved" if wall > supervise.STARVED_FACTOR * limits["wall_s"] else ""

    def resident_kb(self) -> int:
        """Memory that the program holds, 0 where the kernel does not say."""
        try:
            outside = supervise.outside_pid(self.pidfd, self.proc)
            with open(os.open(f"{outside}/statm", os.O_RDONLY, dir_fd=self.proc)) as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10
        except (OSError, ValueError, IndexError):
            return 0

    def end(self) -> int:
        """Kill, reap, close; how it ended, as wait() tells it."""
        with contextlib.suppress(ProcessLookupError):  # already dead, not yet reaped
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        for fd in (self.pidfd, self.to, self.back):
            os.close(fd)
        return status


def _become(setup, limits: dict, program: dict, fds) -> None:
    """In the child; never returns: walls, then exec."""
    try:
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        setup.first_private_fd = len(fds)
        rules = may_run(setup, program)
        bounds = {
            **limits,
            "cpu_s": 36_000,
            "memory": program["address_space"],
            "threads": program["threads"],
        }
        children.lock_down(bounds, setup, rules, setup.seccomp_exec)
        os.execve(program["argv"][0], program["argv"], program["env"])
    finally:
        os._exit(70)


def may_run(setup, program: dict) -> int:
    """Landlock's rules for a program: it reads what it sees, runs its own files only and writes nothing."""
    if setup.ruleset < 0:
        return -1
    loaders = {os.path.realpath(p) for p in (*glob.glob("/lib64/ld-*.so*"), *glob.glob("/lib/ld-*.so*"))}
    seen = ["/"] if setup.jail.box is not None else jail.visible_paths(program["visible"])
    return linux.landlock_ruleset(seen, [], ["/dev/null"], [*program["runs"], *sorted(loaders)])


def exchange(talker: Talker | None, setup, header: dict, question: bytes) -> tuple[Talker | None, bytes]:
    """One question to the program, started where it is not running or where `fresh` is asked for; ended where it broke
    a limit. The answer is a frame for the pool."""
    if talker is not None and header["fresh"]:
        talker.end()
        talker = None
    if talker is None:
        talker = Talker(setup, header)
    started = time.monotonic()
    try:
        ending, answer, cpu_s = talker.ask(header["limits"], question, header["end"].encode())
    except OSError:  # it is gone, and its pipe with it
        ending, answer, cpu_s = "crashed", b"", 0.0
    measured = {"cpu_ms": 1000 * cpu_s, "wall_ms": 1000 * (time.monotonic() - started), "detail": ""}
    if ending == "done":
        return talker, frames.pack(
            {"ending": ending, **measured, "peak_kb": talker.resident_kb()}, answer, b"", b""
        )
    status = talker.end()
    if ending == "crashed":
        ending, measured["detail"] = _how(status, setup)
    return None, frames.pack({"ending": ending, **measured}, answer, b"", b"")


def _how(status: int, setup) -> tuple[str, str]:
    """How a program ended that nobody stopped."""
    if os.WIFEXITED(status):
        code = os.WEXITSTATUS(status)
        return (
            ("failed", "the program could not be started") if code == 70 else ("crashed", f"exit code {code}")
        )
    number = os.WTERMSIG(status)
    if number == signal.SIGSYS:
        return "security", "forbidden system call"
    if number == signal.SIGKILL and setup.groups is not None and setup.groups.ran_out():
        return "memory_limit", "killed by the kernel"
    return "crashed", f"signal {number}"
