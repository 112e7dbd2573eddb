"""Control groups of a slot, where the host lets us have some: memory and tasks of all its children together.

Resource limits bound each child alone; a group also bounds what several of them, their threads, the box and
the kernel on their behalf take. v1 has a tree per controller, v2 one for all. The host's side creates and
removes the groups, the slot enters them before it warms up, and its children are born there, at no cost.
"""

import contextlib
import itertools
import os
import re
import time
from dataclasses import dataclass

_MAX_TASKS = 256
_SPARE = 96 << 20  # the box, and what the kernel counts for the children beside their own memory
_PREFIX = "reasoner-slot-"
_COUNTERS = {"v1": "memory.oom_control", "v2": "memory.events"}  # both have a line "oom_kill N"
_numbers = itertools.count()


@dataclass(frozen=True)
class Place:
    """Where groups can be made: the folder, and the files' names there ("" where that tree lacks them)."""

    version: str
    parent: str
    limit: str
    usage: str
    tasks: str


def places(proc: str = "/proc/self") -> list[Place]:
    """Folders of this process's own groups in which it may make others; [] where there are none.

    proc: the folder that tells of the process's groups and mounts.
    """
    mounts = _mounts(f"{proc}/mounts")
    found: list[Place] = []
    for line in _lines(f"{proc}/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in ("memory", "pids") if controllers else ("",):
            if controller not in controllers.split(",") or controller not in mounts:
                continue
            parent = _existing(mounts[controller], path)
            if controller == "memory":
                found.append(Place("v1", parent, "memory.limit_in_bytes", "memory.usage_in_bytes", ""))
            elif controller == "pids":
                found.append(Place("v1", parent, "", "", "pids.max"))
            else:
                # A v2 group with processes in it has no children of its own: ours are its siblings.
                for folder in (parent, os.path.dirname(parent)):
                    given = " ".join(_lines(f"{folder}/cgroup.subtree_control")).split()
                    if "memory" in given and "pids" in given:
                        found.append(Place("v2", folder, "memory.max", "memory.current", "pids.max"))
                        break
    return [place for place in found if os.access(place.parent, os.W_OK)]


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def _mounts(path: str) -> dict[str, str]:
    """controller → mount point; "" is v2's."""
    found: dict[str, str] = {}
    for line in _lines(path):
        _, folder, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found.setdefault("", folder)
        elif kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, folder)
    return found


def _existing(mount: str, path: str) -> str:
    """The group's folder; the mount's root where the path is one of the host's, unseen from a container."""
    folder = mount + path.rstrip("/")
    return folder if os.path.isdir(folder) else mount


@dataclass
class Made:
    """The groups made for one slot: (place, folder)."""

    groups: list[tuple[Place, str]]

    def for_slot(self) -> list[dict]:
        """What the slot needs to enter and to bound itself."""
        return [
            {"version": place.version, "procs": f"{folder}/cgroup.procs"}
            | (
                {"limit": f"{folder}/{place.limit}", "usage": f"{folder}/{place.usage}"}
                if place.limit
                else {}
            )
            for place, folder in self.groups
        ]

    def remove(self, seconds: float = 1.0) -> None:
        """Remove the groups once the kernel has buried the last of their processes."""
        deadline = time.monotonic() + seconds
        for _, folder in self.groups:
            while True:
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.005)
                else:
                    break
        self.groups = []


def make(found: list[Place] | None = None) -> Made:
    """New groups for a slot in the places found (by default places()); none where the host gives none.

    Removes what killed trainers left behind.
    """
    made = Made([])
    name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
    for place in places() if found is None else found:
        folder = f"{place.parent}/{name}"
        try:
            _remove_stale(place.parent)
            os.mkdir(folder, 0o755)
            made.groups.append((place, folder))
            if place.tasks:
                with open(f"{folder}/{place.tasks}", "w") as file:
                    file.write(str(_MAX_TASKS))
        except OSError:
            made.remove(0)
            return made
    return made


def _remove_stale(parent: str) -> None:
    for entry in os.listdir(parent):
        match = re.fullmatch(rf"{_PREFIX}(\d+)-\d+", entry)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            with contextlib.suppress(OSError):  # a group with processes in it stays
                os.rmdir(f"{parent}/{entry}")


class Entered:
    """In the slot: descriptors of its memory group's files, which are out of sight behind the walls."""

    def __init__(self, groups: list[dict]):
        """Enter the groups. Raises OSError."""
        self._limit = self._usage = self._events = -1
        self._bound = self._killed = 0
        self.version = groups[0]["version"]
        for group in groups:
            with open(group["procs"], "w") as file:
                file.write("0")
            if "limit" in group:
                self._limit = os.open(group["limit"], os.O_WRONLY | os.O_CLOEXEC)
                self._usage = os.open(group["usage"], os.O_RDONLY | os.O_CLOEXEC)
                with contextlib.suppress(OSError):
                    counters = f"{os.path.dirname(group['limit'])}/{_COUNTERS[group['version']]}"
                    self._events = os.open(counters, os.O_RDONLY | os.O_CLOEXEC)
        self._own = 0

    def settle(self) -> None:
        """Take what the warm interpreter uses as its own; children come on top."""
        if self._usage >= 0:
            self._own = int(os.pread(self._usage, 50, 0))

    def bound(self, memory: int) -> None:
        """Bound the slot and its children to `memory` bytes beyond the warm interpreter."""
        if self._limit >= 0 and memory != self._bound:
            os.pwrite(self._limit, str(self._own + memory + _SPARE).encode(), 0)
            self._bound = memory

    def ran_out(self) -> bool:
        """Has the kernel killed a process of the group for want of memory since this was last asked?"""
        if self._events < 0:
            return False
        lines = os.pread(self._events, 1000, 0).decode().splitlines()
        counted = next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), self._killed)
        before, self._killed = self._killed, counted
        return counted > before
