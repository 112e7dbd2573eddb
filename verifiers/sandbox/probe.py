"""What this machine really isolates: attacks of our own through the real path, and the tier they earn.

The observed result counts, not the presence of a system call. Tiers, best first: "A" everything;
"B" no namespaces; "B-landlock" namespaces without Landlock; "C" seccomp alone; "none".
"""

import os
import tempfile
from dataclasses import dataclass

from verifiers.sandbox.limits import Limits, Outcome

TIERS = ("A", "B", "B-landlock", "C", "none")
_TRIES = 3  # a machine too busy to run a probe says nothing about its walls
_LIMITS = Limits(cpu_s=0.15, wall_s=5.0, memory=128 << 20, stdout=100_000)

# Each program prints "held" where the wall held. {secret}, {folder}, {pid} are the host's.
_PROGRAMS = {
    "no_fork": "import os\ntry: os.fork()\nexcept OSError: print('held')",
    "no_exec": "import os\ntry: os.execv('/bin/true', ['true'])\nexcept OSError: print('held')",
    "no_socket": "import socket\ntry: socket.socket()\nexcept OSError: print('held')",
    "no_reading_outside": "try: open({secret!r}).read()\nexcept OSError: print('held')",
    "no_writing_outside": "try: open({folder!r} + '/x', 'w')\nexcept OSError: print('held')",
    "no_signalling": "import os\ntry: os.kill({pid}, 0)\nexcept OSError: print('held')",
    "no_raised_limits": (
        "import resource as r\nh = r.getrlimit(r.RLIMIT_AS)[1]\n"
        "try: r.setrlimit(r.RLIMIT_AS, (h + 1, h + 1))\nexcept (OSError, ValueError): print('held')"
    ),
    "no_root": (
        "import os\ntry: os.setuid(0)\nexcept OSError: print('held')\n"
        "else: print('held' * (os.getuid() != 0))"
    ),
    "no_environment": "import os\nprint('held' * (not os.environ))",
    "namespaces": ("import os\ntry: os.stat({folder!r})\nexcept OSError: print('held' * (os.getpid() == 1))"),
    "landlock": "try: open('/dev/full', 'w')\nexcept OSError: print('held')",
    "box": "open('/box/x', 'w').write('1')\nprint('held' * (open('/box/x').read() == '1'))",
}
_ENDINGS = {
    "seccomp": ("import ctypes\nctypes.CDLL(None).ptrace(0, 0, 0, 0)", "security"),
    "memory_bounded": ("x = bytearray(1 << 30)", "memory_limit"),
    "time_bounded": ("while True: pass", "time_limit"),
    "output_bounded": ("while True: print('x' * 10000)", "output_limit"),
}
# Without these nothing may run at all, whatever else stands.
_ESSENTIAL = (
    "no_fork", "no_exec", "no_socket", "no_reading_outside", "no_writing_outside", "no_signalling",
    "no_raised_limits", "no_root", "no_environment", "memory_bounded", "time_bounded", "output_bounded",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Isolation:
    """The tier, and what each probe found: name → held."""

    tier: str
    held: dict[str, bool]


def probe(slot) -> Isolation:
    """Run the probes on a slot. Raises SlotFailed."""
    held = {}
    with tempfile.TemporaryDirectory(prefix="reasoner-probe-") as folder:
        os.chmod(folder, 0o777)
        secret = os.path.join(folder, "secret")
        with open(secret, "w") as file:
            file.write("secret")
        os.chmod(secret, 0o644)
        for name, program in _PROGRAMS.items():
            text = program.format(secret=secret, folder=folder, pid=os.getpid())
            outcome = _run(slot, text)
            held[name] = outcome.ending == "done" and outcome.stdout == b"held\n"
    for name, (program, ending) in _ENDINGS.items():
        held[name] = _run(slot, program).ending == ending
    return Isolation(_tier(held), held)


def _run(slot, program: str) -> Outcome:
    for _ in range(_TRIES):
        outcome = slot.run({"kind": "program", "limits": _LIMITS.as_dict()}, program.encode(), b"")
        if outcome.ending != "starved":
            break
    return outcome


def _tier(held: dict[str, bool]) -> str:
    if not held["seccomp"]:
        return "none"
    if not held["namespaces"] and not held["landlock"]:
        return "C" if held["no_fork"] and held["time_bounded"] else "none"
    if not all(held[name] for name in _ESSENTIAL):
        return "none"
    if held["namespaces"]:
        return "A" if held["landlock"] else "B-landlock"
    return "B"


def at_least(tier: str, minimum: str) -> bool:
    """Is `tier` as good as `minimum`? Raises ValueError for a tier that does not exist."""
    for name in (tier, minimum):
        if name not in TIERS:
            raise ValueError(f"isolation tier {name!r}, expected one of {', '.join(TIERS)}")
    return TIERS.index(tier) <= TIERS.index(minimum)
