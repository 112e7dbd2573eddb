"""What our side fails at is never the candidate's fault: failures are injected for real, in processes of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from verifiers import verify
from verifiers.sandbox import cgroups, pool
from verifiers.sandbox.limits import Limits

ROOT = Path(__file__).resolve().parents[2]
_JUDGE = """
import json, os, resource, sys, tempfile
from pathlib import Path
from reasoner.registry import UserError
from reasoner.scoring.outcome import judge
from reasoner.tree import Node, Problem, Tree
from verifiers import lookup, verify
lookup("code"), lookup("logic")
REFERENCES = {
    "stdin": ("print(42)", {"inputs": [""], "outputs": ["42"]}),
    "call": ("def f(x): return x + 1", {"inputs": [[1]], "outputs": [2], "entry_point": "f"}),
    "asserts": ("def f(x): return x + 1", {"asserts": ["assert f(1) == 2"]}),
}
def run(kind):
    program, reference = REFERENCES[kind]
    tree = Tree.of_prompt(Problem("p", "", "code", reference), [0])
    for _ in range(16): tree.add(Node(0, 1, (1,), step_ends=(0,)))
    try:
        judge([tree], lambda ids: program)
    except UserError as problem:
        message = str(problem)
    else:
        message = ""
    print(json.dumps([sorted(v.status for v in tree.verdicts.values()), message]), flush=True)
"""


def judged(script: str, *arguments: str) -> list[tuple[list[str], str]]:
    """(statuses, message of the stop) of each `run` in a fresh process, over 16 answers that are all right."""
    done = subprocess.run(
        [sys.executable, "-c", _JUDGE + script, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


KINDS = ("stdin", "call", "asserts")


def _stopped(found, reason: str) -> None:
    assert all(set(statuses) == {"error"} for statuses, _ in found), found
    for _, message in found:
        assert re.search(r"failed twice on \d+ of 16 responses", message) and reason in message, message


def test_right_answers_are_right_where_the_machine_is_well():
    assert judged("".join(f"run({kind!r})\n" for kind in KINDS)) == [(["correct"] * 16, "")] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a folder read-only")
def test_a_temporary_folder_that_is_read_only_stops_the_run(tmp_path):
    script = (
        "from verifiers.sandbox import linux\nlinux.unshare(linux.CLONE_NEWNS)\n"
        "linux.mount('none', '/', 'none', linux.MS_REC | linux.MS_PRIVATE)\n"
        "folder = tempfile.tempdir = sys.argv[1]\n"
        "linux.mount('disk', folder, 'tmpfs', linux.MS_RDONLY)\n"
        "assert not os.access(folder, os.W_OK)\nrun('asserts')\n"
    )
    _stopped(judged(script, str(tmp_path)), "Read-only file system")


def test_too_few_descriptors_stop_the_run():
    script = (
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\nheld = []\n"
        "try:\n    while True: held.append(os.dup(1))\nexcept OSError: pass\nos.close(held.pop())\n"
    )
    _stopped(judged(script + "run('stdin')\nrun('asserts')\n"), "Too many open files")


@pytest.mark.parametrize("limit", [9, *(pytest.param(n, marks=pytest.mark.slow) for n in (12, 20))])
def test_few_descriptors_never_make_a_right_answer_wrong(limit):
    script = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
    for statuses, message in judged(script + "run('asserts')\n"):
        assert statuses == ["correct"] * 16 or (set(statuses) == {"error"} and message), (statuses, message)


def test_too_little_isolation_stops_the_run():
    script = (
        "from verifiers.sandbox import pool\n"
        "pool._pools['bare'] = pool.Pool('bare', 1, without=('namespaces', 'landlock'))\nrun('stdin')\n"
    )
    _stopped(judged(script), "isolation is tier C, expected at least B")


def _without_call(name: str) -> str:
    """Makes the kernel answer ENOSYS to a call, in this process and all that it starts."""
    return (
        "import errno, pyseccomp\nfrom verifiers.sandbox import linux\nlinux.no_new_privileges()\n"
        "rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)\n"
        f"rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), {name!r})\nrules.load()\n"
    )


def test_a_kernel_without_pidfd_open_stops_the_run():
    script = _without_call("pidfd_open") + (
        "try: os.pidfd_open(os.getpid())\nexcept OSError as problem: assert problem.errno == errno.ENOSYS\n"
        "else: raise AssertionError('the call is still there')\n"
    )
    _stopped(judged(script + "run('stdin')\n"), "cannot be set up: OSError: [Errno 38]")


@pytest.mark.parametrize(
    "call",
    [
        *("capset", "prlimit64", "setrlimit", "close_range"),
        *(pytest.param(call, marks=pytest.mark.slow) for call in ("setresuid", "setgroups")),
    ],
)
def test_walls_that_cannot_be_put_up_are_never_the_candidates_fault(call):
    for statuses, message in judged(_without_call(call) + "run('stdin')\n"):
        assert statuses == ["correct"] * 16 or (set(statuses) == {"error"} and message), (statuses, message)


_KILL_SLOTS = """
import os, signal, sys
from pathlib import Path
family = Path(f"/proc/{os.getppid()}/task")
print("ready", flush=True)
while True:
    for task in family.iterdir():
        try:
            for child in (task / "children").read_text().split():
                if int(child) != os.getpid() and b"sandbox.slot" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)
                    print("killed", flush=True)
        except OSError:
            pass
"""


def test_slots_that_die_stop_the_run():
    script = (
        "import subprocess\n"
        "killer = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE)\n"
        "killer.stdout.readline()\n"
        "try: run('stdin')\nfinally: killer.kill()\nassert b'killed' in killer.stdout.read()\n"
    )
    [(statuses, message)] = judged(script, _KILL_SLOTS)
    # one that came back between two kills may be right; none that a kill ended is wrong
    assert set(statuses) <= {"correct", "error"}, statuses
    if statuses.count("error") / 16 >= 0.2:
        assert "the slot" in message, message
    else:
        assert not message, message


def test_a_sandbox_that_judges_all_alike_has_no_opinion(monkeypatch):
    # Every child dies before its walls stand, as on a machine that has no memory left for one.
    script = (
        "from verifiers.sandbox import pool\n"
        "pool._START = pool._START.replace('main(c)', 'import verifiers.sandbox.children as C; "
        "C.lock_down = lambda limits, setup: 1 / 0; main(c)')\n"
        "pool.isolation_of = lambda slot: pool.Isolation('A', {})\nrun('asserts')\n"
    )
    _stopped(judged(script), "walls could not be put up: sandbox: ZeroDivisionError")


# --- kills from outside ---


@pytest.fixture
def slot():
    one = pool.Slot("bare")
    yield one
    one.end()


def _children_of(slot: pool.Slot) -> list[int]:
    outer = slot.process.pid
    inner = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0]
    return [int(child) for child in Path(f"/proc/{inner}/task/{inner}/children").read_text().split()]


def _kill_children(slot: pool.Slot, which: slice) -> list[int]:
    """SIGKILL to the slot's children, once there are any; returns whom it met."""
    met: list[int] = []

    def work() -> None:
        deadline = time.monotonic() + 10
        while not met and time.monotonic() < deadline:
            for child in _children_of(slot)[which]:
                time.sleep(0.1)  # its walls stand by now
                os.kill(child, signal.SIGKILL)
                met.append(child)

    thread = threading.Thread(target=work)
    thread.start()
    met_thread.append(thread)
    return met


met_thread: list[threading.Thread] = []
LIMITS = Limits(cpu_s=20, wall_s=20).as_dict()
SLEEP = b"import time\ntime.sleep(15)"
REQUESTS = {
    "program": ({"kind": "program"}, (SLEEP, b"")),
    "call": ({"kind": "call", "entry": "f"}, (b"import time\ndef f(): time.sleep(15)", b"[]")),
    "tests": (
        {"kind": "suite", "entries": ["f"]},
        (b"import time\ndef f(): time.sleep(15)", b"", b"assert f()"),
    ),
}


@pytest.mark.parametrize("which", [slice(0, 1), slice(1, 2)], ids=["the first child", "the second"])
@pytest.mark.parametrize("kind", REQUESTS)
def test_a_kill_from_outside_is_nobodys_answer(slot, kind, which):
    if kind != "tests" and which.start:
        pytest.skip("it has one child")
    header, blobs = REQUESTS[kind]
    met = _kill_children(slot, which)
    with pytest.raises(pool.SlotFailed, match="killed from outside"):
        slot.run({**header, "limits": LIMITS}, *blobs)
    met_thread.pop().join()
    assert met
    assert slot.run({"kind": "program", "limits": LIMITS}, b"print(42)", b"").stdout == b"42\n"


def test_a_kill_for_want_of_memory_is_the_candidates(slot):
    folder = next((f for place, f in slot._groups.groups if place.limit), None)
    if folder is None:
        pytest.skip("this machine gives no memory control group")
    place = next(p for p in cgroups.places() if p.limit)
    roomy = {"limits": Limits(cpu_s=10, wall_s=20, memory=1 << 30).as_dict()}
    slot.run({"kind": "program", **roomy}, b"print(42)", b"")
    used = int(Path(folder, place.usage).read_text())
    grow = b"x = bytearray(400 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nprint(42)\n"
    for kind, code, tests in (("program", grow, b""), ("suite", grow + b"def f(): pass", b"assert f()")):
        header = {"kind": kind, "entries": ["f"], **roomy}
        slot.run(header, b"def f(): return 1", b"", *([tests] if kind == "suite" else []))
        Path(folder, place.limit).write_text(str(used + (64 << 20)))  # the group alone can stop it now
        outcome = slot.run(header, code, b"", *([tests] if kind == "suite" else []))
        assert outcome.ending == "memory_limit", (kind, outcome)


def test_algebra_that_is_killed_from_outside_is_no_answer():
    reference = {"answer": r"\sin^2 x + \cos^2 x + \ln 3"}
    response = r"\boxed{1+\ln 3}"
    assert verify("math", response, reference).status == "correct"
    slot = pool.shared_pool("math")._idle[-1]  # which is asked next
    (server,) = _children_of(slot)
    os.kill(server, signal.SIGKILL)
    assert verify("math", response, reference).status == "correct"  # asked again of another child


def test_an_environment_behind_a_link_judges_as_one_without(tmp_path):
    """What algebra imports when it is first asked lies behind the link too, which the sandbox's own root does not have."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    link = tmp_path / "site-packages"
    link.symlink_to(packages)
    told = "from verifiers import verify; print(verify('math', 'max(6, 15)', {'answer': '15', 'worked_out': False}).status)"
    start = f"import sys; sys.path = [p for p in sys.path if p != {packages!r}] + [{str(ROOT)!r}, {str(link)!r}]; {told}"
    found = subprocess.run([sys.executable, "-S", "-c", start], capture_output=True, text=True, timeout=60)
    assert (found.stdout.strip(), found.stderr) == ("correct", "")
