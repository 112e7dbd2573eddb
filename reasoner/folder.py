"""A run's folder: one run at a time works in it, and nothing is ever removed from it that a run did not make.

`run.json` in the folder is the claim: it lists every folder of a stage that runs have made there. What it does
not list is somebody else's, and stays. While a run works, `.lock` names its owner.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from reasoner.registry import UserError
from reasoner.store import read_json, write_json

CLAIM = "run.json"
LOCK = ".lock"
KINDS = ("models", "trees", "records", "stages")  # each holds one folder per stage
BEAT_S = 10.0  # between two signs of life
SILENT_S = 300.0  # after which an owner on another machine counts as dead; clocks may differ by less

_MAX_NAME_BYTES = 100
_LONGEST = 4096  # bytes of what a lock says
_own: list[int] = []  # descriptors of the locks that this process holds
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # no file can be called so on Windows
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)


def check_name(name: str) -> str:
    """The name, if it can be that of one folder inside another on any file system; else ValueError."""
    faults = {
        "it is empty": not name,
        "it begins with a dot or a tilde": name.startswith((".", "~")),
        "it ends with a dot": name.endswith("."),
        "it begins or ends with a space": name != name.strip(),
        "it holds a separator": any(c in name for c in '/\\:*?"<>|'),
        "it holds a character that cannot be printed": not name.isprintable(),
        "it is reserved": bool(_DEVICES.fullmatch(name)),
        f"it is longer than {_MAX_NAME_BYTES} bytes": len(name.encode("utf-8", "replace")) > _MAX_NAME_BYTES,
    }
    fault = next((what for what, is_so in faults.items() if is_so), None)
    if fault:
        raise ValueError(
            f"got the stage name {name[:60]!r}, expected the name of one folder, but {fault}; rename it"
        )
    return name


StageName = Annotated[str, AfterValidator(check_name)]


def run_of(model: str | Path) -> Path | None:
    """The folder of the run that a model lies in (runs/demo of runs/demo/models/ppo/model); None outside one."""
    for folder in list(Path(model).resolve().parents)[:4]:
        if (folder / "config.yaml").is_file() and (folder / "models").is_dir():
            return folder
    return None


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Hold the folder for one run, made where it is not there.

    One that holds anything but a run, or in which another run works, is a UserError.
    """
    with ExitStack() as held:
        try:
            out.mkdir(parents=True, exist_ok=True)
            foreign = sorted(p.name for p in out.iterdir() if p.name not in (LOCK, f".{CLAIM}.tmp"))
            if foreign and not (out / CLAIM).is_file():
                raise UserError(
                    f"{out} holds {', '.join(foreign[:3])}{' …' if len(foreign) > 3 else ''} and no {CLAIM}, so it was "
                    "not made by a run; expected a new or an empty folder: set out= to one"
                )
            held.enter_context(_locked(out))
            write_json(out / CLAIM, {"made": _made(out)})
        except OSError as problem:
            raise UserError(
                f"cannot write to {out} ({problem.strerror}); expected a writable place with room, set out="
            ) from problem
        yield


def begin(out: Path, stage: str, goes_on: bool = False) -> Path:
    """The stage's own folder, made and claimed; what an interrupted start of it left elsewhere is removed, unless the
    stage goes on with it.

    A folder in the way that no run made is a UserError.
    """
    made = _made(out)
    for kind in KINDS:
        path = out / kind / stage
        if os.path.lexists(path) and (f"{kind}/{stage}" not in made or path.is_symlink()):
            raise UserError(
                f"got {path}, which this run did not make; expected nothing there: move it away, or rename the stage"
            )
    write_json(out / CLAIM, {"made": sorted({*made, *(f"{kind}/{stage}" for kind in KINDS)})})
    if not goes_on:
        withdraw(out, stage)
    folder = out / "stages" / stage
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_shared(out: Path, owner: str | None) -> None:
    """A UserError where this process does not see the folder that the first process holds; `owner` is what that one sees."""
    own = held_by(out)
    if own is None or own != owner:
        raise UserError(
            f"{out} on {socket.gethostname()} is not the folder that the first process works in; expected one that all "
            "machines share: set out= to a folder of a shared file system"
        )


def held_by(out: Path) -> str | None:
    """What the lock of a run's folder says; None where there is none."""
    try:
        with _opened(out / LOCK) as lock:
            return os.pread(lock, _LONGEST, 0).decode("utf-8", "replace")
    except OSError:
        return None


def in_use(out: Path) -> bool:
    """Whether a process that still lives works in a run's folder, by its lock, which is only looked at."""
    try:
        with _opened(out / LOCK) as lock:
            owner, last_sign = _owner(lock), os.fstat(lock).st_mtime
    except OSError:
        return False
    return owner is not None and _lives(owner, last_sign, None)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A lock's descriptor to read from: of one that this process holds its own, since closing another would free the lock."""
    for own in _own:
        if os.path.samestat(os.fstat(own), path.stat()):
            yield own
            return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def withdraw(out: Path, stage: str) -> None:
    """Remove the half-made outputs of a claimed stage; its own folder, with metrics and checkpoints, stays."""
    made = _made(out)
    for kind in KINDS:
        if kind != "stages" and f"{kind}/{stage}" in made and (out / kind / stage).is_dir():
            shutil.rmtree(out / kind / stage)


def _made(out: Path) -> list[str]:
    """The stages' folders that the claim lists."""
    path = out / CLAIM
    if not path.is_file():
        return []
    try:
        made = read_json(path)["made"]
        if not all(isinstance(name, str) for name in made):
            raise TypeError
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(
            f"got {path}, which cannot be read; expected the list of what a run made here, without which nothing may "
            "be replaced: restore it, or set out= to another folder"
        ) from problem
    return made


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Own `.lock`. The system frees a dead owner's lock; where it keeps none, signs of life decide."""
    path = out / LOCK
    descriptor = _acquire(path)
    _own.append(descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, (json.dumps(_self()) + "\n").encode(), 0)
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(BEAT_S):
            os.utime(descriptor)

    pulse = threading.Thread(target=beat, name="lock of the run's folder", daemon=True)
    pulse.start()
    try:
        yield
    finally:
        stopped.set()
        pulse.join()
        path.unlink(missing_ok=True)
        _own.remove(descriptor)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            is_locked = _lock(descriptor)
            owner = _owner(descriptor)
            if is_locked is False or (owner and _lives(owner, os.fstat(descriptor).st_mtime, is_locked)):
                raise UserError(
                    f"{path.parent} is in use by {_shown(owner)}; expected one run per folder: wait for it or stop it, or "
                    "set out= to another folder"
                )
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner removed it meanwhile: try the new one


def _lock(descriptor: int) -> bool | None:
    """Whether the lock was free, and is ours now; None where the file system knows no locks."""
    try:
        # of the process, not of the open file: children that outlive us don't hold it
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno in _NO_LOCKS:
            return None
        if problem.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    return True


def _self() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _owner(descriptor: int) -> dict[str, Any] | None:
    """Who wrote the lock; None where nobody has yet, or a kill tore the line."""
    try:
        owner = json.loads(os.pread(descriptor, _LONGEST, 0))
        return {"host": str(owner["host"]), "pid": int(owner["pid"]), "since": str(owner["since"])}
    except (ValueError, KeyError, TypeError):
        return None


def _lives(owner: dict[str, Any], last_sign: float, is_locked: bool | None) -> bool:
    """Whether an owner may still work although its lock could be taken: on another machine, or without locks."""
    if owner["host"] != socket.gethostname():
        return time.time() - last_sign < SILENT_S
    if is_locked or owner["pid"] == os.getpid():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return time.time() - last_sign < SILENT_S  # else the number is another process's by now


def _shown(owner: dict[str, Any] | None) -> str:
    if owner is None:
        return "another run"
    return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
