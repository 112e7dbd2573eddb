"""The command line in a real process of its own that need not import torch first: forked from one that has.

Imports are most of what a short command takes. A server process (multiprocessing's forkserver) imports once and runs
nothing else; each command is a child of it with its own folder, streams and exit code. Commands that must meet the
environment before the imports, or be told by their command line, are started cold.
"""

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["reasoner.cli", "reasoner.pipeline"])


def reasoner(*arguments, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess:
    """`python -m reasoner ARGUMENTS` in `cwd`; streams as text."""
    command = ["reasoner", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        process = start(*arguments, cwd=cwd, streams=streams)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, process.exitcode, *(s.read_text() for s in streams))


def start(*arguments, cwd: Path, streams: Sequence[Path]) -> BaseProcess:
    """The command under way, to be stopped or killed; `streams` are the files of stdout and stderr."""
    command = ["reasoner", *map(str, arguments)]
    process = _context.Process(target=_main, args=(command, str(cwd), *map(str, streams)))
    process.start()
    return process


def ranks(num: int, *arguments, cwd: Path, said: Path) -> list[BaseProcess]:
    """The command as so many processes over gloo, as torchrun starts them; what each says goes to a file in `said`."""
    said.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["reasoner", *map(str, arguments)]
    processes = []
    for rank in range(num):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num),
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}  # fmt: skip
        process = _context.Process(
            target=_rank, args=(place if num > 1 else {}, command, str(cwd), str(said / str(rank)))
        )
        process.start()
        processes.append(process)
    return processes


def _rank(place: dict[str, str], command: list[str], cwd: str, said: str) -> None:
    os.environ.update(place)
    torch.set_num_threads(1)
    _main(command, cwd, said, said)


def _main(command: list[str], cwd: str, *streams: str) -> None:
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    sys.argv = command
    from reasoner.cli import main

    main()
