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
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from reasoner.engine.dialect import Dialect
from reasoner.registry import UserError
from reasoner.store import write_json

logger = logging.getLogger(__name__)

TERM_WAIT = 20.0  # seconds that a server has to end by itself
LOG_LINES = 5  # of a server that died, shown in the error
PR_SET_PDEATHSIG = 1


@dataclass
class Fleet:
    """Servers of one run; `close` ends them, and so does the end of this process, SIGKILL included (on Linux)."""

    folder: Path
    processes: list[subprocess.Popen] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def close(self) -> None:
        """End every server: SIGTERM to its group, SIGKILL to what is left."""
        for process in self.processes:
            _signal_group(process.pid, signal.SIGTERM)
        until = time.monotonic() + TERM_WAIT
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, until - time.monotonic()))
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
            (self.folder / f"{process.pid}.json").unlink(missing_ok=True)
        self.processes.clear()
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
) -> Fleet:
    """Start `number` servers of `model` and wait until each answers; one that dies is a UserError with its last words."""
    folder.mkdir(parents=True, exist_ok=True)
    end_leftovers(folder)
    fleet = Fleet(folder)
    atexit.register(fleet.close)
    for n in range(number):
        port = free_port()
        arguments, extra = dialect.command(model, port, max_context, dtype, logprobs, lora_rank, executable)
        log = (folder / f"server-{n}.log").open("wb")
        try:
            process = subprocess.Popen(
                arguments, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **extra}, preexec_fn=die_with_parent,
            )  # fmt: skip
        except OSError as problem:
            fleet.close()
            raise UserError(
                f"cannot start {arguments[0]} ({problem.strerror}); expected the {dialect.name} program: set "
                "engine.executable to its path, or start a server yourself and set engine.urls: "
                + " ".join(arguments)
            ) from problem
        finally:
            log.close()
        fleet.processes.append(process)
        fleet.urls.append(f"http://127.0.0.1:{port}")
        record = {"pid": process.pid, "started": started_at(process.pid), "command": arguments}
        write_json(folder / f"{process.pid}.json", record)
    _await(fleet, dialect, patience, progress)
    return fleet


def _await(fleet: Fleet, dialect: Dialect, patience: float, progress: Callable[[str], None]) -> None:
    begun = time.monotonic()
    left = list(enumerate(fleet.urls))
    while left:
        seconds = time.monotonic() - begun
        progress(f"{len(left)} of {len(fleet.urls)} {dialect.name} servers are starting, {seconds:.0f} s")
        for n, url in list(left):
            process, log = fleet.processes[n], fleet.folder / f"server-{n}.log"
            if process.poll() is not None or seconds > patience:
                said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LOG_LINES:]
                state = (
                    f"ended with {process.returncode}" if process.returncode is not None else "did not answer"
                )
                fleet.close()
                raise UserError(
                    f"the server {' '.join(map(str, process.args))} {state} after {seconds:.0f} s, saying "  # type: ignore[arg-type]
                    f"{' | '.join(said)!r}; expected it to answer: see {log}"
                )
            if _is_healthy(url + dialect.health.path):
                left.remove((n, url))
        if left:
            time.sleep(1.0)


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


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def die_with_parent() -> None:
    """SIGTERM to this process once the thread that started it ends; Linux only. For preexec_fn."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
