"""A slot: a warm interpreter behind its walls that forks a child per request.

Started by verifiers.sandbox.pool as a fresh interpreter with an empty environment; speaks
verifiers.sandbox.frames over the socket on descriptor 0. It never runs a candidate's code itself.
"""

import atexit
import gc
import importlib
import os
import secrets
import site
import sys
from dataclasses import dataclass, field

# All of the project that a child needs: behind the walls its folder cannot be seen any more.
from verifiers.sandbox import cgroups, children, frames, jail, linux, serve, syscalls

_WARM = {
    "bare": "abc array ast bisect cmath collections copy dataclasses datetime decimal enum fractions "
    "functools hashlib heapq io itertools json math operator queue random re select selectors socket "
    "statistics string struct textwrap threading time traceback typing unicodedata",
    "science": "numpy sympy",
    "puzzles": "numpy sympy verifiers.gym_scores",
    "smt": "z3 verifiers.proof.smt_worker",
    "math": "sympy latex2sympy2_extended verifiers.symbolic",
}
_FIRST_FREE_FD = 10


@dataclass
class Setup:
    """What every child of this slot inherits."""

    jail: object
    ruleset: int = -1
    seccomp: object = None
    seccomp_exec: object = None  # for a child that becomes another program
    groups: cgroups.Entered | None = None
    address_space: int = 0
    first_private_fd: int = 4
    layers: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def main(configuration: dict) -> None:
    """Set up, say what stands or what failed, serve until the socket closes."""
    # Low descriptors are the child's: ours start above.
    control = _high(os.dup(0))
    try:
        setup = _set_up(configuration)
    except Exception as problem:
        frames.write(
            control, frames.pack({"ready": False, "problem": f"{type(problem).__name__}: {problem}"})
        )
        return
    frames.write(control, frames.pack({"ready": True, "layers": setup.layers, "problems": setup.problems}))
    serve.requests(control, setup)


def _set_up(configuration: dict) -> Setup:
    """Filter, warm imports, walls, streams; in this order, as each needs what the next takes away."""
    os.close(os.pidfd_open(os.getpid()))  # children are watched by it; without it none can be judged
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(_FIRST_FREE_FD):
        if fd != 2:
            os.dup2(null, fd)
    program = becoming = groups = None
    problems = []
    try:
        groups = cgroups.Entered(configuration["groups"]) if configuration["groups"] else None
    except OSError as problem:
        problems.append(f"cgroup: {problem}")
    if "seccomp" not in configuration["without"]:
        try:
            program = linux.SeccompProgram(syscalls.compile_filter())
            if configuration["visible"]:
                becoming = linux.SeccompProgram(syscalls.compile_filter(may_exec=True))
        except (ImportError, OSError, ValueError) as problem:
            problems.append(f"seccomp: {problem}")
    _warm(configuration["warm"])
    sys.path[:] = [path for path in sys.path if path not in configuration["hidden"]]
    if "namespaces" in configuration["without"]:
        walls = jail.Jail(uid=configuration["uid"] if os.geteuid() == 0 else None)
        linux.die_with_parent()
        walls.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    else:
        walls = jail.enter(configuration["uid"], configuration["visible"])
    setup = Setup(
        walls,
        seccomp=program,
        seccomp_exec=becoming,
        layers=list(walls.layers),
        problems=problems + walls.problems,
    )
    setup.layers += ["seccomp"] if program else []
    if groups is not None:
        setup.groups = groups
        setup.layers.append(f"cgroup {groups.version}")
    if "landlock" not in configuration["without"]:
        serve.set_ruleset(setup)
    statm = os.open("self/statm", os.O_RDONLY, dir_fd=walls.proc)
    setup.address_space = int(os.pread(statm, 200, 0).split()[0]) * os.sysconf("SC_PAGE_SIZE")
    os.close(statm)
    children.open_streams()
    if groups is not None:
        groups.settle()
    os.environ.clear()
    atexit._clear()  # a child runs its program's exit functions, not ours
    gc.collect()
    gc.freeze()
    return setup


def _high(fd: int) -> int:
    import fcntl

    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD + 10)
    os.close(fd)
    return high


def _warm(name: str) -> None:
    """Import, and use once, what children would else pay for each time."""
    for module in _WARM["bare"].split() + _WARM[name].split():
        importlib.import_module(module)
    site.setquit()  # exit() and quit(), which programs call; we start without site's paths
    if name == "science":
        import numpy
        import sympy

        x = sympy.Symbol("x")
        sympy.simplify((x**2 - 1) / (x - 1))
        sympy.solve(x**2 - 2, x)
        sympy.integrate(x**2, x)
        numpy.linalg.inv(numpy.eye(2))
    elif name == "puzzles":
        importlib.import_module("verifiers.gym_scores").warm_up()
    elif name == "math":
        importlib.import_module("verifiers.symbolic").warm_up()
    exec(compile("sorted(str(i) for i in range(3))", "warm", "exec"), {})
    secrets.token_bytes(16)
