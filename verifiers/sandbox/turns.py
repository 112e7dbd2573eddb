"""Turns to run: as many as the host has cores, over all processes of this user (ranks, trainers).

Without this, eight ranks with a pool each would start eight times as many children as there are
cores, and honest programs would meet their time limits. A turn is a lease: the lock of a file, which the kernel
takes back from the dead, for as long as its owner moves. That of an owner that was stopped (SIGSTOP, a debugger),
or that holds it longer than it said, counts as free: the next one takes the spare lock of the same turn.
"""

import contextlib
import fcntl
import os
import tempfile
import threading
import time

_WAIT_S = 0.001
_PATIENCE_S = 0.25  # of waiting, before it is asked what the owners do
_SPARES = 8


class Turns:
    """Lock files, one per core; a turn is a lock. Where no file can be had, everyone has a turn."""

    def __init__(self, count: int | None = None, folder: str | None = None):
        self.count = count or os.cpu_count() or 1
        self.folder = folder or os.path.join(tempfile.gettempdir(), f"reasoner-turns-{os.getuid()}")
        self._files: list[int] | None = None
        self._pid = 0
        self._busy: dict[int, int] = {}  # turn → descriptor of the lock that is held
        self._lock = threading.Lock()

    def take(self, seconds: float = 600.0) -> int:
        """Wait for a turn that is wanted for so long at most; give it back with `give`. -1 where the host cannot
        count turns."""
        started = time.monotonic()
        while True:
            with self._lock:
                files = self._opened()
                if not files:
                    return -1
                look = time.monotonic() - started > _PATIENCE_S
                for number, fd in enumerate(files):
                    held = None if number in self._busy else self._held(number, fd, look)
                    if held is not None:
                        self._busy[number] = held
                        _sign(held, seconds)
                        return number
                if look:
                    started = time.monotonic()
            time.sleep(_WAIT_S)

    def give(self, number: int) -> None:
        """Let the next one have the turn."""
        with self._lock:
            fd = self._busy.pop(number, None)
            if fd is None:
                return
            if self._files and fd in self._files:
                fcntl.flock(fd, fcntl.LOCK_UN)
            else:
                os.close(fd)  # a spare one

    def _held(self, number: int, fd: int, look: bool) -> int | None:
        """The descriptor of the turn's lock, now ours, or of its first spare one whose forerunners all rest."""
        if _try_lock(fd):
            return fd
        if not look or not _rests(fd):
            return None
        for spare in range(1, _SPARES):
            try:
                other = os.open(f"{self.folder}/{number}.{spare}", _FLAGS, 0o600)
            except OSError:
                return None
            if _try_lock(other):
                return other
            rests = _rests(other)
            os.close(other)
            if not rests:
                return None
        return None

    def _opened(self) -> list[int]:
        """The lock files; [] where they cannot be had now."""
        # A lock belongs to the open file, which a fork shares: a child opens its own.
        if self._files is None or self._pid != os.getpid():
            self._pid, self._busy = os.getpid(), {}
            self._files = None
            try:
                os.makedirs(self.folder, mode=0o700, exist_ok=True)
                if os.lstat(self.folder).st_uid != os.getuid():
                    raise OSError("the folder is another user's")
                self._files = [os.open(f"{self.folder}/{n}", _FLAGS, 0o600) for n in range(self.count)]
            except OSError:
                return []  # the next one tries again: room may come back
        return self._files


_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sign(fd: int, seconds: float) -> None:
    """Write into a lock that is ours who holds it, since when that process lives, and until when the lease runs."""
    _, born = _state(os.getpid())
    with contextlib.suppress(OSError):  # a full disk: the lock itself still holds
        os.pwrite(fd, f"{os.getpid()} {born} {time.monotonic() + seconds:.3f}".encode().ljust(64), 0)


def _rests(fd: int) -> bool:
    """Is the owner of a lock stopped, or past its time? False where nothing tells."""
    try:
        pid, born, until = os.pread(fd, 64, 0).split()
        if time.monotonic() > float(until):
            return True
        state, since = _state(int(pid))
        return since == int(born) and state in "Tt"
    except (OSError, ValueError):
        return False


def _state(pid: int) -> tuple[str, int]:
    """(state, time of birth in clock ticks) of a process, as /proc tells it; ("", 0) where it does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return "", 0
