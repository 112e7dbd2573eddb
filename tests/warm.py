"""The command line in a real process of its own that need not import torch first: forked from one that has.

Imports are most of what a short command takes. A server process (multiprocessing's forkserver) imports once and runs
nothing else; each command is a child of it with its own folder, streams and exit code. Commands that must meet the
environment before the imports, or be told by their command line, are started cold.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

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


def _main(command: list[str], cwd: str, *streams: str) -> None:
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(cwd)
    sys.argv = command
    from reasoner.cli import main

    main()
