"""A machine of the cluster for one server: starts it, watches it, and takes it along when it ends.

Nothing here knows of Ray. The server ends with this process, and that with the driver or the placement group.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reasoner.cluster.worker import enter
from reasoner.engine.servers import Here


@dataclass(frozen=True)
class Seat:
    """Where who is placed finds the run: the folder that paths start from, the run's own, and what its lock says."""

    folder: str
    out: Path
    owner: str | None


class HostActor:
    """One server on this machine, whose address `address_of()` tells."""

    def __init__(self, seat: Seat, address_of: Callable[[], str]):
        self._seat, self._address_of = seat, address_of

    def enter(self) -> str:
        """The address that the server will listen at; a UserError where this machine does not share the run's folder."""
        enter(self._seat.folder, self._seat.out, self._seat.owner)
        self._here = Here(0, address=self._address_of())
        return self._here.address

    def free_port(self) -> int:
        return self._here.free_port()

    def start(self, arguments: list[str], extra: dict[str, str], log: Path) -> int:
        """Start the server, on the GPUs that this process was given; its process number."""
        self._process = self._here.start(arguments, extra, log)
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """How it ended, within so many seconds; None while it runs."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self) -> None:
        self._here.terminate(self._process)

    def reap(self) -> None:
        self._here.reap(self._process)
