"""The kernel calls that Python 3.11 lacks, through ctypes: namespaces, mounts, Landlock, capabilities.

Every function raises OSError with the call's name. Sources: the man pages of the calls named, and
Documentation/userspace-api/landlock.rst of the kernel.
"""

import ctypes
import os
import platform
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522

# Landlock's numbers are the same on every architecture; pivot_root's and capset's are not.
_SYS_LANDLOCK_CREATE, _SYS_LANDLOCK_ADD, _SYS_LANDLOCK_RESTRICT = 444, 445, 446
_SYS_PIVOT_ROOT, _SYS_CAPSET, _SYS_CLOSE_RANGE = {
    "x86_64": (155, 126, 436),
    "aarch64": (41, 91, 436),
}.get(platform.machine(), (-1, -1, -1))

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int, name: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def _syscall(name: str, number: int, *arguments) -> int:
    if number < 0:
        raise OSError(38, f"{name}: no call number known for {platform.machine()}")
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *converted), name)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode() or None
    )
    _checked(result, f"mount {target}")


def unmount(target: str) -> None:
    """umount2(2), lazily: what is still open stays readable to who holds it."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    _syscall("pivot_root", _SYS_PIVOT_ROOT, ctypes.c_char_p(new.encode()), ctypes.c_char_p(old.encode()))


def die_with_parent() -> None:
    """SIGKILL for this process when its parent's thread ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl pdeathsig")


def first_to_be_killed(proc: int) -> None:
    """Where memory runs out, the kernel takes this process before others. proc: descriptor of a /proc."""
    fd = os.open("self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    os.write(fd, b"1000")
    os.close(fd)


def set_dumpable(dumpable: bool) -> None:
    """Undumpable processes have no core and a /proc entry that only root may read."""
    _checked(_libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0), "prctl dumpable")


def no_new_privileges() -> None:
    """No exec can gain privileges from here on."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl no_new_privs")


def drop_bounding_set() -> None:
    """Empty the bounding set: what is dropped can never be had again, not by any exec."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # past the kernel's last capability, or without the right to drop


def drop_capabilities() -> None:
    """Empty effective, permitted, inheritable and ambient sets of the calling thread."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _syscall("capset", _SYS_CAPSET, ctypes.c_char_p(header), ctypes.c_char_p(bytes(24)))
    _libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)


def close_from(first: int, last: int = 0x7FFFFFFF) -> None:
    """Close every descriptor from `first` to `last`."""
    _syscall("close_range", _SYS_CLOSE_RANGE, first, last, 0)


class SeccompProgram:
    """An exported BPF program, laid out once; `load` is then one system call."""

    def __init__(self, code: bytes):
        self._code = ctypes.create_string_buffer(code, len(code))
        self._header = ctypes.create_string_buffer(
            struct.pack("@HxxxxxxP", len(code) // 8, ctypes.addressof(self._code))
        )

    def load(self) -> None:
        """Install the filter on the calling thread; no_new_privileges() comes before."""
        result = _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(self._header), 0, 0)
        _checked(result, "prctl seccomp")


def landlock_abi() -> int:
    """The kernel's Landlock version, 0 where there is none."""
    try:
        return _syscall("landlock", _SYS_LANDLOCK_CREATE, ctypes.c_void_p(None), 0, 1)
    except OSError:
        return 0


_EXECUTE = 1 << 0
_READ = (1 << 2) | (1 << 3)  # read file, read directory
# Write, remove dir and file, make dir and regular file; from ABI 2 rename across, from 3 truncate.
_WRITE = (1 << 1) | (1 << 4) | (1 << 5) | (1 << 7) | (1 << 8)
_WRITE_DEVICE = 1 << 1


def landlock_ruleset(
    readable: list[str], writable: list[str], devices: list[str], programs: list[str] | tuple[str, ...] = ()
) -> int:
    """A ruleset's descriptor: everything is handled, hence denied, but what is named here.

    Raises OSError where the kernel has no Landlock. TCP is denied from ABI 4, signals to and
    abstract sockets of other processes from ABI 6.
    """
    abi = landlock_abi()
    if abi == 0:
        raise OSError(95, "landlock: not supported by this kernel")
    rights = (1 << 13) - 1 | (abi >= 2) << 13 | (abi >= 3) << 14 | (abi >= 5) << 15
    write = _WRITE | (abi >= 2) << 13 | (abi >= 3) << 14
    attributes = struct.pack("=QQQ", rights, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _syscall("landlock_create", _SYS_LANDLOCK_CREATE, ctypes.c_char_p(attributes[:size]), size, 0)
    for paths, allowed in (
        (readable, _READ),
        (writable, _READ | write),
        (devices, _READ & 4 | _WRITE_DEVICE),
        (programs, _READ & 4 | _EXECUTE),
    ):
        for path in paths:
            target = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                if not os.path.isdir(path):
                    allowed &= _EXECUTE | (1 << 1) | (1 << 2)
                rule = ctypes.c_char_p(struct.pack("=Qi", allowed & rights, target))
                _syscall("landlock_add_rule", _SYS_LANDLOCK_ADD, ruleset, 1, rule, 0)
            finally:
                os.close(target)
    return ruleset


def landlock_restrict(ruleset: int) -> None:
    """Restrict the calling thread to the ruleset; no_new_privileges() comes before."""
    _syscall("landlock_restrict", _SYS_LANDLOCK_RESTRICT, ruleset, 0)


_holding = ctypes.PyDLL(None, use_errno=True)


def fork() -> int:
    """fork(2) without Python's after-fork hooks, whose page faults cost more than the fork.

    For a process of one thread only: no lock can be held by anyone else, and the child keeps the
    parent's random state, so that equal programs draw equal numbers.
    """
    return _checked(_holding.fork(), "fork")
