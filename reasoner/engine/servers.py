"""Servers that a run starts and ends: free ports, logs in the run's folder, nothing left over whatever ends the run."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from reasoner.engine.dialect import Dialect
from reasoner.policy.machine import on_cpu
from reasoner.registry import UserError
from reasoner.store import write_json

logger = logging.getLogger(__name__)

TERM_WAIT = 20.0  # seconds that a server has to end by itself
LOG_LINES = 5  # of a server that died, shown in the error
PR_SET_PDEATHSIG = 1


class Process(Protocol):
    """A server's process; subprocess.Popen is one."""

    args: Any
    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class Host(Protocol):
    """A machine that servers run on, each with so many of its GPUs."""

    gpus: int

    def reach(self) -> str:
        """The address that its servers listen at; another one where the machine before was lost."""
        ...

    def free_port(self) -> int: ...

    def start(self, arguments: list[str], extra: dict[str, str], log: Path) -> Process:
        """Start a program with `extra` in its environment; OSError where it cannot be."""
        ...

    def terminate(self, process: Process) -> None:
        """Ask the process and what it has started to end."""
        ...

    def reap(self, process: Process) -> None:
        """End what is left of it, and forget it."""
        ...

    def close(self) -> None: ...


class Here:
    """This machine. Its servers end with this process, SIGKILL included (on Linux); `records` is a folder that tells of them."""

    def __init__(self, gpus: int, records: Path | None = None, address: str = "127.0.0.1"):
        self.gpus, self.records, self.address = gpus, records, address
        # servers end with the thread that started them: this one lives as long as they may
        self.starter = ThreadPoolExecutor(1, "servers")

    def reach(self) -> str:
        return self.address

    def free_port(self) -> int:
        return free_port(self.address)

    def start(self, arguments: list[str], extra: dict[str, str], log: Path) -> subprocess.Popen:
        with log.open("ab") as file:
            process = self.starter.submit(
                subprocess.Popen, arguments, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True, env={**os.environ, **extra}, preexec_fn=die_with_parent,
            ).result()  # fmt: skip
        if self.records is not None:
            record = {"pid": process.pid, "started": started_at(process.pid), "command": arguments}
            write_json(self.records / f"{process.pid}.json", record)
        return process

    def terminate(self, process: Process) -> None:
        _signal_group(process.pid, signal.SIGTERM)

    def reap(self, process: Process) -> None:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        if self.records is not None:
            (self.records / f"{process.pid}.json").unlink(missing_ok=True)

    def close(self) -> None:
        self.starter.shutdown(wait=False)


@dataclass
class Fleet:
    """Servers of one run, each on a host; `close` ends them, and so does the end of this process, SIGKILL included.

    `command(model, address, port, gpus)` are arguments and environment of one. One that dies is started again at its address,
    `restarts` times in all, with the `model` of that time; at another address where its machine was lost with it.
    """

    folder: Path
    dialect: Dialect
    command: Callable[[str, str, int, int], tuple[list[str], dict[str, str]]]
    model: str
    hosts: list[Host]
    patience: float
    restarts: int
    processes: list[Process] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    is_closed: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def begin(self, number: int) -> None:
        """Start the server of this number; a program that cannot be started is a UserError."""
        host = self.hosts[number]
        address = host.reach()
        if number == len(self.urls) or not self.urls[number].startswith(f"http://{address}:"):
            self.urls[number:] = [f"http://{address}:{host.free_port()}", *self.urls[number + 1 :]]
        port = int(self.urls[number].rpartition(":")[2])
        arguments, extra = self.command(self.model, address, port, host.gpus)
        try:
            process = host.start(arguments, extra, self.log(number))
        except OSError as problem:
            raise UserError(
                f"cannot start {arguments[0]} ({problem.strerror}); expected the {self.dialect.name} program: set "
                "engine.executable to its path, or start a server yourself and set engine.urls: "
                + " ".join(arguments)
            ) from problem
        self.processes[number:] = [process, *self.processes[number + 1 :]]

    def revive(self, number: int, ending: float = 0.0) -> bool:
        """Start the server of this number again if it has ended, and wait until it answers; whether it had ended.

        `ending` are the seconds in which one that has broken off may come to its end. One too many is a UserError.
        """
        with self.lock:
            if self.is_closed:
                return False
            process = self.processes[number]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ending)
            if process.poll() is None:
                return False
            how = f"{self.urls[number]} ended with {process.returncode}, saying {_last_words(self.log(number))!r}"
            if self.restarts == 0:
                raise UserError(
                    f"{how}; expected it to stay: it is started again no more times, see {self.log(number)}; engine.restarts= "
                    "gives it more, and the same command goes on"
                )
            self.restarts -= 1
            logger.warning("%s; it is started again", how)
            self.hosts[number].reap(process)  # what it may have started itself
            self.begin(number)
        _await(self, [number], lambda note: None)
        return True

    def log(self, number: int) -> Path:
        """Where the server of this number writes, all its lives."""
        return self.folder / f"server-{number}.log"

    def close(self) -> None:
        """End every server: SIGTERM to its group, SIGKILL to what is left."""
        with self.lock:
            self.is_closed = True
        running = list(zip(self.hosts, self.processes, strict=False))  # the last hosts may have none yet
        for host, process in running:
            host.terminate(process)
        until = time.monotonic() + TERM_WAIT
        for host, process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, until - time.monotonic()))
            host.reap(process)
        self.processes.clear()
        for host in self.hosts:
            host.close()
        atexit.unregister(self.close)


def start(
    dialect: Dialect,
    model: str,
    number: int,
    folder: Path,
    max_context: int,
    dtype: str = "auto",
    logprobs: str = "raw",
    lora_rank: int = 0,
    executable: str = "vllm",
    patience: float = 600.0,
    progress: Callable[[str], None] = lambda note: None,
    restarts: int = 0,
    hosts: Callable[[int], list[Host]] | None = None,
) -> Fleet:
    """Start `number` servers of `model` and wait until each answers; one that dies is a UserError with its last words.

    `hosts(number)` are the machines that they run on, by default this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end_leftovers(folder)

    def command(model: str, address: str, port: int, gpus: int) -> tuple[list[str], dict[str, str]]:
        return dialect.command(
            model, port, max_context, dtype, logprobs, lora_rank, executable, address, gpus
        )

    here: list[Host] = [Here(0 if on_cpu() else 1, folder)] * number
    fleet = Fleet(folder, dialect, command, model, hosts(number) if hosts else here, patience, restarts)
    atexit.register(fleet.close)
    try:
        for n in range(number):
            fleet.log(n).unlink(missing_ok=True)  # of an earlier run
            fleet.begin(n)
        _await(fleet, range(number), progress)
    except BaseException:
        fleet.close()
        raise
    return fleet


def _await(fleet: Fleet, numbers: Iterable[int], progress: Callable[[str], None]) -> None:
    """Wait until these servers answer; one that does not ends all of them (UserError)."""
    begun = time.monotonic()
    left = list(numbers)
    while left:
        seconds = time.monotonic() - begun
        progress(
            f"{len(left)} of {len(fleet.urls)} {fleet.dialect.name} servers are starting, {seconds:.0f} s"
        )
        for n in list(left):
            process = fleet.processes[n]
            if process.poll() is not None or seconds > fleet.patience:
                said = _last_words(fleet.log(n))
                state = (
                    f"ended with {process.returncode}" if process.returncode is not None else "did not answer"
                )
                fleet.close()
                raise UserError(
                    f"the server {' '.join(map(str, process.args))} {state} after {seconds:.0f} s, saying "
                    f"{said!r}; expected it to answer: see {fleet.log(n)}"
                )
            if _is_healthy(fleet.urls[n] + fleet.dialect.health.path):
                left.remove(n)
        if left:
            time.sleep(1.0)


def _last_words(log: Path) -> str:
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LOG_LINES:])


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def end_leftovers(folder: Path) -> list[int]:
    """End servers that an earlier, killed run of this folder left; known by process number and start time both."""
    ended = []
    for record in folder.glob("*.json"):
        pid, started = _recorded(record)
        if started is not None and started_at(pid) == started:
            _signal_group(pid, signal.SIGTERM)
            until = time.monotonic() + TERM_WAIT
            while started_at(pid) == started and time.monotonic() < until:
                time.sleep(0.1)
            _signal_group(pid, signal.SIGKILL)
            ended.append(pid)
        record.unlink()
    return ended


def _recorded(record: Path) -> tuple[int, int | None]:
    """Process number and start time of a server; without a time where the file is torn: such a server is left alone."""
    try:
        told = json.loads(record.read_text(encoding="utf-8"))
        return int(told["pid"]), None if told["started"] is None else int(told["started"])
    except (ValueError, KeyError, TypeError):
        logger.warning(
            "%s, which tells of a server that was started, is torn; expected process and start time: if the model server with "
            "the process number in its name still runs, end it by hand", record,
        )  # fmt: skip
        return 0, None


def started_at(pid: int) -> int | None:
    """Clock ticks from boot to the start of a living process, which tells it from a later one of the same number."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()
    return None if state == "Z" else int(rest[18])


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as s:
        s.bind((address, 0))
        return s.getsockname()[1]


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def die_with_parent() -> None:
    """SIGTERM to this process once the thread that started it ends; Linux only. For preexec_fn."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
