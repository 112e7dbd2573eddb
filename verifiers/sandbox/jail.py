"""A slot's surroundings, set up once: namespaces, a root of its own, the box.

What could be had is reported, not assumed: `enter` returns the names of the layers that stand, and
the probe suite finds out whether they hold.
"""

import os
import sys
import sysconfig
from dataclasses import dataclass, field

from verifiers.sandbox import linux

BOX = "/box"
_BOX_OPTIONS = "size=32m,nr_inodes=2000,mode=0700"
_STAGES = ("/tmp", "/var/tmp", "/mnt", "/media", "/srv", "/home", "/opt")
_DEVICES = ("null", "zero", "urandom", "random", "full")


@dataclass
class Jail:
    """What stands around a slot. box: its writable folder, None where there is none."""

    layers: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    box: str | None = None
    uid: int | None = None  # the child's uid; None: keep our own
    own_pids: int = -1  # descriptor of the slot's own pid namespace
    proc: int = -1  # descriptor of a /proc folder from outside
    _fresh: tuple = ()

    def reset_box(self) -> None:
        """An empty box for the next child, at no cost where the last one left it untouched.

        A lazy unmount forgets any tree in constant time, however deep; deleting could be attacked.
        """
        if self.box is None or self._untouched(self.box):
            return
        linux.unmount(self.box)
        self.mount_box(self.box)

    def mount_box(self, box: str) -> None:
        """Mount an empty tmpfs that belongs to the child."""
        options = _BOX_OPTIONS + (f",uid={self.uid},gid={self.uid}" if self.uid is not None else "")
        linux.mount("box", box, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)
        self.box, self._fresh = box, self._state(box)

    def _state(self, box: str) -> tuple:
        found = os.stat(box)
        return (found.st_ctime_ns, found.st_mtime_ns, found.st_mode, found.st_nlink, found.st_uid)

    def _untouched(self, box: str) -> bool:
        return self._state(box) == self._fresh and not os.listdir(box)


def enter(uid: int, visible: list[str]) -> Jail:
    """Put the calling process, its only thread, behind all the walls that can be had.

    visible: files and folders to be seen inside, read-only, beside what the interpreter needs.

    As root, children run as `uid`; as another user, inside a user namespace. The process that
    returns is the first of its own pid namespace; the one that called waits for it and ends with it.
    """
    jail = Jail()
    linux.die_with_parent()
    jail.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    root = os.geteuid() == 0
    outer = (os.geteuid(), os.getegid())
    kinds = (
        linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
    )
    try:
        linux.unshare(kinds | linux.CLONE_NEWCGROUP | (0 if root else linux.CLONE_NEWUSER))
    except OSError as problem:
        jail.problems.append(f"namespaces: {problem}")
        jail.uid = uid if root else None
        return jail
    if not root:
        _map_user(*outer)
    _continue_as_child()
    jail.own_pids = os.open(f"/proc/{_pid_outside()}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    jail.layers += ["pid", "net", "ipc", "uts"] + ([] if root else ["user"])
    if root:
        jail.uid = uid
        jail.layers.append("uid")
    try:
        _own_root(jail, visible)
        jail.layers.append("mount")
    except OSError as problem:
        jail.problems.append(f"mount: {problem}")
        jail.box = None
    linux.drop_bounding_set()
    return jail


def _map_user(uid: int, gid: int) -> None:
    with open("/proc/self/setgroups", "w") as file:
        file.write("deny")
    with open("/proc/self/gid_map", "w") as file:
        file.write(f"{gid} {gid} 1")
    with open("/proc/self/uid_map", "w") as file:
        file.write(f"{uid} {uid} 1")


def _pid_outside() -> int:
    """Our pid as the /proc from outside numbers it; getpid() says 1."""
    return int(os.readlink("/proc/self"))


def _continue_as_child() -> None:
    """Fork: the child lives in the new pid namespace and goes on, the parent waits and ends."""
    child = os.fork()
    if child == 0:
        linux.die_with_parent()
        return
    linux.close_from(0, 2)
    linux.close_from(3)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def visible_paths(more: list[str] | tuple[str, ...] = ()) -> list[str]:
    """What the interpreter needs to import from: standard library, packages, shared objects; and `more`."""
    paths = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    # Packages only: a script's folder on sys.path may hold anything.
    paths |= {path for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
    paths |= {os.path.join(sys.base_prefix, "lib")}
    paths |= {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"}
    paths |= set(more)
    kept: list[str] = []
    for path in sorted(os.path.realpath(path) for path in paths if os.path.exists(path)):
        if path != "/" and not any(path == other or path.startswith(other + "/") for other in kept):
            kept.append(path)
    return kept


def _own_root(jail: Jail, more: list[str]) -> None:
    """A tmpfs as root that holds read-only binds of `_visible`, four devices and the box."""
    visible = visible_paths(more)
    stage = next(s for s in _STAGES if os.path.isdir(s) and not any(v.startswith(s + "/") for v in visible))
    linux.mount("none", "/", "none", linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("root", stage, "tmpfs", linux.MS_NOSUID, "size=1m,nr_inodes=500,mode=0755")
    for path in visible:
        if os.path.isdir(path):
            os.makedirs(stage + path, mode=0o755, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(stage + path), mode=0o755, exist_ok=True)
            with open(stage + path, "w"):
                pass
        linux.mount(path, stage + path, "none", linux.MS_BIND)
        _read_only(stage + path)
    for link in ("/lib", "/lib64"):
        if os.path.islink(link):
            os.symlink(os.readlink(link), stage + link)
    os.makedirs(stage + "/dev", exist_ok=True)
    for name in _DEVICES:
        with open(f"{stage}/dev/{name}", "w"):
            pass
        linux.mount(f"/dev/{name}", f"{stage}/dev/{name}", "none", linux.MS_BIND)
    os.makedirs(stage + BOX)
    os.makedirs(stage + "/tmp", mode=0o755, exist_ok=True)
    os.makedirs(stage + "/old")
    linux.pivot_root(stage, stage + "/old")
    os.chdir("/")
    linux.unmount("/old")
    os.rmdir("/old")
    linux.mount("root", "/", "none", linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID)
    jail.mount_box(BOX)


def _read_only(path: str) -> None:
    """Remount a bind read-only; flags that the source had are locked in a user namespace and stay."""
    had = os.statvfs(path).f_flag
    keep = (linux.MS_NOEXEC if had & os.ST_NOEXEC else 0) | (1024 if had & os.ST_NOATIME else 0)
    keep |= (1 << 21) if had & os.ST_RELATIME else 0
    flags = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | keep
    linux.mount("none", path, "none", linux.MS_REMOUNT | linux.MS_BIND | flags)
