"""Turns to run: as many as the host has cores, over all processes of this user (ranks, trainers).

Without this, eight ranks with a pool each would start eight times as many children as there are
cores, and honest programs would meet their time limits.
"""

import fcntl
import os
import tempfile
import threading
import time

_WAIT_S = 0.001


class Turns:
    """Lock files, one per core; a turn is a lock. Where no file can be had, everyone has a turn."""

    def __init__(self, count: int | None = None, folder: str | None = None):
        self.count = count or os.cpu_count() or 1
        self.folder = folder or os.path.join(tempfile.gettempdir(), f"reasoner-turns-{os.getuid()}")
        self._files: list[int] | None = None
        self._pid = 0
        self._busy: set[int] = set()
        self._lock = threading.Lock()

    def take(self) -> int:
        """Wait for a turn; give it back with `give`. -1 where the host cannot count turns."""
        while True:
            with self._lock:
                files = self._opened()
                if not files:
                    return -1
                for number, fd in enumerate(files):
                    if number not in self._busy and _try_lock(fd):
                        self._busy.add(number)
                        return number
            time.sleep(_WAIT_S)

    def give(self, number: int) -> None:
        """Let the next one have the turn."""
        with self._lock:
            if self._files and number in self._busy:
                fcntl.flock(self._files[number], fcntl.LOCK_UN)
                self._busy.discard(number)

    def _opened(self) -> list[int]:
        """The lock files; [] where they cannot be had now."""
        # A lock belongs to the open file, which a fork shares: a child opens its own.
        if self._files is None or self._pid != os.getpid():
            self._pid, self._busy = os.getpid(), set()
            self._files = None
            try:
                os.makedirs(self.folder, mode=0o700, exist_ok=True)
                if os.lstat(self.folder).st_uid != os.getuid():
                    raise OSError("the folder is another user's")
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._files = [os.open(f"{self.folder}/{n}", flags, 0o600) for n in range(self.count)]
            except OSError:
                return []  # the next one tries again: room may come back
        return self._files


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
